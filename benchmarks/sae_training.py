"""Our training beside that of other libraries: speed and what is learnt, on the same vectors, in one process.

    python benchmarks/sae_training.py --rounds 3 --json runs/training.json

Every library trains a dictionary of the same width and k, for the same steps, on the same batches in the same order,
with the step of its own trainer and its own learning rate. dictionary_learning, sae-lens and eai-sparsify are compared
with where they can be imported; in an environment that has them, this repository's own requirements for training are
torch, numpy, accelerate and safetensors. Vectors are given raw. What each library does about their scale is its own
affair, and where it has an option for it, the option is used; see the functions.

Timed is the training alone, the drawing of the batches from memory included, after a short run to warm up. Quality is
measured by one function, on vectors that no library has seen, as each library encodes when it is used.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sae.config import Rule, TrainConfig
from sae.errors import FeaturebrushError
from sae.shards import ShardReader
from sae.train import Progress, train

WARM_UP_STEPS = 20
LEAST_STEPS = 10
"""Fewer leave no room for the others' schedules."""
SCALE_BATCHES = 100
"""Batches from which sae-lens estimates its scale."""
CHUNK = 8192
"""Vectors encoded at a time when measuring."""
TRUE_FEATURES_PER_CHANNEL = 8
TRUE_K = 12
NOISE = 0.05

Inference = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Codes ``[n, F]`` and reconstructions ``[n, d]`` of vectors ``[n, d]``."""


@dataclass(frozen=True)
class Job:
    """What every library is given."""

    vectors: Tensor
    """``[N, d]`` float32."""
    order: Tensor
    """``[steps, batch]`` int64: which vectors each step sees."""
    features: int
    k: int
    seed: int

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

    @property
    def steps(self) -> int:
        return self.order.shape[0]

    @property
    def batch(self) -> int:
        return self.order.shape[1]

    def batches(self, start: int = 0) -> Iterator[Tensor]:
        """The batches ``[batch, d]`` from step ``start`` on, each a copy."""
        for rows in self.order[start:]:
            yield self.vectors[rows]


class Outcome(NamedTuple):
    """A library's training."""

    seconds: float
    infer: Inference


def train_ours(job: Job, rule: Rule) -> Outcome:
    """`sae.train.train` by ``rule`` from the call to its report of the last step, the setting up included.

    What follows, the measuring of the features' statistics, is no training, and nothing that the others do.
    """
    cfg = TrainConfig(
        n_features=job.features,
        k=job.k,
        architecture=rule,
        steps=job.steps,
        batch=job.batch,
        seed=job.seed,
        report_every=job.steps,
    )
    ended = 0.0

    def note(_: Progress) -> None:
        nonlocal ended
        ended = time.perf_counter()

    begun = time.perf_counter()
    sae = train(job.batches, cfg, note)

    def infer(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = sae.encode(x)
        return codes, sae.decode(codes)

    return Outcome(ended - begun, infer)


def train_dictionary_learning(job: Job) -> Outcome:
    """``BatchTopKTrainer.update``, with vectors of unit mean square norm as ``trainSAE(normalize_activations=True)``.

    Its learning rate is the one it chooses by the width. Its defaults for warm-up (1000 steps), for the start of the
    threshold's mean (1000) and for that mean's memory (0.999) are made for long runs: shorter ones get the same in
    proportion, without which it would refuse to run or never set a threshold. The rate falls over the last fifth, an
    option of its own that is off by default, because ours falls as well.
    """
    library = import_module("dictionary_learning.trainers.batch_top_k")
    trainer = library.BatchTopKTrainer(
        steps=job.steps,
        activation_dim=job.width,
        dict_size=job.features,
        k=job.k,
        layer=0,
        lm_name="",
        warmup_steps=min(1000, job.steps // 10),
        decay_start=job.steps * 4 // 5,
        threshold_start_step=min(1000, job.steps // 2),
        threshold_beta=1 - max(0.001, 10 / job.steps),
        seed=job.seed,
        device="cpu",
    )
    norm = job.vectors.square().sum(1).mean().sqrt().item()
    begun = time.perf_counter()
    for step, batch in enumerate(job.batches()):
        trainer.update(step, batch.div_(norm))
    seconds = time.perf_counter() - begun
    trainer.ae.scale_biases(norm)

    def infer(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = trainer.ae.encode(x)
        return codes, trainer.ae.decode(codes)

    return Outcome(seconds, infer)


def train_sae_lens(job: Job) -> Outcome:
    """``SAETrainer.fit`` of a ``BatchTopKTrainingSAE`` with ``normalize_activations="expected_average_only_in"``.

    The scale is estimated before the clock starts. The rate falls over the last fifth, an option of its own that is off
    by default, because ours falls as well. It is used as its authors save it: a JumpReLU SAE with the threshold that
    training found.
    """
    library, config = import_module("sae_lens"), import_module("sae_lens.config")
    torch.manual_seed(job.seed)
    sae = library.BatchTopKTrainingSAE(
        library.BatchTopKTrainingSAEConfig(
            d_in=job.width,
            d_sae=job.features,
            k=job.k,
            normalize_activations="expected_average_only_in",
            device="cpu",
        )
    )
    cfg = config.SAETrainerConfig(
        total_training_samples=job.steps * job.batch,
        train_batch_size_samples=job.batch,
        lr_end=config.SAETrainerConfig.lr / 10,
        lr_decay_steps=job.steps // 5,
    )
    trainer = library.SAETrainer(cfg, sae, job.batches())
    # Its progress bars cannot be turned off.
    with redirect_stderr(io.StringIO()):
        scaler = trainer.activation_scaler
        scaler.estimate_scaling_factor(job.width, job.batches(), min(job.steps, SCALE_BATCHES))
        begun = time.perf_counter()
        trainer.fit()
        seconds = time.perf_counter() - begun
    with TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        frozen = library.SAE.load_from_disk(folder)

    def infer(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = frozen.encode(x)
        return codes, frozen.decode(codes)

    return Outcome(seconds, infer)


def train_sparsify(job: Job) -> Outcome:
    """A ``SparseCoder`` (top-k) with the step of ``Trainer.fit``, which itself can only read language models.

    Optimiser, learning rate, losses' weights and all else are its ``TrainConfig``'s defaults: sign descent, free of
    schedules, and no AuxK. Its loss is a share of the batch's variance, so it has no option for the scale.
    """
    library = import_module("sparsify")
    sign_descent = import_module("sparsify.sign_sgd").SignSGD
    schedule_free = import_module("schedulefree").ScheduleFreeWrapper
    torch.manual_seed(job.seed)
    cfg = library.TrainConfig(sae=library.SparseCoderConfig(num_latents=job.features, k=job.k))
    coder = library.SparseCoder(job.width, cfg.sae, "cpu", dtype=torch.float32)
    rate = cfg.lr or 5e-3 / (coder.num_latents / 2**14) ** 0.5
    optimiser = schedule_free(sign_descent([{"params": coder.parameters(), "lr": rate}]), momentum=0.95)
    optimiser.train()
    since_fired = torch.zeros(coder.num_latents, dtype=torch.long)
    fired = torch.zeros(coder.num_latents, dtype=torch.bool)

    def step(number: int, batch: Tensor) -> None:
        mean = batch.mean(0)
        if number == 0:
            coder.b_dec.data = mean.clone()
        coder.set_decoder_norm_to_unit_norm()
        dead = since_fired > cfg.dead_feature_threshold if cfg.auxk_alpha > 0 else None
        out = coder(batch, dead_mask=dead, total_variance=(batch - mean).pow(2).sum())
        fired[out.latent_indices.flatten()] = True
        (out.fvu + cfg.auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        since_fired.add_(len(batch))
        since_fired[fired] = 0
        fired.zero_()

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        begun = time.perf_counter()
        for number, batch in enumerate(job.batches()):
            step(number, batch)
        seconds = time.perf_counter() - begun
    finally:
        torch.set_float32_matmul_precision(precision)
    optimiser.eval()

    def infer(x: Tensor) -> tuple[Tensor, Tensor]:
        top = coder.encode(x)
        codes = x.new_zeros(len(x), coder.num_latents).scatter_(1, top.top_indices, top.top_acts)
        return codes, coder.decode(top.top_acts, top.top_indices)

    return Outcome(seconds, infer)


def load_dictionary_learning() -> None:
    """Import it; where nnsight is absent, which it needs only to read language models, a stand-in takes its place."""
    absent = find_spec("nnsight") is None
    if absent:
        stand_in = ModuleType("nnsight")
        vars(stand_in)["LanguageModel"] = object
        sys.modules["nnsight"] = stand_in
    try:
        import_module("dictionary_learning.trainers.batch_top_k")
    finally:
        if absent:
            del sys.modules["nnsight"]


def load_sae_lens() -> None:
    import_module("sae_lens")


def load_sparsify() -> None:
    import_module("sparsify")
    import_module("schedulefree")


class Library(NamedTuple):
    """Another library."""

    distribution: str
    rule: Rule
    """By which it is trained; it is compared with ours of the same."""
    load: Callable[[], None]
    train: Callable[[Job], Outcome]


OURS: dict[Rule, str] = {"batchtopk": "ours, batchtopk", "topk": "ours, topk"}
OTHERS = (
    Library("dictionary-learning", "batchtopk", load_dictionary_learning, train_dictionary_learning),
    Library("sae-lens", "batchtopk", load_sae_lens, train_sae_lens),
    Library("eai-sparsify", "topk", load_sparsify, train_sparsify),
)


class Result(NamedTuple):
    """One training, measured."""

    vectors_per_second: float
    fvu: float
    """``Σ|x − x̂|² / Σ|x − mean|²`` over the held-out vectors."""
    l0: float
    """Active features per held-out vector."""
    dead: float
    """Share of the features, 0..1, that are active in no held-out vector."""


@torch.no_grad()
def measured(outcome: Outcome, job: Job, held_out: Tensor) -> Result:
    """The result on ``held_out [n, d]``."""
    mean = held_out.double().mean(0)
    error, variance, active = 0.0, 0.0, 0
    fired = torch.zeros(job.features, dtype=torch.bool)
    for x in held_out.split(CHUNK):
        codes, reconstruction = outcome.infer(x)
        on = codes > 0
        error += (x.double() - reconstruction.double()).square().sum().item()
        variance += (x.double() - mean).square().sum().item()
        active += int(on.sum())
        fired |= on.any(0)
    rate = job.steps * job.batch / outcome.seconds
    return Result(rate, error / variance, active / len(held_out), 1 - fired.double().mean().item())


def true_directions(width: int, seed: int) -> Tensor:
    """Random unit vectors ``[F, width]``, of which `sparse_vectors` are made."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(TRUE_FEATURES_PER_CHANNEL * width, width, generator=generator), dim=1)


def sparse_vectors(directions: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``[count, d]`` float32: each a sum of `TRUE_K` of ``directions [F, d]``, times 0.5..1.5, and a little noise.

    Feature i is drawn with a weight of ``(i + 10)^-½``, so that some are much rarer than others.
    """
    weights = torch.arange(10, 10 + len(directions), dtype=torch.float32).rsqrt()
    parts = []
    for n in torch.arange(count).split(CHUNK):
        which = torch.multinomial(weights, len(n) * TRUE_K, replacement=True, generator=generator).view(-1, TRUE_K)
        codes = 0.5 + torch.rand(len(n), TRUE_K, generator=generator)
        clean = F.embedding_bag(which, directions, per_sample_weights=codes, mode="sum")
        parts.append(clean + NOISE * torch.randn(clean.shape, generator=generator))
    return torch.cat(parts)


def harvested(folder: Path, block: str, count: int | None) -> Tensor:
    """The first ``count`` vectors of ``block`` in a folder of shards, or all, ``[N, d]`` float32."""
    parts, held = [], 0
    for vectors, _ in ShardReader(folder).stored(block):
        parts.append(vectors)
        held += len(vectors)
        if count is not None and held >= count:
            break
    return torch.cat(parts)[:count]


def drawn(count: int, batch: int, steps: int, seed: int) -> Tensor:
    """Indices ``[steps, batch]`` of ``count`` vectors, in shuffled epochs."""
    per_epoch = count // batch
    generator = torch.Generator().manual_seed(seed)
    epochs = [
        torch.randperm(count, generator=generator)[: per_epoch * batch].view(per_epoch, batch)
        for _ in range(-(-steps // per_epoch))
    ]
    return torch.cat(epochs)[:steps]


def machine() -> dict[str, str | int]:
    """What this runs on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def loaded() -> tuple[list[Library], dict[str, str]]:
    """The other libraries that can be imported, and what kept the rest from it."""
    there, absent = [], {}
    for library in OTHERS:
        try:
            library.load()
        # Another package may fail to import in any way.
        except Exception as error:
            absent[library.distribution] = f"{type(error).__name__}: {error}"
        else:
            there.append(library)
    return there, absent


def run_rounds(
    trainings: dict[str, Callable[[Job], Outcome]], job: Job, held_out: Tensor, rounds: int
) -> dict[str, list[Result]]:
    """Train with each in turn, ``rounds`` times over, with another seed in each round."""
    results: dict[str, list[Result]] = {name: [] for name in trainings}
    for number in range(rounds):
        for name, training in trainings.items():
            gc.collect()
            own = replace(job, seed=job.seed + number)
            result = measured(training(own), own, held_out)
            results[name].append(result)
            print(f"round {number + 1} {row(name, result)}", flush=True)
    return results


def row(name: str, result: Result) -> str:
    rate = f"{result.vectors_per_second:>12,.0f} vectors/s"
    return f"{name:<20} {rate}  FVU {result.fvu:.4f}  L0 {result.l0:6.2f}  dead {result.dead:6.1%}"


def verdict(medians: dict[str, Result]) -> str:
    """Whether ours is at least as fast as each other library of the same rule, at no worse FVU."""
    lines = []
    for library in OTHERS:
        if library.distribution not in medians:
            continue
        other, ours = medians[library.distribution], medians[OURS[library.rule]]
        ratio = ours.vectors_per_second / other.vectors_per_second
        good = ratio >= 1 and ours.fvu <= other.fvu
        lines.append(
            f"{'YES' if good else 'NO'}: {OURS[library.rule]}, is {ratio:.2f}x {library.distribution}, at FVU "
            f"{ours.fvu:.4f} and L0 {ours.l0:.2f} against its {other.fvu:.4f} and {other.l0:.2f}"
        )
    return "\n".join(lines) or "no other library ran: there is nothing to compare with"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="shards of `python -m sae harvest`")
    parser.add_argument("--block", help="which of its blocks")
    parser.add_argument("--width", type=int, default=96, help="of synthetic vectors, without --data")
    parser.add_argument("--vectors", type=int, help="how many; by default 400000 synthetic ones, or all of --data")
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--k", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, help="by default what torch chooses")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")


def main() -> int:
    parser = argparse.ArgumentParser(description="Our training beside that of other libraries.")
    add_arguments(parser)
    options = parser.parse_args()
    if (options.data is None) != (options.block is None):
        parser.error("give --data and --block together, or neither")
    if options.steps < LEAST_STEPS or options.rounds < 1 or options.batch < 1:
        parser.error(f"give at least {LEAST_STEPS} steps, one round and a batch of one")

    there, absent = loaded()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if options.data is None:
            generator = torch.Generator().manual_seed(options.seed + 1)
            directions = true_directions(options.width, options.seed)
            vectors = sparse_vectors(directions, options.vectors or 400_000, generator)
        else:
            vectors = harvested(options.data, options.block, options.vectors)
    except FeaturebrushError as error:
        parser.error(str(error))
    held = max(1, len(vectors) // 10)
    training, held_out = vectors[:-held], vectors[-held:]
    if len(training) < options.batch:
        parser.error(f"{len(training)} vectors to train on are fewer than a batch of {options.batch}")
    order = drawn(len(training), options.batch, options.steps, options.seed)
    job = Job(training, order, options.features, options.k, options.seed)

    where = machine()
    versions = {library.distribution: metadata.version(library.distribution) for library in there}
    print(*(f"{name} {value}" for name, value in {**where, **versions}.items()), sep="\n")
    print(f"{len(training)} vectors of width {job.width}, {len(held_out)} held out; F {job.features}, k {job.k}")
    print(f"{job.steps} steps of {job.batch}, {options.rounds} rounds")

    trainings: dict[str, Callable[[Job], Outcome]] = {n: partial(train_ours, rule=rule) for rule, n in OURS.items()}
    warm_up = replace(job, order=order[:WARM_UP_STEPS])
    for ours in trainings.values():
        ours(warm_up)
    for library in there:
        try:
            measured(library.train(warm_up), warm_up, held_out[:CHUNK])
        # A version whose interface has changed is left out, and said to be.
        except Exception as error:
            traceback.print_exc()
            absent[library.distribution] = f"failed to train: {type(error).__name__}: {error}"
        else:
            trainings[library.distribution] = library.train
    for name, reason in absent.items():
        print(f"left out: {name} ({reason})")

    results = run_rounds(trainings, job, held_out, options.rounds)
    medians = {
        name: Result(*(statistics.median(column) for column in zip(*rows, strict=True)))
        for name, rows in results.items()
    }
    print(f"medians of {options.rounds}")
    for name, result in medians.items():
        print(row(name, result))
    conclusion = verdict(medians)
    if options.json:
        report = {
            "machine": where,
            "versions": versions,
            "left_out": absent,
            "options": {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()},
            "vectors": {"training": len(training), "held_out": len(held_out), "width": job.width},
            "rounds": {name: [result._asdict() for result in rows] for name, rows in results.items()},
            "medians": {name: result._asdict() for name, result in medians.items()},
            "conclusion": conclusion,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(conclusion)
    return 0


if __name__ == "__main__":
    sys.exit(main())
