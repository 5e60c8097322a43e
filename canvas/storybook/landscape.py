"""Sky, land, water and weather: the large shapes of a scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import numpy as np
import skia

from canvas.storybook.palette import RGB, Palette, jitter, mix, rgb
from canvas.storybook.pen import SIDE, Pen, box, ellipse, polygon, smooth, under

Ridge = list[float]
"""Heights of a ridge at 65 equal steps across the picture."""
STEPS = 65


def rolling(rng: Random, level: float, swing: float, waves: float = 1.5) -> Ridge:
    """A gentle ridge around ``level`` that swings by about ±``swing``."""
    phases = [(rng.uniform(0, math.tau), rng.uniform(0.6, 1.3) * waves * k, 1 / k) for k in (1, 2, 3)]
    raw = [sum(a * math.sin(p + f * math.tau * i / (STEPS - 1)) for p, f, a in phases) for i in range(STEPS)]
    top = max(abs(v) for v in raw) or 1.0
    return [level - swing * v / top for v in raw]


def at(ridge: Sequence[float], x: float) -> float:
    """The height of a ridge at x."""
    position = min(max(x / SIDE, 0.0), 1.0) * (len(ridge) - 1)
    i = min(int(position), len(ridge) - 2)
    return ridge[i] + (ridge[i + 1] - ridge[i]) * (position - i)


def sky(pen: Pen, pal: Palette) -> None:
    with pen.tag(pal.time):
        top, middle, low = pal.sky
        pen.fill(box(-4, -4, SIDE + 4, 110), top, middle, plain=True)
        pen.fill(box(-4, 109, SIDE + 4, SIDE + 4), middle, low, plain=True)


def stars(pen: Pen, pal: Palette, rng: Random, horizon: float) -> None:
    """A field of stars; its mask is the star and the dark around it, 5 units wide."""
    x0, x1 = (-10, SIDE + 10) if rng.random() < 0.75 else sorted((rng.uniform(-30, 120), rng.uniform(130, 290)))
    with pen.tag("stars", pal.time):
        for _ in range(int((x1 - x0) / 256 * 60)):
            x, y = rng.uniform(x0, x1), rng.uniform(4, horizon * 0.9)
            pen.mark(ellipse(x, y, 5.0))
            r = rng.choice((0.7, 0.8, 1.0, 1.3, 1.7))
            with pen.silent():
                pen.fill(ellipse(x, y, r), (1.0, 0.98, 0.86), alpha=0.95)
                if r > 1.2:
                    pen.line([(x - r * 2.4, y), (x + r * 2.4, y)], (1.0, 0.98, 0.86), 0.5, 0.8)
                    pen.line([(x, y - r * 2.4), (x, y + r * 2.4)], (1.0, 0.98, 0.86), 0.5, 0.8)


def sun(pen: Pen, pal: Palette, x: float, y: float, r: float, rays: bool) -> None:
    color = pal.light("#ffd54f" if pal.time == "day" else "#ff8f4a")
    pen.glow(x, y, r * 3.4, (1.0, 0.85, 0.5) if pal.time == "day" else (1.0, 0.55, 0.3), 0.55)
    with pen.tag("sun"):
        if rays:
            for i in range(12):
                with pen.turned(x, y, i * 30):
                    pen.fill(
                        polygon([(r * 1.16, -r * 0.13), (r * 1.55, 0), (r * 1.16, r * 0.13)]),
                        mix(color, (1, 1, 1), 0.15),
                        plain=True,
                    )
        pen.fill(ellipse(x, y, r), mix(color, (1, 1, 0.85), 0.3), color)


def moon(pen: Pen, pal: Palette, rng: Random, x: float, y: float, r: float, crescent: bool) -> None:
    pen.glow(x, y, r * 3.0, (0.75, 0.8, 1.0), 0.4)
    color = pal.light("#fdf3cf")
    disc = ellipse(x, y, r)
    with pen.tag("moon"):
        if crescent:
            disc = skia.Op(disc, ellipse(x + r * 0.5, y - r * 0.22, r * 0.86), skia.PathOp.kDifference_PathOp)
        pen.fill(disc, color, mix(color, (0.8, 0.75, 0.9), 0.25))
        if not crescent:
            with pen.silent():
                for k in range(4):
                    a, d = 1.7 * k, (0.2 + 0.12 * k) * r
                    pen.fill(
                        ellipse(x + d * math.cos(a), y + d * math.sin(a), r * (0.2 - 0.03 * k)),
                        (0.75, 0.7, 0.72),
                        alpha=0.4,
                    )


def cloud(pen: Pen, pal: Palette, rng: Random, x: float, y: float, w: float, dark: bool = False) -> None:
    """A cloud of width ``w`` whose flat base is at ``y``."""
    base = {"day": "#ffffff", "sunset": "#ffd9cf", "night": "#8d96c4"}[pal.time]
    color = pal.styled(rgb(base))
    if dark:
        color = mix(color, pal.styled((0.36, 0.38, 0.48)), 0.62)
    path, n = skia.Path(), 5
    for i in range(n):
        t = i / (n - 1)
        r = w * (0.12 + 0.13 * math.sin(math.pi * (0.12 + 0.76 * t))) * rng.uniform(0.95, 1.12)
        path.addPath(ellipse(x + (t - 0.5) * w * 0.72, y - r * 0.75, r))
    path.addPath(box(x - w * 0.46, y - w * 0.14, x + w * 0.46, y, w * 0.07))
    path = skia.Simplify(path) or path
    with pen.tag("cloud"):
        pen.fill(path, color, mix(color, pal.sky[1], 0.38))


def rainbow(pen: Pen, pal: Palette, x: float, y: float, r: float) -> None:
    """An arch of radius ``r`` around (x, y)."""
    bands = ("#e5484d", "#f28c38", "#f7d046", "#56b35c", "#3f87d6", "#8158b8")
    width = r * 0.05
    with pen.tag("rainbow", pal.time):
        for i, band in enumerate(bands):
            radius = r - i * width
            arch = skia.Op(ellipse(x, y, radius), ellipse(x, y, radius - width * 1.08), skia.PathOp.kDifference_PathOp)
            pen.fill(arch, mix(pal.light(band), pal.sky[1], 0.1), alpha=0.86, plain=True)


def mountains(pen: Pen, pal: Palette, rng: Random, foot: float, count: int, snowy: bool, haze: float) -> list[tuple[float, float]]:  # fmt: skip
    """A range of peaks standing on ``foot``; returns the peaks' tops."""
    rock = jitter(rgb("#7d7f9c"), rng)
    left_light = True
    tops = []
    slots = [(i + rng.uniform(0.25, 0.75)) / count for i in range(count)]
    rng.shuffle(slots)
    for slot in slots:
        x, h = slot * SIDE, rng.uniform(76, 112) * (1.1 if count < 3 else 0.9)
        top, half = foot - h, h * rng.uniform(0.75, 1.05)
        tops.append((x, top))
        jag = [(t + rng.uniform(-0.03, 0.03), rng.uniform(-0.05, 0.05)) for t in (0.25, 0.5, 0.75)]
        left = [(x - half * t + half * j, top + h * t) for t, j in jag]
        right = [(x + half * t + half * j, top + h * t) for t, j in jag]
        body = polygon([(x, top), *right, (x + half, foot + 6), (x - half, foot + 6), *reversed(left)])
        bright, shade = pal.lit(mix(rock, (1, 1, 1), 0.12), haze), pal.lit(mix(rock, (0.12, 0.12, 0.35), 0.32), haze)
        with pen.tag("mountain"):
            pen.fill(body, bright, mix(bright, pal.sky[2], 0.3))
            with pen.clipped(body):
                side = right if left_light else left
                spine = [
                    (x + half * 0.12 * s, top + h * t) for t, s in ((0.3, -1), (0.55, 0.8), (0.8, -0.6), (1.1, 0.4))
                ]
                out = x + half * 1.4 if left_light else x - half * 1.4
                with pen.silent():
                    pen.fill(
                        polygon([(x, top), *spine, (out, foot + 8), side[-1]]),
                        shade,
                        mix(shade, pal.sky[2], 0.3),
                        alpha=0.85,
                    )
                if snowy:
                    depth = h * 0.33
                    zigzag = [(x + half * (0.62 - 0.2 * i), top + depth * (1.15 if i % 2 else 0.72)) for i in range(7)]
                    with pen.tag("snowcap"):
                        pen.fill(polygon([(x, top - 3), (x + half * 0.7, top + depth), *zigzag, (x - half * 0.7, top + depth)]),
                                 pal.lit("#fbfbff", haze * 0.6), plain=True)  # fmt: skip
                    with pen.silent():
                        pen.fill(
                            polygon(
                                [(x, top), spine[0], (out, top + depth), (x + (half if left_light else -half), top)]
                            ),
                            shade,
                            alpha=0.22,
                        )
    return tops


def hillside(pen: Pen, pal: Palette, rng: Random, ridge: Ridge, color: RGB, haze: float, concept: str, marks: bool = True) -> None:  # fmt: skip
    """Ground below a ridge, with small marks of its own kind (tufts, ripples)."""
    near = pal.lit(color, haze)
    with pen.tag(concept):
        pen.fill(under(ridge), mix(near, (1.0, 0.97, 0.75), 0.12), mix(near, (0.05, 0.08, 0.2), 0.14))
        if not marks:
            return
        with pen.silent():
            for _ in range(16):
                x = rng.uniform(0, SIDE)
                y = rng.uniform(at(ridge, x) + 5, SIDE)
                size = 1.0 + 2.6 * (y / SIDE) ** 2
                tone = mix(near, (1, 1, 0.8) if rng.random() < 0.5 else (0.05, 0.1, 0.1), 0.22)
                if concept == "desert":
                    pen.line(
                        [(x - size * 4, y), (x, y - size * 0.7), (x + size * 4, y + size * 0.2)],
                        tone,
                        0.9,
                        0.6,
                        curved=True,
                    )
                elif concept == "beach":
                    pen.fill(ellipse(x, y, size * 0.35), tone, alpha=0.8)
                else:
                    pen.line(
                        [(x - size * 0.5, y - size * 1.2), (x, y), (x + size * 0.6, y - size * 1.3)], tone, 0.8, 0.75
                    )


def water(pen: Pen, pal: Palette, rng: Random, region: skia.Path, top: float, bottom: float, concept: str, lights: Sequence[tuple[float, RGB]] = ()) -> None:  # fmt: skip
    """A surface of water that mirrors what stands above ``top``; ``lights`` are (x, colour) of sun or moon above it."""
    hue = jitter(rgb({"sea": "#2f7fb5", "lake": "#4a9cc0", "river": "#58a9cf"}[concept]), rng, 0.04)
    far, near = mix(pal.lit(hue), pal.sky[2], 0.42), pal.lit(mix(hue, (0.02, 0.1, 0.25), 0.25))
    with pen.tag(concept):
        pen.fill(region, far, near)
    pen.reflect(region, top, 0.34)
    with pen.clipped(region), pen.silent():
        for x, color in lights:
            for i in range(11):
                y = top + (bottom - top) * (i + 0.5) / 11
                half = 5 + 16 * rng.random() * (0.4 + i / 11)
                pen.fill(ellipse(x + rng.uniform(-6, 6), y, half, 1.1 + 0.1 * i), color, alpha=0.62)
        for _ in range(14):
            t = rng.random() ** 1.4
            x, y, half = rng.uniform(0, SIDE), top + 3 + t * (bottom - top), 4 + 13 * t
            pen.line(
                [(x - half, y), (x, y - 0.8 - t), (x + half, y)],
                mix(near, (1, 1, 1), 0.5),
                0.7 + 0.6 * t,
                0.5,
                curved=True,
            )


def waterfall(pen: Pen, pal: Palette, rng: Random, x: float, top: float, foot: float, w: float, haze: float) -> None:
    """A cliff with water falling from ``top`` to ``foot``."""
    rock = jitter(rgb("#8a7f78"), rng)
    light, shade = pal.lit(rock, haze), pal.lit(mix(rock, (0.1, 0.1, 0.3), 0.35), haze)
    span = w * 2.7
    moss = pal.lit(jitter(rgb("#5f9a52"), rng), haze)
    with pen.tag("mountain"):
        base = [
            (x + span * 1.3, foot + 7),
            (x + span * 1.3, foot + 7),
            (x - span * 1.3, foot + 7),
            (x - span * 1.3, foot + 7),
        ]
        pen.fill(smooth([*base, (x - span * 1.08, (top + foot) / 2), (x - span, top + 12), (x - span * 0.7, top - 4), (x, top - 6),
                         (x + span * 0.7, top - 4), (x + span, top + 12), (x + span * 1.08, (top + foot) / 2)]), light, shade)  # fmt: skip
        with pen.silent():
            for _ in range(9):
                cx, cy = x + rng.uniform(-0.9, 0.9) * span, rng.uniform(top + 10, foot - 5)
                pen.fill(
                    polygon([(cx - 7, cy), (cx, cy - 5), (cx + 8, cy - 1), (cx + 5, cy + 5), (cx - 5, cy + 4)]),
                    shade,
                    alpha=0.55,
                )
            pen.fill(
                smooth(
                    [
                        (x - span * 0.9, top + 9),
                        (x - span * 0.6, top - 6),
                        (x, top - 8),
                        (x + span * 0.6, top - 6),
                        (x + span * 0.9, top + 9),
                        (x, top + 3),
                    ]
                ),
                moss,
            )
    with pen.tag("waterfall"):
        fall = pal.lit("#d8eef8")
        pen.fill(
            smooth(
                [
                    (x - w * 0.42, top - 1),
                    (x, top - 4),
                    (x + w * 0.42, top - 1),
                    (x + w * 0.5, (top + foot) / 2),
                    (x + w * 0.62, foot + 2),
                    (x - w * 0.62, foot + 2),
                    (x - w * 0.5, (top + foot) / 2),
                ]
            ),
            fall,
            pal.lit("#a9d5ea"),
        )
        with pen.silent():
            for _ in range(7):
                sx = x + rng.uniform(-0.42, 0.42) * w
                y0 = rng.uniform(top, foot - 20)
                pen.line(
                    [(sx, y0), (sx + (sx - x) * 0.15, y0 + rng.uniform(12, 34))],
                    pal.lit("#7fbcdb") if rng.random() < 0.5 else (1, 1, 1),
                    1.1,
                    0.7,
                )
        for i in range(7):
            pen.fill(
                ellipse(x + (i / 6 - 0.5) * w * 1.7, foot + rng.uniform(-2, 2), w * rng.uniform(0.16, 0.26), w * 0.13),
                pal.lit("#f4fbff"),
                alpha=0.85,
                plain=True,
            )


def river(rng: Random, x0: float, top: float, bottom: float, narrow: float, wide: float) -> skia.Path:
    """The outline of a river winding from (x0, top) to the bottom."""
    bend = rng.uniform(-70, 70)
    left, right = [], []
    for i in range(9):
        t = i / 8
        x = x0 + bend * math.sin(t * math.pi * 1.3) * (0.25 + t)
        half = narrow + (wide - narrow) * t**1.5
        y = top + (bottom - top) * t
        left.append((x - half, y))
        right.append((x + half, y))
    return smooth(
        [
            (left[0][0], top - 1),
            *left,
            (left[-1][0], bottom + 30),
            (right[-1][0], bottom + 30),
            *reversed(right),
            (right[0][0], top - 1),
        ]
    )


def crossroad(pen: Pen, pal: Palette, rng: Random, y: float, w: float) -> Ridge:
    """A road across the picture, ``w`` high; returns its middle line."""
    line = rolling(rng, y, 5, 0.7)
    step = SIDE / (STEPS - 1)
    tarmac = pal.lit(jitter(rgb("#6d6a78"), rng))
    upper, lower = [v - w / 2 for v in line], [v + w / 2 for v in line]
    body = polygon([(-4, upper[0]), *((i * step, v) for i, v in enumerate(upper)), (SIDE + 4, upper[-1]), (SIDE + 4, lower[-1]),
                    *((i * step, lower[i]) for i in range(STEPS - 1, -1, -1)), (-4, lower[0])])  # fmt: skip
    with pen.tag("road"):
        pen.fill(body, tarmac, mix(tarmac, (0.05, 0.05, 0.1), 0.2))
        with pen.silent():
            for i in range(1, STEPS - 3, 6):
                pen.line([(i * step, line[i]), ((i + 3) * step, line[i + 3])], pal.lit("#f6eed8"), 1.5, 0.85)
    return line


def winding_road(pen: Pen, pal: Palette, rng: Random, x: float, top: float) -> None:
    """A road that runs from the foreground to (x, top)."""
    tone = pal.lit(jitter(rgb("#d9bd8e"), rng))
    with pen.tag("road"):
        pen.fill(river(rng, x, top, SIDE, 2.0, rng.uniform(20, 32)), mix(tone, pal.sky[2], 0.25), tone)


def fog(pen: Pen, pal: Palette, rng: Random, horizon: float) -> None:
    color = mix(pal.sky[2], (1, 1, 1), 0.45 if pal.time == "day" else 0.2)
    coverage = np.zeros((pen.size, pen.size), bool)
    unit = pen.size / SIDE
    y0 = horizon + rng.uniform(-34, 20)
    with pen.silent():
        for i in range(rng.randint(2, 4)):
            y, h = y0 + i * rng.uniform(14, 26), rng.uniform(9, 16)
            x0, x1 = (-40, SIDE + 40) if rng.random() < 0.6 else (rng.uniform(-40, 60), rng.uniform(170, 300))
            pen.fill(box(x0, y - h, x1, y + h, h), color, alpha=0.78, blur=6.5)
            a, b = max(0, int((y - h) * unit)), max(0, int((y + h) * unit))
            coverage[a:b, max(0, int(x0 * unit)) : max(0, int(x1 * unit))] = True
    pen.veil("fog", coverage)


def falling(pen: Pen, rng: Random, kind: str, x0: float, x1: float, top: float) -> None:
    """Rain or snowfall between ``x0`` and ``x1`` from ``top`` down; its mask is that column of air."""
    with pen.silent():
        if kind == "rain":
            slant = rng.uniform(-0.25, 0.25)
            for _ in range(int((x1 - x0) * 0.5)):
                x, y, s = rng.uniform(x0, x1), rng.uniform(top, SIDE), rng.uniform(7, 13)
                pen.line([(x, y), (x + slant * s, y + s)], (0.86, 0.93, 1.0), 0.9, rng.uniform(0.35, 0.8))
        else:
            for _ in range(int((x1 - x0) * 0.62)):
                pen.fill(
                    ellipse(rng.uniform(x0, x1), rng.uniform(top, SIDE), rng.choice((1.0, 1.4, 1.9, 2.5))),
                    (1, 1, 1),
                    alpha=rng.uniform(0.65, 0.98),
                )
    unit = pen.size / SIDE
    coverage = np.zeros((pen.size, pen.size), bool)
    coverage[int(max(0, top) * unit) :, max(0, int(x0 * unit)) : max(0, int(x1 * unit))] = True
    pen.veil("rain" if kind == "rain" else "snowfall", coverage)
