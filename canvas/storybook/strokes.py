"""Strokes as a hand would lay them over things that are in a scene: what the generator is painted with in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from canvas.storybook.vocabulary import CONCEPTS, OBJECTS, STYLES

PAINTED = np.array([name not in STYLES for name in CONCEPTS])
"""Styles fill their pictures: there is no place to paint them at."""
THINGS = np.array([name in OBJECTS for name in CONCEPTS])
VISIBLE = 0.1
"""A stroke is laid over cells of which the concept fills at least this share."""
WIDE = 40
"""What fills more cells than this is mostly painted in dabs, not as a whole."""


@dataclass(frozen=True)
class StrokeConfig:
    share: float = 0.65
    """of the scenes, the collages apart, that are painted on"""
    alone: float = 0.4
    """of those, the share on which a single concept is painted"""
    weakest: float = 0.5
    strongest: float = 2.0
    """a stroke's strength; 1 is the deviation of the block's updates from their mean"""
    drop: float = 0.5
    """share of the painted scenes whose caption is dropped"""


def lay(coverage: np.ndarray, rng: np.random.Generator, cfg: StrokeConfig, pasted: int | None = None) -> np.ndarray:
    """Strokes over one scene, times their strengths: float32 [C, 16, 16] from ``coverage`` [C, 16, 16], 0..1.

    All zero for the scenes that are left alone. What was ``pasted`` into a collage is always painted: nothing else
    tells of it.
    """
    laid = np.zeros(coverage.shape, np.float32)
    seen = np.flatnonzero(PAINTED & (coverage.max((1, 2)) >= VISIBLE))
    if pasted is not None and pasted in seen:
        chosen = np.union1d([pasted], seen[rng.random(len(seen)) < rng.uniform(-0.6, 0.4)])
    elif rng.random() >= cfg.share or len(seen) == 0:
        return laid
    elif rng.random() < cfg.alone:
        odds = np.where(THINGS[seen], 3.0, 1.0)
        chosen = rng.choice(seen, 1, p=odds / odds.sum())
    else:
        chosen = seen[rng.random(len(seen)) < rng.uniform(0.1, 0.8)]
    for c in chosen:
        strength = rng.uniform(cfg.weakest, cfg.strongest)
        laid[c] = strength * shape(coverage[c], rng)
    return laid


def shape(coverage: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A stroke over one instance of a concept (or over part of it): [n, n], 0..1, from its ``coverage`` [n, n].

    Exact, grown by a cell, an oval or a box around it, or a round dab within: a brush knows the place of a thing
    better than its outline.
    """
    visible = coverage >= VISIBLE
    rows, columns = np.nonzero(visible)
    pick = rng.integers(len(rows))
    y, x = int(rows[pick]), int(columns[pick])
    if visible.sum() > WIDE and rng.random() < 0.7:
        radius = rng.uniform(1.5, 5.0)
        return oval(visible.shape, y, x, radius, radius) * visible
    whole = connected(visible, y, x)
    kind = rng.random()
    if kind < 0.2:
        return coverage * whole
    if kind < 0.45:
        return neighbourhood(whole).astype(np.float64)
    rows, columns = np.nonzero(whole)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    if kind < 0.6:
        box = np.zeros(visible.shape)
        box[top : bottom + 1, left : right + 1] = 1
        return box
    size = rng.uniform(0.9, 1.5)
    return oval(
        visible.shape, (top + bottom) / 2, (left + right) / 2,
        size * (bottom - top + 1) / 2, size * (right - left + 1) / 2,
    )  # fmt: skip


def oval(size: tuple[int, ...], y: float, x: float, height: float, width: float) -> np.ndarray:
    """An ellipse with half axes ``height`` and ``width``, in cells, with an edge one cell wide: [n, n], 0..1."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot((rows - y) / height, (columns - x) / width)
    return np.clip((1 - distance) * min(height, width) + 0.5, 0, 1)


def neighbourhood(cells: np.ndarray) -> np.ndarray:
    """The cells and the eight around each: bool [n, n]."""
    padded = np.pad(cells, 1)
    n, m = cells.shape
    return np.any([padded[i : i + n, j : j + m] for i in range(3) for j in range(3)], 0)


def connected(cells: np.ndarray, y: int, x: int) -> np.ndarray:
    """The connected part (by sides and corners) of ``cells`` that holds (y, x): bool [n, n]."""
    part = np.zeros_like(cells)
    part[y, x] = True
    while True:
        grown = neighbourhood(part) & cells
        if (grown == part).all():
            return part
        part = grown
