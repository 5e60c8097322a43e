"""Training an SAE: BatchTopK (arXiv 2412.06410) with AuxK (arXiv 2406.04093) against dead features."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from sae.errors import FeaturebrushError, unknown
from sae.metrics import feature_stats
from sae.model import SAE, SAEConfig, Site
from sae.sparse import decode, encode_at, largest_positive

Centre = Literal["mean", "geometric_median"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Refuses illegal values with `FeaturebrushError`, before anything is computed."""

    n_features: int
    """Number F of features."""
    k: int
    """Features active per position on average: 1..F."""
    block: str = ""
    """The block whose activations are given, written into the SAE."""
    site: Site = "update"
    """What the activations are, written into the SAE."""
    steps: int = 3000
    """Optimiser steps."""
    batch: int = 4096
    """Vectors per step, where training draws them from a tensor; an iterator's batches are taken as they come."""
    lr: float = 3e-3
    """Peak learning rate of Adam."""
    warmup: float = 0.02
    """Share of the steps over which the learning rate rises from 0, linearly."""
    decay: float = 0.25
    """Share of the steps, at the end, over which the learning rate falls to 0, linearly."""
    clip: float = 1.0
    """Largest norm of the gradient, over all parameters together."""
    dead_after: int = 250_000
    """A feature that fired in none of this many vectors counts as dead."""
    aux_k: int | None = None
    """Dead features, per vector, that AuxK makes explain the residual; half of d if not given."""
    aux_weight: float = 1 / 32
    """Weight of AuxK's loss, as in 2406.04093; 0 turns it off."""
    threshold_memory: float = 0.99
    """Weight of the past in the running mean of the smallest kept activation, which becomes the threshold."""
    centre: Centre = "geometric_median"
    """Where ``b_dec`` begins, of the first vectors."""
    seed: int = 0
    """Of the initial weights and the order of the vectors."""
    device: str = "cpu"
    """Where to compute."""
    report_every: int = 100
    """Steps between two calls of the progress callback; it is also called after the last."""

    def __post_init__(self) -> None:
        SAEConfig(1, self.n_features, self.k, self.block, self.site)
        for name, least in {"steps": 1, "batch": 1, "dead_after": 1, "report_every": 1, "seed": 0}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise FeaturebrushError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if self.aux_k is not None and (type(self.aux_k) is not int or self.aux_k < 1):
            raise FeaturebrushError(f"aux_k must be None or a whole number of at least 1, not {self.aux_k!r}")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise FeaturebrushError(f"{name} must be above 0, not {getattr(self, name)!r}")
        if not 0 <= self.aux_weight < float("inf"):
            raise FeaturebrushError(f"aux_weight must be 0 or more, not {self.aux_weight!r}")
        for name in ("warmup", "decay", "threshold_memory"):
            if not 0 <= getattr(self, name) <= 1:
                raise FeaturebrushError(f"{name} must be from 0 to 1, not {getattr(self, name)!r}")
        if self.warmup + self.decay > 1:
            raise FeaturebrushError(f"warmup {self.warmup} and decay {self.decay} must not exceed 1 together")
        if self.threshold_memory == 1:
            raise FeaturebrushError("threshold_memory must be below 1: at 1 the first batch alone would set it")
        if self.centre not in get_args(Centre):
            raise unknown("centre", self.centre, get_args(Centre))
        try:
            torch.device(self.device)
        except RuntimeError:
            raise FeaturebrushError(f"{self.device!r} is no device: write 'cpu', 'cuda' or 'cuda:1'") from None

    def lr_at(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        rise = (step + 1) / max(1.0, self.warmup * self.steps)
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.lr * min(1.0, rise, fall)


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
    """In units of the normalised activations."""
    lr: float
    vectors_per_second: float
    """Since the last call, the making of the batches included."""


class Weights(NamedTuple):
    """The trained tensors, in units of the normalised activations; shapes as in `SAE`."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor


STATISTICS_ROWS = 65536
"""Vectors, the last seen in training, on which the statistics of the features are measured at the end."""


def train(
    data: Tensor | Iterable[Tensor], cfg: TrainConfig, progress: Callable[[Progress], object] | None = None
) -> SAE:
    """Train an SAE on ``data``: a tensor ``[N, d]``, drawn from in shuffled epochs, or batches ``[n, d]``.

    Each batch of n vectors keeps its n·k largest activations; exactly, without a full sort
    (`sae.sparse.largest_positive`). The loss is the squared error plus ``aux_weight`` times AuxK's. Vectors are
    centred for the scale and divided by their root mean square while training; `unscaled` folds that back. Statistics
    of the features (mean, density, quantiles) are measured on the last vectors seen; measure them again with
    `sae.metrics.feature_stats` on held-out ones where it matters.

    Deterministic on one machine for one seed and number of threads; the global random state is neither read nor
    changed. If the batches end before ``cfg.steps``, training ends there, with the learning rate where it was.

    Raises `FeaturebrushError` for data that is empty, of a wrong shape, not finite, or all equal.
    """
    generator = torch.Generator().manual_seed(cfg.seed)
    batches = _checked(_drawn(data, cfg, generator) if isinstance(data, Tensor) else iter(data), cfg)
    first = next(batches, None)
    if first is None:
        raise FeaturebrushError("there is nothing to train on: give at least one batch of vectors [n, d]")
    centre = geometric_median(first) if cfg.centre == "geometric_median" else first.mean(0)
    scale = (first - first.mean(0)).square().mean().sqrt().item()
    if scale < 1e-12:
        raise FeaturebrushError("the vectors are all equal: there is nothing that an SAE could learn")

    weights = _initial(cfg, centre / scale, generator)
    optimiser = torch.optim.Adam(weights, lr=cfg.lr, fused=True)
    since_fired = torch.zeros(cfg.n_features, dtype=torch.int64, device=first.device)
    smallest, threshold = 0.0, None
    recent: deque[Tensor] = deque()
    seen = reported = 0
    clock = time.perf_counter()
    upcoming = chain([first], batches)
    for step, batch in enumerate(islice(upcoming, cfg.steps)):
        dead = since_fired >= cfg.dead_after
        result = _losses(weights, batch / scale, cfg, dead, smallest)
        optimiser.zero_grad()
        (result.loss + cfg.aux_weight * result.aux_loss).backward()
        _drop_parallel(weights.W_dec)
        torch.nn.utils.clip_grad_norm_(weights, cfg.clip)
        optimiser.param_groups[0]["lr"] = lr = cfg.lr_at(step)
        optimiser.step()
        with torch.no_grad():
            weights.W_dec.copy_(F.normalize(weights.W_dec, dim=1))

        since_fired = torch.where(result.fired > 0, 0, since_fired + len(batch))
        memory = 0.0 if threshold is None else cfg.threshold_memory
        smallest = result.smallest
        threshold = memory * (threshold or 0.0) + (1 - memory) * smallest
        seen += len(batch)
        recent.append(batch)
        while sum(map(len, recent)) - len(recent[0]) >= STATISTICS_ROWS:
            recent.popleft()
        if progress and ((step + 1) % cfg.report_every == 0 or step + 1 == cfg.steps):
            now = time.perf_counter()
            progress(
                Progress(
                    step=step + 1,
                    steps=cfg.steps,
                    vectors=seen,
                    loss=result.loss.item(),
                    aux_loss=result.aux_loss.item(),
                    l0=result.fired.sum().item() / len(batch),
                    dead=int((since_fired >= cfg.dead_after).sum()),
                    threshold=threshold,
                    lr=lr,
                    vectors_per_second=(seen - reported) / max(now - clock, 1e-9),
                )
            )
            clock, reported = now, seen

    shape = SAEConfig(first.shape[1], cfg.n_features, cfg.k, cfg.block, cfg.site)
    tensors = {**weights._asdict(), "threshold": torch.tensor(max(threshold or 0.0, 0.0))}
    sae = unscaled(SAE(shape, tensors), scale).to(first.device)
    return sae.with_statistics(*feature_stats(sae, recent)[:3])


def unscaled(sae: SAE, scale: float) -> SAE:
    """The SAE for activations ``scale`` times as large: ``unscaled(sae, s)(s · u) = s · sae(u)``, codes alike.

    Biases, threshold and statistics of the values are multiplied; the directions stay.
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


def _drawn(data: Tensor, cfg: TrainConfig, generator: torch.Generator) -> Iterator[Tensor]:
    if data.dim() != 2 or len(data) == 0:
        raise FeaturebrushError(f"the data has the shape {list(data.shape)}: expected [N, d] with N of at least 1")
    size = min(cfg.batch, len(data))
    while True:
        order = torch.randperm(len(data), generator=generator).to(data.device)
        for start in range(0, len(data) - size + 1, size):
            yield data[order[start : start + size]]


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


def _initial(cfg: TrainConfig, centre: Tensor, generator: torch.Generator) -> Weights:
    directions = F.normalize(torch.randn(cfg.n_features, len(centre), generator=generator), dim=1).to(centre.device)
    zeros = torch.zeros(cfg.n_features, device=centre.device)
    tensors = (directions, zeros, directions.clone(), centre.clone())
    return Weights(*(tensor.requires_grad_() for tensor in tensors))


class _Losses(NamedTuple):
    loss: Tensor
    aux_loss: Tensor
    smallest: float
    fired: Tensor


def _losses(weights: Weights, x: Tensor, cfg: TrainConfig, dead: Tensor, guess: float) -> _Losses:
    """The two losses of ``x [n, d]``; ``dead [F]`` says which features AuxK wakes."""
    W_enc, b_enc, W_dec, b_dec = weights
    with torch.no_grad():
        a = torch.addmm(b_enc - W_enc @ b_dec, x, W_enc.T)
        kept, smallest = largest_positive(a, len(x) * cfg.k, guess)
    values, support = encode_at(a, x, W_enc, b_enc, b_dec, kept)
    error = x - decode(values, W_dec, support) - b_dec
    loss = error.square().mean()
    aux_loss = loss.new_zeros(())
    if cfg.aux_weight > 0 and bool(dead.any()):
        aux_loss = _aux_k(weights, x, error.detach(), dead, cfg.aux_k or max(1, x.shape[1] // 2))
    return _Losses(loss, aux_loss, smallest, support.fired)


def _aux_k(weights: Weights, x: Tensor, residual: Tensor, dead: Tensor, aux_k: int) -> Tensor:
    """AuxK (2406.04093, A.2): the dead features with the largest activations reconstruct the residual, without bias.

    Dense over the dead features only, of which there are few.
    """
    W_enc, b_enc, W_dec, b_dec = weights
    a = F.linear(x - b_dec, W_enc[dead], b_enc[dead])
    if a.shape[1] > aux_k:
        least = a.detach().topk(aux_k, dim=1, sorted=False).values.amin(1, keepdim=True)
        a = a * (a.detach() >= least)
    explained = a.relu() @ W_dec[dead]
    return (residual - explained).square().sum() / residual.square().sum().clamp(min=1e-12)


def _drop_parallel(W_dec: Tensor) -> None:
    """Take from the gradient what would only change the length of the unit rows (2406.04093, A.1)."""
    if W_dec.grad is not None:
        with torch.no_grad():
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
