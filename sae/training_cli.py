"""``python -m sae train``: dictionaries from harvested activations."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from sae.config import Rule, TrainConfig
from sae.errors import FeaturebrushError
from sae.processes import Accelerated
from sae.shards import ShardReader
from sae.train import Progress, train_many

Sink = Callable[[Progress], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Widths, k and seeds may be several: every combination is trained, side by side, from one stream."""
    default = {field.name: field.default for field in fields(TrainConfig)}
    parser.add_argument("data", type=Path, metavar="DIR", help="folder that `python -m sae harvest` wrote")
    parser.add_argument("--block", required=True, help="which of its blocks")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write the dictionaries")
    parser.add_argument("--features", type=int, nargs="+", default=[1024], metavar="F", help="widths")
    parser.add_argument("--k", type=int, nargs="+", default=[12], metavar="K", help="active features per position")
    parser.add_argument("--seed", type=int, nargs="+", default=[0], metavar="S")
    parser.add_argument("--architecture", choices=get_args(Rule), default="batchtopk")
    parser.add_argument("--steps", type=int, default=default["steps"])
    parser.add_argument("--batch", type=int, default=default["batch"], help="vectors per step, over all processes")
    parser.add_argument("--lr", type=float, default=default["lr"])
    parser.add_argument("--aux-weight", type=float, default=default["aux_weight"])
    parser.add_argument("--dead-after", type=int, default=default["dead_after"])
    parser.add_argument("--report-every", type=int, default=default["report_every"])
    parser.add_argument("--checkpoint-every", type=int, default=500, metavar="STEPS")
    parser.add_argument("--device", default=None, help="by default what accelerate finds")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="also write TensorBoard's files there")
    parser.add_argument("--trackio", metavar="PROJECT", help="also report to trackio")


def run(options: argparse.Namespace) -> None:
    """Train, going on from an interrupted run's checkpoint in ``out``; metrics go to ``out/metrics.jsonl`` as well."""
    processes = Accelerated()
    reader = ShardReader(options.data)
    device = options.device or str(processes.accelerator.device)
    if options.device is None and device.startswith("mps"):
        device = "cpu"  # not every operation that training needs is there
    cfgs = [
        TrainConfig(
            n_features=width, k=k, seed=seed, architecture=options.architecture, block=options.block,
            site=reader.manifest.site, steps=options.steps, batch=options.batch, lr=options.lr,
            aux_weight=options.aux_weight, dead_after=options.dead_after,
            report_every=options.report_every, device=device,
        )
        for width, k, seed in itertools.product(options.features, options.k, options.seed)
    ]  # fmt: skip
    names = [f"f{c.n_features}-k{c.k}-s{c.seed}" for c in cfgs] if len(cfgs) > 1 else [""]
    if len(set(names)) < len(names):
        raise FeaturebrushError(f"the same SAE is asked for twice: {', '.join(names)}")

    def batches(start: int):  # noqa: ANN202 - of tensors, as `sae.train.Batches` says
        return reader.batches(options.block, options.batch, cfgs[0].seed, start=start)

    # Of other data, a checkpoint is another one.
    data = hashlib.sha256(json.dumps([reader.manifest.to_dict(), reader.count], sort_keys=True).encode()).hexdigest()
    checkpoint = options.out / f"checkpoint-{data[:12]}.pt"
    with ExitStack() as stack:
        sinks = _sinks(options, names, stack) if processes.rank == 0 else []
        saes = train_many(
            batches,
            cfgs,
            lambda p: [sink(p) for sink in sinks],
            checkpoint=checkpoint,
            checkpoint_every=options.checkpoint_every,
            processes=processes,
        )
    if processes.rank == 0:
        for name, sae in zip(names, saes, strict=True):
            sae.save(options.out / name)
            print(options.out / name)
        checkpoint.unlink(missing_ok=True)


def _sinks(options: argparse.Namespace, names: Sequence[str], stack: ExitStack) -> list[Sink]:
    """Where the metrics go: the terminal, a JSONL file, and what was asked for."""
    options.out.mkdir(parents=True, exist_ok=True)
    bar = stack.enter_context(tqdm(total=options.steps, unit="step", dynamic_ncols=True))
    log = stack.enter_context((options.out / "metrics.jsonl").open("a", encoding="utf-8"))

    def show(p: Progress) -> None:
        bar.update(p.step - bar.n)
        bar.set_postfix(loss=f"{p.loss:.4f}", l0=f"{p.l0:.1f}", dead=p.dead, rate=f"{p.vectors_per_second:,.0f}/s")

    def write(p: Progress) -> None:
        log.write(json.dumps({"name": names[p.sae], **p._asdict()}) + "\n")
        log.flush()

    sinks: list[Sink] = [show, write]
    if options.tensorboard:
        writer = _module("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(options.tensorboard))
        stack.callback(writer.close)

        def to_tensorboard(p: Progress) -> None:
            for name, value in _figures(p).items():
                writer.add_scalar(f"{names[p.sae] or 'sae'}/{name}", value, p.step)

        sinks.append(to_tensorboard)
    if options.trackio:
        trackio = _module("trackio", "trackio")
        trackio.init(project=options.trackio)
        stack.callback(trackio.finish)
        sinks.append(lambda p: trackio.log({f"{names[p.sae] or 'sae'}/{k}": v for k, v in _figures(p).items()}))
    return sinks


def _figures(p: Progress) -> dict[str, float]:
    return {name: value for name, value in p._asdict().items() if name not in ("step", "steps", "sae")}


def _module(name: str, package: str):  # noqa: ANN202 - a module of an optional package
    try:
        return import_module(name)
    except ImportError as error:
        raise FeaturebrushError(f"--{package} needs the package {package!r}: pip install {package}") from error
