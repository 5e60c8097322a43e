"""Running PaintBench: every method on every case, read and scored; the figures and the page of plots."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion
from tqdm import tqdm

from canvas.bench import scores
from canvas.bench.cases import STRENGTHS, Case
from canvas.bench.methods import METHODS, WITH_STRENGTH, Bench, unpainted
from canvas.bench.reader import Reader, Reading
from canvas.bench.variants import VARIANTS
from canvas.contact import contact_sheet

SHIFT = 0.25
"""How far a mask is moved, as a fraction of the canvas: four cells."""


def run(
    bench: Bench,
    reader: Reader,
    cases: Sequence[Case],
    world: scores.World | None = None,
    critic: scores.Critic | None = None,
    methods: Iterable[str] = tuple(METHODS),
    strengths: Sequence[float] = (1.0,),
) -> list[dict[str, Any]]:
    """One row for each case, method and strength (methods without a dose once)."""
    rows = []
    for case in tqdm(cases, desc="cases", mininterval=5):
        before = unpainted(bench, case)
        plain = reader.read(before)
        for name in methods:
            for strength in strengths if name in (*WITH_STRENGTH, *VARIANTS) else (1.0,):
                stroke = replace(case, strength=strength)
                after = (METHODS | VARIANTS)[name](bench, stroke)
                rows.append(_row(name, stroke, before, plain, after, reader.read(after), world, critic))
    return rows


def _row(
    method: str, case: Case, before: Image.Image, plain: Reading, after: Image.Image, reading: Reading,
    world: scores.World | None, critic: scores.Critic | None,
) -> dict[str, Any]:  # fmt: skip
    came, covered, overlap = scores.arrived(reading, case.concept, case.mask)
    row = {
        "method": method,
        "concept": case.concept,
        "region": case.region,
        "context": case.context,
        "seed": case.seed,
        "strength": case.strength,
        "arrived": came,
        "there_before": scores.arrived(plain, case.concept, case.mask)[0],
        "covered": covered,
        "iou": overlap,
        "chance": scores.chance_in(reading, case.concept, case.mask),
        **scores.kept(before, after, case.mask),
    }
    if world is not None:
        row["off_world"] = world.is_off(reading.features)
        row["off_world_before"] = world.is_off(plain.features)
    if critic is not None:
        row["generated"] = critic.is_generated(reading.features)
        row["generated_before"] = critic.is_generated(plain.features)
    return row


def run_dose(bench: Bench, reader: Reader, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """For each case, the reader's chances at rising strengths and their rank correlation."""
    rows = []
    for case in tqdm(cases, desc="dose", mininterval=5):
        chances = [
            scores.chance_in(reader.read(METHODS["concept"](bench, replace(case, strength=s))), case.concept, case.mask)
            for s in STRENGTHS
        ]
        rows.append({"concept": case.concept, "chances": chances, "correlation": scores.dose(STRENGTHS, chances)})
    return rows


def run_moved(bench: Bench, reader: Reader, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """For each case that arrives, whether the thing follows its mask to the side."""
    rows = []
    for case in tqdm(cases, desc="moved", mininterval=5):
        middle = case.mask.coverage(16, 16).sum(0)
        x = float((middle * (np.arange(16) + 0.5)).sum() / middle.sum() / 16)
        dx = SHIFT if x < 0.5 else -SHIFT
        there = case.moved(dx)
        plain = reader.read(unpainted(bench, case))
        first, second = (reader.read(METHODS["concept"](bench, c)) for c in (case, there))
        error = scores.moved_error(
            scores.centre_of(first, plain, case.concept, case.mask),
            scores.centre_of(second, plain, case.concept, there.mask),
            dx,
        )
        rows.append({"concept": case.concept, "seed": case.seed, "error_cells": error if np.isfinite(error) else None})
    return rows


def failures(
    bench: Bench, cases: Sequence[Case], rows: Sequence[dict[str, Any]], at_most: int = 24
) -> Image.Image | None:
    """The first strokes of ours that did not arrive: unpainted, with the region's outline, and painted; None if all
    did."""
    ours = [row for row in rows if row["method"] == "concept" and row["strength"] == 1.0]
    failed = [case for case, row in zip(cases, ours, strict=True) if not row["arrived"]][:at_most]
    if not failed:
        return None
    pictures, texts = [], []
    for case in failed:
        pictures += [_outlined(unpainted(bench, case), case), METHODS["concept"](bench, case)]
        texts += [f"{case.concept}, {case.region}", case.prompt or "(no words)"]
    return contact_sheet(pictures, texts, 8, side=128, gap=8, lines=1)


def _outlined(picture: Image.Image, case: Case) -> Image.Image:
    region = case.mask.coverage(picture.height, picture.width) > 0.5
    edge = region & ~np.asarray(binary_erosion(region, iterations=2), np.bool_)
    pixels = np.asarray(picture.convert("RGB")).copy()
    pixels[edge] = 255
    return Image.fromarray(pixels)


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By method at strength 1: shares and means over its cases."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["strength"] == 1.0:
            found[row["method"]].append(row)
    return {
        method: {
            name: round(float(np.mean([row[name] for row in group])), 4)
            for name in ("arrived", "covered", "iou", "ssim_outside", "inside", "outside", "off_world", "generated")
            if name in group[0]
        }
        | {"ratio_median": round(float(np.median([row["ratio"] for row in group])), 2), "cases": len(group)}
        for method, group in found.items()
    }


def by_concept(rows: Sequence[dict[str, Any]], method: str = "concept") -> dict[str, dict[str, float]]:
    """Of one method at strength 1: how often each concept arrived, and what was kept outside."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["strength"] == 1.0 and row["method"] == method:
            found[row["concept"]].append(row)
    return {
        name: {
            "arrived": round(float(np.mean([r["arrived"] for r in group])), 3),
            "iou": round(float(np.mean([r["iou"] for r in group])), 3),
            "ssim_outside": round(float(np.mean([r["ssim_outside"] for r in group])), 3),
        }
        for name, group in found.items()
    }


def table(found: dict[str, dict[str, float]]) -> str:
    """The figures as text, one line for each name."""
    columns = list(dict.fromkeys(column for figures in found.values() for column in figures))
    width = max(map(len, found), default=0)
    lines = [" " * width + "".join(f"{column:>14}" for column in columns)]
    for name, figures in found.items():
        cells = "".join(f"{figures[c]:14.3f}" if c in figures else " " * 14 for c in columns)
        lines.append(f"{name:{width}}{cells}")
    return "\n".join(lines)


def write(out: Path, facts: dict[str, Any]) -> None:
    """The figures as JSON and, with matplotlib, the plot of effect against preservation."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "paintbench.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    plot_front(facts["rows"]).savefig(out / "paintbench.png", dpi=110)


def plot_front(rows: Sequence[dict[str, Any]]) -> Any:
    """Effect against preservation: for each method, a line over its strengths."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    points: dict[str, dict[float, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        points[row["method"]][row["strength"]].append(row)
    for method, by_strength in points.items():
        line = sorted(by_strength.items())
        x = [np.mean([r["ssim_outside"] for r in group]) for _, group in line]
        y = [np.mean([r["arrived"] for r in group]) for _, group in line]
        axes.plot(x, y, marker="o", label=method, linewidth=2.5 if method == "concept" else 1.2)
        for (strength, _), px, py in zip(line, x, y, strict=True):
            if len(line) > 1:
                axes.annotate(f"{strength:g}", (px, py), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set_xlabel("kept: SSIM outside of the region")
    axes.set_ylabel("arrived: share of strokes that the reader finds")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
