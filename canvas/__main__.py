"""``python -m canvas``: measure what painting does; paint the gallery."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sae.errors import FeaturebrushError

if TYPE_CHECKING:
    from canvas.painter import Painter


CRITIC_PICTURES, CRITIC_SEED = 100, 990_000
"""Unpainted pictures of held-out captions by which drawn and generated ones are told apart; their first seed."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m canvas", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    bench = commands.add_parser("bench", help="benchmarks of what painting does")
    kinds = bench.add_subparsers(dest="bench", required=True, metavar="BENCH")
    paint = kinds.add_parser("paint", help="PaintBench: did each stroke do what it promised")
    paint.add_argument("--model", default="storybook")
    paint.add_argument("--cases", choices=("small", "full"), default="small")
    paint.add_argument("--seed", type=int, default=5000, help="first seed; tuning uses others")
    paint.add_argument("--seeds", type=int, default=2, help="seeds for each concept and region")
    paint.add_argument("--at-most", type=int, default=None, help="thin the list to so many cases")
    paint.add_argument("--strengths", type=float, nargs="+", default=[1.0])
    paint.add_argument("--methods", nargs="+", default=None)
    paint.add_argument("--out", type=Path, default=Path("runs/paintbench"))
    tuned = kinds.add_parser("tune", help="choose every concept's brush by what its strokes do, and mark the weak ones")
    tuned.add_argument("--model", default="storybook")
    tuned.add_argument("--seeds", type=int, default=2, help="for each concept and region; twice as many judge")
    tuned.add_argument("--regions", nargs="+", default=["disc", "aside", "stroke"])
    tuned.add_argument("--concepts", nargs="+", default=None, help="the others stay as they are; by default all")
    tuned.add_argument("--out", type=Path, default=Path("runs/tuning.json"))
    pictures = kinds.add_parser("pictures", help="do pictures show what their captions name; how far from drawn ones")
    pictures.add_argument("--model", default="storybook")
    pictures.add_argument("--count", type=int, default=200, help="captions, one picture each")
    pictures.add_argument("--slow-steps", type=int, default=25, help="of the U-Net before distillation, to compare")
    pictures.add_argument("--slow-guidance", type=float, default=2.5, help="of the same")
    pictures.add_argument("--out", type=Path, default=Path("runs/pictures.json"))
    gallery = commands.add_parser("gallery", help="paint the model's example paintings again")
    gallery.add_argument("--model", default="storybook")
    return top


def main(arguments: list[str] | None = None) -> int:
    """0 if it worked, 2 if something given cannot be used, which is said on stderr."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "gallery":
            paint_gallery(options.model)
        else:
            {"paint": run_paint, "tune": run_tune, "pictures": run_pictures}[options.bench](options)
    except FeaturebrushError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def paint_gallery(model: str) -> None:
    from canvas import gallery
    from canvas.painter import Painter

    painter = Painter.load(model)
    if painter.folder is None:
        raise FeaturebrushError(f"{model!r} has no folder to write a gallery into")
    gallery.write(painter.folder, painter.render)


def reader_folder(painter: Painter) -> Path:
    """Where the network lies that reads the model's pictures."""
    if painter.folder is None:
        raise FeaturebrushError(f"{painter.model!r} has no reader: only the embedded model's world can be read")
    return painter.folder / "reader"


def run_paint(options: argparse.Namespace) -> None:
    import numpy as np

    from canvas.bench import cases, paint
    from canvas.bench.methods import METHODS, Bench
    from canvas.bench.pictures import HeldOut, painter_render, read_all
    from canvas.bench.reader import Reader
    from canvas.bench.scores import Critic, World
    from canvas.bench.variants import VARIANTS, norm_ratio
    from canvas.painter import Painter
    from sae.errors import unknown

    methods = options.methods or list(METHODS)
    if methods == ["variants"]:
        methods = ["concept", "unpainted", *VARIANTS]
    for name in methods:
        if name not in METHODS | VARIANTS:
            raise unknown("method", name, [*METHODS, *VARIANTS, "variants"])
    painter = Painter.load(options.model)
    folder = reader_folder(painter)
    reader, held_out = Reader.load(folder), HeldOut.load(folder)
    groups = {c.name: c.group for c in painter.concepts if c.name in reader.concepts}
    seeds = range(options.seed, options.seed + options.seeds)
    listed = (cases.small if options.cases == "small" else cases.full)(groups, seeds)
    if options.at_most:
        listed = cases.thinned(listed, options.at_most)
    bench = Bench.of(painter)
    prompts = [text for text, _ in held_out.captions[:CRITIC_PICTURES]]
    generated = [seen.features for seen in read_all(painter_render(painter), reader, prompts, CRITIC_SEED)]
    world, critic = World(held_out.decoded), Critic(held_out.decoded, np.stack(generated))
    rows = paint.run(bench, reader, listed, world, critic, methods, options.strengths)
    few = cases.thinned(listed, 24)
    dose, moved = paint.run_dose(bench, reader, few), paint.run_moved(bench, reader, few)
    lengths = [norm_ratio(bench, case) for case in few]
    facts = {
        "model": painter.model,
        "cases": len(listed),
        "methods": paint.summary(rows),
        "concepts": paint.by_concept(rows),
        "dose_correlation_mean": sum(row["correlation"] for row in dose) / len(dose),
        "moved_within_1_5_cells": sum(row["error_cells"] is not None and row["error_cells"] <= 1.5 for row in moved)
        / len(moved),
        "activation_length_mean": sum(lengths) / len(lengths),
        "dose": dose,
        "moved": moved,
        "rows": rows,
    }
    paint.write(options.out, facts)
    (options.out / "failures.png").unlink(missing_ok=True)
    if sheet := paint.failures(bench, listed, rows):
        sheet.save(options.out / "failures.png")
    print(paint.table(facts["methods"]))
    print(paint.table(facts["concepts"]))
    print(
        f"dose correlation {facts['dose_correlation_mean']:.3f}, moved {facts['moved_within_1_5_cells']:.3f}, "
        f"edited activations {facts['activation_length_mean']:.2f} times as long"
    )
    print(options.out / "paintbench.json")


def run_tune(options: argparse.Namespace) -> None:
    from canvas.bench import cases, tuning
    from canvas.bench.methods import Bench
    from canvas.bench.pictures import HeldOut
    from canvas.bench.reader import Reader
    from canvas.bench.scores import World
    from canvas.models import CONCEPTS
    from canvas.painter import Painter
    from sae.errors import unknown

    for region in options.regions:
        if region not in cases.REGIONS:
            raise unknown("region", region, cases.REGIONS)
    painter = Painter.load(options.model, backend="auto")  # as the page does
    folder = reader_folder(painter)
    reader = Reader.load(folder)
    judge = tuning.Judge(Bench.of(painter), reader, World(HeldOut.load(folder).decoded))
    groups = {c.name: c.group for c in painter.concepts if c.name in reader.concepts}
    for name in options.concepts or ():
        if name not in groups:
            raise unknown("concept", name, list(groups))
    asked = [(name, group) for name, group in groups.items() if name in (options.concepts or groups)]
    seeds = (options.seeds, 2 * options.seeds)
    searched, judged = (  # the later seeds for regions that show the concept unpainted
        cases.cases(asked, range(first, first + count), options.regions)
        + cases.cases(asked, range(first + count, first + 4 * count), options.regions)
        for first, count in zip((tuning.SEARCHED, tuning.JUDGED), seeds, strict=True)
    )
    strokes = (seeds[0] * len(options.regions), seeds[1] * len(options.regions))
    concepts, report = tuning.tune(judge, searched, judged, strokes)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    tuning.write(folder.parent / CONCEPTS, concepts)
    for name, found in report.items():
        print(f"{name:12} {found['brush']['block']:9} {'passes' if found['passes'] else 'weak':7}", found["judged"])
    print(f"{sum(found['passes'] for found in report.values())} of {len(report)} brushes pass")


def run_pictures(options: argparse.Namespace) -> None:
    from canvas.bench import pictures
    from canvas.bench.reader import Reader
    from canvas.painter import Painter

    for name in ("count", "slow_steps"):
        if getattr(options, name) < 1:
            raise FeaturebrushError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}")
    painter = Painter.load(options.model)
    folder = reader_folder(painter)
    renders = {
        f"{painter.defaults.steps} steps": pictures.painter_render(painter),
        f"{options.slow_steps} steps before distillation": pictures.undistilled_render(
            painter, options.slow_steps, options.slow_guidance
        ),
    }
    facts = pictures.report(renders, Reader.load(folder), pictures.HeldOut.load(folder), options.count)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for name in renders:
        distance, said = facts[name]["frechet"], facts[name]["following"]
        print(
            f"{name}: {said['found']:.1%} of {said['named']} named concepts found ({said['by_chance']:.1%} by "
            f"chance), Fréchet distance {distance:.3f} (floor {facts['floor']:.3f})"
        )
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
