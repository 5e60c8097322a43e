"""What a stroke does: things painted at fixed places, beside the same seed unpainted. Nothing is selected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from canvas.contact import contact_sheet
from canvas.masks import Mask
from canvas.painter import Painter
from canvas.painting import Painting

HEIGHT_OF: dict[str, float] = {
    "castle": 0.62, "house": 0.66, "tree": 0.64, "pine": 0.64, "cactus": 0.66, "boat": 0.66,
    "mountain": 0.46, "sun": 0.26, "moon": 0.26, "balloon": 0.34,
}  # fmt: skip
"""The ten things, chosen before anything was measured, and the height of the picture at which each is painted."""
ACROSS = (0.2, 0.35, 0.5, 0.65, 0.8)
RADIUS = 0.15
SEED = 100


def cases() -> list[tuple[str, float, float, int]]:
    """(concept, x, y, seed) of all fifty strokes."""
    return [
        (name, x, y, SEED + 5 * i + j) for i, (name, y) in enumerate(HEIGHT_OF.items()) for j, x in enumerate(ACROSS)
    ]


def paint_sheet(
    model: str | Path = "storybook", strength: float = 1.0, side: int = 128
) -> tuple[Image.Image, list[dict[str, object]]]:
    """The sheet, unpainted (with the stroke's outline) and painted side by side, and each case's figures."""
    painter = Painter.load(model)
    pictures, texts, figures = [], [], []
    for name, x, y, seed in cases():
        plain = Painting(model=painter.model, seed=seed)
        mask = Mask.disc(x, y, RADIUS)
        before, after = painter.render(plain), painter.render(plain.paint(name, mask, strength))
        figures.append({"concept": name, "x": x, "y": y, "seed": seed, **change(before, after, mask)})
        outlined = before.copy()
        box = [256 * v for v in (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)]
        ImageDraw.Draw(outlined).ellipse(box, outline="white", width=2)
        pictures += [outlined, after]
        texts += [name, ""]
    return contact_sheet(pictures, texts, 2 * len(ACROSS), side=side, gap=8, lines=1), figures


def change(before: Image.Image, after: Image.Image, mask: Mask) -> dict[str, float]:
    """Mean absolute change of the pixels, 0..255, inside and outside of a mask, and their ratio."""
    difference = np.abs(np.asarray(after, np.float32) - np.asarray(before, np.float32)).mean(-1)
    inside = mask.coverage(*difference.shape) > 0.5
    within, without = float(difference[inside].mean()), float(difference[~inside].mean())
    return {"inside": round(within, 2), "outside": round(without, 2), "ratio": round(within / max(without, 1e-6), 2)}


def summary(figures: Sequence[dict[str, object]]) -> str:
    """One line for each concept: its median change inside and outside, and their ratio."""
    lines = []
    for name in HEIGHT_OF:
        rows = [f for f in figures if f["concept"] == name]
        inside, outside, ratio = (
            float(np.median([float(str(r[k])) for r in rows])) for k in ("inside", "outside", "ratio")
        )
        lines.append(f"{name:10} inside {inside:6.1f}  outside {outside:5.1f}  ratio {ratio:5.1f}")
    return "\n".join(lines)
