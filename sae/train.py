"""Training SAEs: one or several side by side from one stream of activations, on one process or many."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sae.config import TrainConfig
from sae.devices import usable
from sae.errors import FeaturebrushError
from sae.files import write_atomically
from sae.metrics import feature_stats
from sae.model import SAE, SAEConfig
from sae.processes import Alone, Processes
from sae.rules import initial, losses, start_thresholds

Batches = Callable[[int], Iterable[Tensor]]
"""Gives the stream of batches ``[n, d]`` from any step on."""

STATISTICS_ROWS = 65536
"""Vectors, the last seen in training, on which the statistics of the features are measured at the end."""


class Progress(NamedTuple):
    """How training goes, as the callback is told. Losses are of the step's own batch."""

    step: int
    """Steps done."""
    steps: int
    vectors: int
    """Vectors seen."""
    loss: float
    """Mean squared error of the normalised vectors, whose variance is about 1: about the share left unexplained."""
    aux_loss: float
    """AuxK's loss before its weight: share of the residual that dead features do not explain; 0 if none is dead."""
    l0: float
    """Active features per vector."""
    dead: int
    """Dead features."""
    threshold: float
    """In units of the normalised activations; jumprelu's is the mean over features."""
    lr: float
    vectors_per_second: float
    """Since the last call, the making of the batches included."""
    sae: int = 0
    """Which of the SAEs that are trained side by side."""


class Trainer:
    """One SAE in training. The stream's first batch sets its centre and scale, then `step` takes every batch."""

    def __init__(self, cfg: TrainConfig, first: Tensor, processes: Processes | None = None) -> None:
        """``first [n, d]``, on the device, is the whole first batch, on every process the same."""
        self.cfg = cfg
        self.processes = processes or Alone()
        centre = geometric_median(first) if cfg.centre == "geometric_median" else first.mean(0)
        self.scale = (first - first.mean(0)).square().mean().sqrt().item()
        if self.scale < 1e-12:
            raise FeaturebrushError("the vectors are all equal: there is nothing that an SAE could learn")
        generator = torch.Generator().manual_seed(cfg.seed)
        self.weights = initial(cfg, centre / self.scale, generator)
        if cfg.architecture == "jumprelu":
            start_thresholds(self.weights, first / self.scale, cfg.k)
        self.optimiser = torch.optim.Adam([w for w in self.weights if w.numel()], lr=cfg.lr, fused=True)
        self.steps = self.seen = 0
        self._since_fired = torch.zeros(cfg.n_features, dtype=torch.int64, device=first.device)
        self._smallest = 0.0
        self._threshold: float | None = None
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def step(self, batch: Tensor) -> None:
        """Learn from ``batch [n, d]``; where there are several processes, each works on its part of it."""
        cfg, weights = self.cfg, self.weights
        part = batch.tensor_split(self.processes.count)[self.processes.rank] / self.scale
        dead = self._since_fired >= cfg.dead_after
        result = losses(weights, part, cfg, dead, self._smallest, len(batch), self.processes)
        self.optimiser.zero_grad()
        (result.objective + cfg.aux_weight * result.aux_loss).backward()
        self._add_gradients()
        _drop_parallel(weights.W_dec)
        torch.nn.utils.clip_grad_norm_([w for w in weights if w.numel()], cfg.clip)
        self.optimiser.param_groups[0]["lr"] = cfg.lr_at(self.steps)
        self.optimiser.step()
        with torch.no_grad():
            weights.W_dec.copy_(F.normalize(weights.W_dec, dim=1))

        fired = self.processes.sum(result.fired)
        self._since_fired = torch.where(fired > 0, 0, self._since_fired + len(batch))
        memory = 0.0 if self._threshold is None else cfg.threshold_memory
        self._smallest = result.smallest
        self._threshold = memory * (self._threshold or 0.0) + (1 - memory) * result.smallest
        self._last = (result.error, result.aux_loss.detach(), fired.sum() / len(batch))
        self.steps += 1
        self.seen += len(batch)

    def _add_gradients(self) -> None:
        if self.processes.count == 1:
            return
        wanted = [w for w in self.weights if w.grad is not None and w.numel()]
        flat = self.processes.sum(torch.cat([w.grad.flatten() for w in wanted if w.grad is not None]))
        for w, grad in zip(wanted, flat.split([w.numel() for w in wanted]), strict=True):
            w.grad = grad.view_as(w)

    def progress(self, vectors_per_second: float, sae: int = 0) -> Progress:
        """How it goes, after at least one step; every process must ask, and gets the same."""
        assert self._last is not None
        error, aux_loss, l0 = self._last
        return Progress(
            step=self.steps,
            steps=self.cfg.steps,
            vectors=self.seen,
            loss=self.processes.sum(error).item(),
            aux_loss=self.processes.sum(aux_loss).item(),
            l0=l0.item(),
            dead=int((self._since_fired >= self.cfg.dead_after).sum()),
            threshold=self.threshold.mean().item(),
            lr=self.cfg.lr_at(self.steps - 1),
            vectors_per_second=vectors_per_second,
            sae=sae,
        )

    @property
    def threshold(self) -> Tensor:
        """What an activation must exceed, in units of the normalised activations: ``[F]`` for jumprelu, else ``[]``."""
        match self.cfg.architecture:
            case "jumprelu":
                return self.weights.log_threshold.detach().exp()
            case "topk":
                return torch.zeros(())
            case _:
                return torch.tensor(max(self._threshold or 0.0, 0.0))

    def sae(self) -> SAE:
        """The SAE as trained so far, in the activations' own units, its statistics not measured."""
        cfg, tensors = self.cfg, self.weights._asdict()
        del tensors["log_threshold"]
        prefixes = cfg.nested if cfg.architecture == "matryoshka" else ()
        shape = SAEConfig(
            tensors["W_enc"].shape[1], cfg.n_features, cfg.k, cfg.block, cfg.site, cfg.architecture, prefixes
        )
        device = tensors["W_enc"].device
        return unscaled(SAE(shape, {**tensors, "threshold": self.threshold}), self.scale).to(device)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later step depends on."""
        return {
            "weights": {name: w.detach() for name, w in self.weights._asdict().items()},
            "optimiser": self.optimiser.state_dict(),
            "scale": self.scale,
            "steps": self.steps,
            "seen": self.seen,
            "since_fired": self._since_fired,
            "smallest": self._smallest,
            "threshold": self._threshold,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, w in self.weights._asdict().items():
            w.copy_(state["weights"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scale, self.steps, self.seen = state["scale"], state["steps"], state["seen"]
        self._since_fired = state["since_fired"].to(self._since_fired)
        self._smallest, self._threshold = state["smallest"], state["threshold"]


def train(
    data: Tensor | Iterable[Tensor] | Batches,
    cfg: TrainConfig,
    progress: Callable[[Progress], object] | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    processes: Processes | None = None,
) -> SAE:
    """Train one SAE; see `train_many`."""
    return train_many(data, [cfg], progress, checkpoint, checkpoint_every, processes)[0]


def train_many(
    data: Tensor | Iterable[Tensor] | Batches,
    cfgs: Sequence[TrainConfig],
    progress: Callable[[Progress], object] | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    processes: Processes | None = None,
) -> list[SAE]:
    """Train several SAEs side by side on one stream of ``data``, in which the first configuration's batch size,
    seed, steps and device count.

    ``data`` is a tensor ``[N, d]``, drawn from in shuffled epochs; batches ``[n, d]``; or a function that gives the
    batches from any step on. Vectors are divided by their root mean square deviation while training; `unscaled` folds
    that back. Statistics of the features (mean, density, quantiles) are measured on the last vectors seen; measure
    them again with `sae.metrics.feature_stats` on held-out ones where it matters.

    With ``checkpoint``, a file is written there every ``checkpoint_every`` steps, and if it is there at the start,
    training goes on from it: the weights at the end are those of an unbroken run. Batches that are only an iterable
    are drawn again from the first and skipped. With several ``processes`` each must be given the same data; each
    computes its part of every batch, and the weights stay the same on all.

    Deterministic on one machine for one seed and number of threads; the global random state is neither read nor
    changed. If the batches end before ``steps``, training ends there, with the learning rate where it was.

    Raises `FeaturebrushError` for data that is empty, of a wrong shape, not finite, or all equal, and for a checkpoint
    of other settings.
    """
    if not cfgs:
        raise FeaturebrushError("there is nothing to train: give at least one TrainConfig")
    if type(checkpoint_every) is not int or checkpoint_every < 1:
        raise FeaturebrushError(f"checkpoint_every must be a whole number of at least 1, not {checkpoint_every!r}")
    usable(cfgs[0].device)
    processes = processes or Alone()
    main = cfgs[0]
    for cfg in cfgs:
        if (cfg.steps, cfg.device) != (main.steps, main.device):
            raise FeaturebrushError(
                f"SAEs trained side by side share their stream: steps {cfg.steps} on {cfg.device!r} beside "
                f"{main.steps} on {main.device!r}"
            )
    first = next(_checked(_from(data, main, 0), main), None) if not isinstance(data, Iterator) else None
    stream: Iterator[Tensor]
    if isinstance(data, Iterator):
        stream = _checked(data, main)
        first = next(stream, None)
    if first is None:
        raise FeaturebrushError("there is nothing to train on: give at least one batch of vectors [n, d]")
    trainers = [Trainer(cfg, first, processes) for cfg in cfgs]
    recent: deque[Tensor] = deque()
    done = _restore(checkpoint, cfgs, trainers, recent)
    if isinstance(data, Iterator):
        stream = islice(_after(first, stream), done, None)
    else:
        stream = _checked(_from(data, main, done), main)

    clock, reported = time.perf_counter(), trainers[0].seen
    for step, batch in enumerate(islice(stream, main.steps - done), start=done + 1):
        for trainer in trainers:
            trainer.step(batch)
        recent.append(batch)
        while sum(map(len, recent)) - len(recent[0]) >= STATISTICS_ROWS:
            recent.popleft()
        if progress and (step % main.report_every == 0 or step == main.steps):
            now = time.perf_counter()
            rate = (trainers[0].seen - reported) / max(now - clock, 1e-9)
            for i, trainer in enumerate(trainers):
                progress(trainer.progress(rate, i))
            clock, reported = now, trainers[0].seen
        if checkpoint and processes.rank == 0 and (step % checkpoint_every == 0 or step == main.steps):
            _save(checkpoint, cfgs, trainers, recent)
    saes = [trainer.sae() for trainer in trainers]
    return [sae.with_statistics(*feature_stats(sae, recent)[:3]) for sae in saes]


def unscaled(sae: SAE, scale: float) -> SAE:
    """The SAE for activations ``scale`` times as large: ``unscaled(sae, s)(s · u) = s · sae(u)``, codes alike.

    Biases, thresholds and statistics of the values are multiplied; the directions stay.
    """
    if not 0 < scale < float("inf"):
        raise FeaturebrushError(f"scale must be above 0, not {scale!r}")
    tensors = sae.tensors()
    for name in ("b_enc", "b_dec", "threshold", "mean", "quantiles"):
        tensors[name] = tensors[name] * scale
    return SAE(sae.cfg, tensors).to(sae.W_dec.device)


def geometric_median(x: Tensor, rounds: int = 32) -> Tensor:
    """The point ``[d]`` with the least sum of distances to the rows of ``x [n, d]`` (Weiszfeld's iteration)."""
    point = x.mean(0)
    for _ in range(rounds):
        weight = (x - point).norm(dim=1).clamp(min=1e-12).reciprocal()
        point = (weight @ x) / weight.sum()
    return point


def _after(first: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from rest


def _from(data: Tensor | Iterable[Tensor] | Batches, cfg: TrainConfig, start: int) -> Iterator[Tensor]:
    """The stream of batches from step ``start`` on."""
    if isinstance(data, Tensor):
        return _drawn(data, cfg, start)
    if callable(data):
        return iter(data(start))
    return islice(data, start, None)


def _drawn(data: Tensor, cfg: TrainConfig, start: int) -> Iterator[Tensor]:
    if data.dim() != 2 or len(data) == 0:
        raise FeaturebrushError(f"the data has the shape {list(data.shape)}: expected [N, d] with N of at least 1")
    size = min(cfg.batch, len(data))
    per_epoch = len(data) // size
    epoch, place = divmod(start, per_epoch)
    while True:
        generator = torch.Generator().manual_seed((cfg.seed << 20) + epoch)
        order = torch.randperm(len(data), generator=generator).to(data.device)
        for i in range(place, per_epoch):
            yield data[order[i * size : (i + 1) * size]]
        epoch, place = epoch + 1, 0


def _checked(batches: Iterator[Tensor], cfg: TrainConfig) -> Iterator[Tensor]:
    width = None
    for batch in batches:
        if batch.dim() != 2 or len(batch) == 0 or batch.shape[1] != (width or batch.shape[1]):
            raise FeaturebrushError(f"a batch has the shape {list(batch.shape)}: expected [n, {width or 'd'}]")
        width = batch.shape[1]
        batch = batch.detach().to(cfg.device, torch.float32)
        if not torch.isfinite(batch).all():
            raise FeaturebrushError("a batch holds values that are not finite numbers")
        yield batch


def _save(path: Path, cfgs: Sequence[TrainConfig], trainers: Sequence[Trainer], recent: Iterable[Tensor]) -> None:
    state = {
        "configs": [asdict(cfg) for cfg in cfgs],
        "trainers": [trainer.state_dict() for trainer in trainers],
        "recent": list(recent),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda beside: torch.save(state, beside))


def _restore(path: Path | None, cfgs: Sequence[TrainConfig], trainers: Sequence[Trainer], recent: deque[Tensor]) -> int:
    """Take up the checkpoint at ``path``, if there is one; the number of steps done."""
    if path is None or not path.exists():
        return 0
    device = cfgs[0].device
    state = torch.load(path, map_location=device, weights_only=True)
    known, wanted = [_told_apart(cfg) for cfg in state["configs"]], [_told_apart(asdict(cfg)) for cfg in cfgs]
    if known != wanted:
        names = sorted({name for a, b in zip(known, wanted, strict=False) for name in b if a.get(name) != b[name]})
        what = f"other {', '.join(names)}" if names else f"{len(known)} SAEs, not {len(wanted)}"
        raise FeaturebrushError(f"the checkpoint {path} is of a training with {what}: give those, or another file")
    for trainer, saved in zip(trainers, state["trainers"], strict=True):
        width, there = trainer.weights.b_dec.shape[0], saved["weights"]["b_dec"].shape[0]
        if width != there:
            raise FeaturebrushError(f"the checkpoint {path} is of vectors of width {there}, not {width}")
        trainer.load_state_dict(saved)
    recent.extend(state["recent"])
    return trainers[0].steps


def _told_apart(cfg: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration changes the weights: where they are computed, and what is reported, may differ."""
    return {name: value for name, value in cfg.items() if name not in ("device", "report_every")}


def _drop_parallel(W_dec: Tensor) -> None:
    """Take from the gradient what would only change the length of the unit rows (2406.04093, A.1)."""
    if W_dec.grad is not None:
        with torch.no_grad():
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
