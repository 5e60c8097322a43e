"""Strokes as a hand would lay them over things that are in a scene: what the generator is painted with in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """of the scenes that are painted on"""
    alone: float = 0.4
    """of those, the share on which a single concept is painted"""
    weakest: float = 0.5
    strongest: float = 2.0
    """a stroke's strength, log-uniform; 1 is the deviation of the block's updates from their mean"""
    drop: float = 0.5
    """share of the painted scenes whose caption is dropped"""


def lay(coverage: np.ndarray, rng: np.random.Generator, cfg: StrokeConfig) -> np.ndarray:
    """Strokes over one scene, times their strengths: float32 [C, 16, 16] from ``coverage`` [C, 16, 16], 0..1.

    All zero for the scenes that are left alone.
    """
    laid = np.zeros(coverage.shape, np.float32)
    seen = np.flatnonzero(PAINTED & (coverage.max((1, 2)) >= VISIBLE))
    if rng.random() >= cfg.share or len(seen) == 0:
        return laid
    if rng.random() < cfg.alone:
        odds = np.where(THINGS[seen], 3.0, 1.0)
        chosen = rng.choice(seen, 1, p=odds / odds.sum())
    else:
        chosen = seen[rng.random(len(seen)) < rng.uniform(0.1, 0.8)]
    for c in chosen:
        strength = math.exp(rng.uniform(math.log(cfg.weakest), math.log(cfg.strongest)))
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


class Hand:
    """Lays strokes where nothing is yet, as someone who paints does: about as high in the picture as such a thing is
    in some scene, in that thing's own shape or in a brush's."""

    def __init__(self, coverage: np.ndarray, weakest: float = 0.4, strongest: float = 2.2) -> None:
        """``coverage`` uint8 [n, C, 16, 16], 0..255, of scenes to take places from."""
        self.coverage, self.weakest, self.strongest = coverage, weakest, strongest
        seen = np.concatenate([part.max((2, 3)) >= 255 * VISIBLE for part in np.array_split(coverage, 32)])
        self.scenes = [np.flatnonzero(seen[:, c]) for c in range(seen.shape[1])]
        odds = np.where(THINGS, 2.0, 1.0) * PAINTED * [len(found) > 0 for found in self.scenes]
        self.odds = odds / odds.sum()

    def prefer(self, weights: Sequence[float]) -> None:
        """Paint concepts as often as ``weights`` [C] say, squared, from half to four times the middle one; none of 0."""
        given = np.asarray(weights)
        middle = np.median(given[given > 0])
        odds = (self.odds > 0) * np.where(given > 0, np.clip(given / middle, 0.5, 4.0) ** 2, 0.0)
        self.odds = odds / odds.sum()

    def lay(self, rng: np.random.Generator) -> np.ndarray:
        """One picture's strokes, times their strengths: float32 [C, 16, 16]; one, or now and then two apart."""
        laid = np.zeros(self.coverage.shape[1:], np.float32)
        for _ in range(1 if rng.random() < 0.75 else 2):
            c = int(rng.choice(len(self.odds), p=self.odds))
            drawn = self.place(c, rng)
            if not (laid.max(0) * drawn).any() and not laid[c].any():
                laid[c] = math.exp(rng.uniform(math.log(self.weakest), math.log(self.strongest))) * drawn
        return laid

    def place(self, c: int, rng: np.random.Generator) -> np.ndarray:
        """A stroke for concept ``c``: [16, 16], 0..1."""
        scene = self.coverage[rng.choice(self.scenes[c]), c].astype(np.float32) / 255
        size = scene.shape
        if rng.random() < 0.4:
            return np.roll(shape(scene, rng), int(rng.integers(-5, 6)), 1)
        rows, columns = np.nonzero(scene >= VISIBLE)
        pick = int(rng.integers(len(rows)))
        y = float(rows[connected(scene >= VISIBLE, int(rows[pick]), int(columns[pick]))[rows, columns]].mean())
        y, x = y + rng.uniform(-1, 1), rng.uniform(1.5, size[1] - 2.5)
        kind = rng.random()
        if kind < 0.5:
            radius = rng.uniform(1.2, 4.2)
            return oval(size, y, x, radius * rng.uniform(0.8, 1.25), radius)
        if kind < 0.7:
            height, width = rng.uniform(1, 4), rng.uniform(1, 4)
            box = np.zeros(size)
            box[max(0, round(y - height)) : round(y + height) + 1, max(0, round(x - width)) : round(x + width) + 1] = 1
            return box
        if kind < 0.92:
            radius, lean, length = rng.uniform(0.8, 1.8), rng.uniform(-1, 1), rng.uniform(1, 3)
            dabs = [oval(size, y + lean * t * t, x + length * t, radius, radius) for t in (-1, -0.5, 0, 0.5, 1)]
            return np.max(dabs, 0)
        half = np.zeros(size)
        half[:, : size[1] // 2] = 1
        return half if rng.random() < 0.5 else half[:, ::-1]
