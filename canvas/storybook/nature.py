"""Plants and animals. Every function draws one thing of height ``h`` standing at (x, y), in drawing units."""

from __future__ import annotations

import math
from random import Random

from canvas.storybook.palette import RGB, Palette, jitter, mix, rgb
from canvas.storybook.pen import Pen, arc_points, box, ellipse, polygon, smooth

COATS = {"white": "#f7f1e6", "black": "#4a4450", "grey": "#c4bcc0"}
HIDES = {"brown": "#9c5f3a", "white": "#f5efe6", "black": "#3d3842", "red": "#b5553c"}
PETALS = {"red": "#e5484d", "yellow": "#ffc93c", "pink": "#f48fb1", "blue": "#5c7cfa", "purple": "#9b5de5", "white": "#fff7ea"}  # fmt: skip
SCALES = {"orange": "#f58a3c", "silver": "#b9cdd8", "blue": "#4f86d9", "golden": "#f2bb3f"}
LEAVES = {"green": "#4f9d4a", "golden": "#e0a030", "red": "#c9503a", "pink": "#f0a3b8"}


def pine(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0) -> None:
    green = jitter(rgb("#2f7d57"), rng)
    dark, light = pal.lit(mix(green, (0.05, 0.15, 0.2), 0.25), haze), pal.lit(green, haze)
    pen.shadow(x + h * 0.06, y, h * 0.24, h * 0.045)
    with pen.tag("pine"):
        pen.fill(box(x - h * 0.04, y - h * 0.2, x + h * 0.04, y), pal.lit("#6b4a35", haze))
        for i in range(3):
            top, bottom, half = y - h * (0.5 + i * 0.25), y - h * (0.1 + i * 0.24), h * (0.30 - i * 0.068)
            pen.fill(
                smooth([(x, top - h * 0.04), (x + half * 0.5, (top + bottom) / 2), (x + half * 1.1, bottom),
                        (x + half * 1.0, bottom + h * 0.02), (x, bottom + h * 0.035), (x - half * 1.0, bottom + h * 0.02),
                        (x - half * 1.1, bottom), (x - half * 0.5, (top + bottom) / 2)]),
                mix(dark, light, 0.35 + 0.32 * i),
            )  # fmt: skip


def tree(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "green") -> None:  # fmt: skip
    leaf = jitter(rgb(LEAVES[color]), rng, 0.06)
    bark = pal.lit("#7a5238", haze)
    pen.shadow(x + h * 0.08, y, h * 0.30, h * 0.05)
    with pen.tag("tree"):
        pen.fill(polygon([(x - h * 0.055, y), (x - h * 0.03, y - h * 0.5), (x + h * 0.03, y - h * 0.5), (x + h * 0.055, y)]), bark)  # fmt: skip
        pen.line([(x, y - h * 0.36), (x + h * 0.12, y - h * 0.5)], bark, h * 0.035)
        crown = [(math.cos(a), math.sin(a)) for a in (i * math.tau / 9 for i in range(9))]
        cy, r = y - h * 0.66, h * 0.34
        points = [(x + c * r * (1.12 - 0.16 * (i % 2)), cy + s * r * (1.0 - 0.08 * (i % 3))) for i, (c, s) in enumerate(crown)]  # fmt: skip
        pen.fill(smooth(points), pal.lit(leaf, haze), pal.lit(mix(leaf, (0.05, 0.12, 0.2), 0.28), haze))
        with pen.silent():
            for dx, dy in ((-0.5, -0.3), (0.1, -0.55), (-0.1, 0.15)):
                pen.fill(ellipse(x + dx * r, cy + dy * r, r * 0.24, r * 0.14),
                         pal.lit(mix(leaf, (1, 1, 0.85), 0.28), haze), alpha=0.6)  # fmt: skip


def palm(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0) -> None:
    lean = rng.choice((-1, 1)) * 0.16 * h
    tx, ty = x + lean, y - h * 0.78
    trunk = pal.lit("#a5794f", haze)
    pen.shadow(x, y, h * 0.2, h * 0.035)
    with pen.tag("palm"):
        pen.fill(smooth([(x - h * 0.05, y + 1), (x - h * 0.02 + lean * 0.15, y - h * 0.4), (tx - h * 0.022, ty),
                         (tx + h * 0.022, ty), (x + h * 0.035 + lean * 0.15, y - h * 0.4), (x + h * 0.05, y + 1)]), trunk)  # fmt: skip
        leaf = jitter(rgb("#3f9a55"), rng, 0.05)
        for i, angle in enumerate((200, 232, 262, 292, 322, 350, 172, 12)):
            a = math.radians(angle)
            r = h * (0.41 - 0.06 * (i % 2))
            ex, ey = tx + math.cos(a) * r, ty + math.sin(a) * r * 0.75 + r * 0.28
            mx, my = (tx + ex) / 2, (ty + ey) / 2 - r * 0.24
            nx, ny = -(ey - ty) / r * h * 0.05, (ex - tx) / r * h * 0.05
            shade = pal.lit(mix(leaf, (0.05, 0.15, 0.15), 0.26 * (i % 2)), haze)
            pen.fill(smooth([(tx, ty), (mx + nx, my + ny), (ex, ey), (mx - nx, my - ny + h * 0.05)]), shade)
        for dx in (-0.03, 0.03):
            pen.fill(ellipse(tx + dx * h, ty + h * 0.03, h * 0.028), pal.lit("#7b4a2c", haze))


def cactus(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0) -> None:
    green = jitter(rgb("#4c9a6a"), rng, 0.05)
    body, dark = pal.lit(green, haze), pal.lit(mix(green, (0.02, 0.12, 0.12), 0.3), haze)
    w = h * 0.11
    pen.shadow(x + h * 0.06, y, h * 0.22, h * 0.045)
    with pen.tag("cactus"):
        for side, low in ((-1, 0.4), (1, 0.54)):
            ax = x + side * h * 0.25
            pen.fill(
                box(min(x, ax) - w * 0.2, y - h * low - w * 0.7, max(x, ax) + w * 0.2, y - h * low + w * 0.7, w * 0.6),
                dark,
            )
            pen.fill(box(ax - w * 0.7, y - h * (low + 0.3), ax + w * 0.7, y - h * low + w * 0.7, w * 0.7), body, dark)
        pen.fill(box(x - w, y - h, x + w, y, w), body, dark)
        with pen.silent():
            for dx in (-0.4, 0.1, 0.5):
                pen.line(
                    [(x + dx * w, y - h * 0.92), (x + dx * w, y - 3)],
                    pal.lit(mix(green, (1, 1, 0.8), 0.4), haze),
                    0.8,
                    0.5,
                )
        pen.fill(ellipse(x, y - h, w * 0.5, w * 0.36), pal.lit("#ef6f8f", haze))


def flower(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "red") -> None:  # fmt: skip
    """A clump of flowers, about 1.6 h wide."""
    stems = [((i / 4 - 0.5) * 1.5, (0.62, 0.9, 0.7, 0.95, 0.6)[i]) for i in (0, 4, 2, 1, 3)]
    green = pal.lit(jitter(rgb("#4d9a4a"), rng), haze)
    with pen.tag("flower"):
        for dx, height in stems:
            fx, fy = x + dx * h, y - height * h
            pen.line([(fx - dx * h * 0.3, y), (fx, fy)], green, max(1.0, h * 0.05))
        pen.fill(smooth([(x - h * 0.95, y + 1), (x - h * 0.6, y - h * 0.42), (x - h * 0.2, y - h * 0.3), (x + h * 0.2, y - h * 0.46),
                         (x + h * 0.6, y - h * 0.34), (x + h * 0.95, y + 1), (x, y + h * 0.1)]), green)  # fmt: skip
        for dx, height in stems:
            fx, fy, r = x + dx * h, y - height * h, h * 0.27
            petal = pal.lit(jitter(rgb(PETALS[color]), rng, 0.05), haze)
            pen.fill(smooth([(fx + math.cos(a) * r * s, fy + math.sin(a) * r * s)
                             for a, s in ((i * math.tau / 10, 1.25 if i % 2 else 0.7) for i in range(10))]), petal)  # fmt: skip
            pen.fill(
                ellipse(fx, fy, r * 0.34), pal.lit("#ffdf6b" if color != "yellow" else "#b5651d", haze), plain=True
            )


def wheat(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0) -> None:
    """A stand of wheat, about 2.6 h wide."""
    gold = jitter(rgb("#e8b84a"), rng, 0.04)
    low, high = pal.lit(mix(gold, (0.4, 0.25, 0.05), 0.3), haze), pal.lit(gold, haze)
    with pen.tag("wheat"):
        pen.fill(smooth([(x - h * 1.3, y + h * 0.06), (x - h * 1.15, y - h * 0.6), (x, y - h * 0.74), (x + h * 1.15, y - h * 0.6),
                         (x + h * 1.3, y + h * 0.06), (x, y + h * 0.12)]), high, low)  # fmt: skip
        for i in range(15):
            sx = x + (i / 14 - 0.5) * h * 2.3
            top, lean = y - h * (0.98 - 0.09 * (i % 3)), (0.05 * (i % 4) - 0.06) * h
            pen.line([(sx, y - h * 0.1), (sx + lean, top + h * 0.2)], low, 0.9)
            pen.fill(
                ellipse(sx + lean, top + h * 0.12, h * 0.06, h * 0.15),
                mix(high, (1, 1, 0.8), 0.1 * (i % 3)),
                plain=True,
            )


def sheep(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "white") -> None:  # fmt: skip
    wool, face = pal.lit(COATS[color], haze), pal.lit("#3d3742" if color != "black" else "#e8dccb", haze)
    pen.shadow(x, y, h * 0.62, h * 0.1)
    with pen.turned(x, y, flip=rng.random() < 0.5), pen.tag("sheep"):
        for dx in (-0.34, -0.16, 0.16, 0.34):
            pen.fill(box(dx * h - h * 0.05, -h * 0.34, dx * h + h * 0.05, 0), face)
        body = [(math.cos(a) * h * 0.6 * s, -h * 0.58 + math.sin(a) * h * 0.36 * s)
                for a, s in ((i * math.tau / 14, 1.12 if i % 2 else 0.92) for i in range(14))]  # fmt: skip
        pen.fill(smooth(body), wool, mix(wool, (0.25, 0.25, 0.45), 0.18))
        pen.fill(
            smooth(
                [
                    (h * 0.44, -h * 0.9),
                    (h * 0.7, -h * 0.92),
                    (h * 0.86, -h * 0.62),
                    (h * 0.72, -h * 0.5),
                    (h * 0.5, -h * 0.6),
                ]
            ),
            face,
        )
        pen.fill(ellipse(h * 0.52, -h * 0.92, h * 0.15, h * 0.1), wool, plain=True)
        pen.fill(ellipse(h * 0.67, -h * 0.76, h * 0.03), (1, 1, 1), plain=True)


def cow(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "white") -> None:  # fmt: skip
    hide = pal.lit(HIDES[color], haze)
    patch = pal.lit("#3d3842" if color == "white" else "#f3e9da", haze)
    pen.shadow(x, y, h * 0.8, h * 0.1)
    with pen.turned(x, y, flip=rng.random() < 0.5), pen.tag("cow"):
        for dx in (-0.56, -0.38, 0.3, 0.48):
            pen.fill(box(dx * h - h * 0.06, -h * 0.42, dx * h + h * 0.06, 0), mix(hide, (0.1, 0.1, 0.15), 0.2))
        pen.line([(-h * 0.66, -h * 0.8), (-h * 0.76, -h * 0.4)], hide, h * 0.05)
        body = smooth(
            [
                (-h * 0.7, -h * 0.86),
                (0, -h * 0.84),
                (h * 0.6, -h * 0.92),
                (h * 0.68, -h * 0.5),
                (h * 0.1, -h * 0.3),
                (-h * 0.64, -h * 0.34),
            ]
        )
        pen.fill(body, hide, mix(hide, (0.1, 0.1, 0.2), 0.2))
        with pen.clipped(body):
            for px, py, rx, ry in ((-0.42, 0.76, 0.2, 0.14), (0.02, 0.52, 0.18, 0.13), (0.36, 0.8, 0.15, 0.11)):
                pen.fill(ellipse(px * h, -py * h, rx * h, ry * h), patch, plain=True)
        pen.fill(
            smooth(
                [
                    (h * 0.56, -h * 1.05),
                    (h * 0.86, -h * 1.04),
                    (h * 0.98, -h * 0.72),
                    (h * 0.84, -h * 0.6),
                    (h * 0.62, -h * 0.74),
                ]
            ),
            hide,
        )
        pen.fill(ellipse(h * 0.89, -h * 0.69, h * 0.12, h * 0.09), pal.lit("#f0b9a8", haze), plain=True)
        for dx in (0.58, 0.84):
            pen.line(
                [(dx * h, -h * 1.02), (dx * h + (dx - 0.7) * h * 0.4, -h * 1.16)], pal.lit("#efe3c2", haze), h * 0.05
            )
        pen.fill(ellipse(h * 0.76, -h * 0.9, h * 0.03), (0.1, 0.1, 0.12), plain=True)


def bird(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0) -> None:
    """A gull in flight with its middle at (x, y); ``h`` is its wing span."""
    dark = pal.time == "night"
    color: RGB = pal.lit("#f4f2ea" if dark else "#3c3f58", haze * 0.5)
    with pen.turned(x, y, rng.uniform(-6, 6), flip=rng.random() < 0.5), pen.tag("bird"):
        lift = 0.3 * h
        for side in (-1, 1):
            pen.fill(smooth([(0, 0), (side * h * 0.14, -lift * 0.9), (side * h * 0.34, -lift), (side * h * 0.54, -lift * 0.35),
                             (side * h * 0.34, -lift * 0.52), (side * h * 0.14, h * 0.05)]), color)  # fmt: skip
        pen.fill(
            smooth([(-h * 0.2, h * 0.02), (0, -h * 0.06), (h * 0.16, -h * 0.04), (h * 0.24, h * 0.0), (0, h * 0.1)]),
            color,
            plain=True,
        )


def fish(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "orange") -> None:  # fmt: skip
    """A leaping fish, ``h`` long, its middle at (x, y − h/2), with a splash below."""
    body = pal.lit(jitter(rgb(SCALES[color]), rng), haze)
    with pen.silent():
        pen.fill(ellipse(x, y, h * 0.5, h * 0.1), pal.lit("#ffffff"), alpha=0.5)
        for i in range(6):
            pen.fill(
                ellipse(x + (i / 5 - 0.5) * 1.1 * h, y - (0.1 + 0.12 * (i % 2)) * h, h * 0.035),
                pal.lit("#ffffff"),
                alpha=0.8,
            )
    with pen.turned(x, y - h * 0.45, -18, flip=rng.random() < 0.5), pen.tag("fish"):
        pen.fill(
            smooth([(-h * 0.34, 0), (-h * 0.62, -h * 0.2), (-h * 0.55, 0), (-h * 0.62, h * 0.2)]),
            mix(body, (0.3, 0.1, 0.1), 0.2),
        )
        pen.fill(smooth([(-h * 0.4, 0), (-h * 0.1, -h * 0.24), (h * 0.3, -h * 0.18), (h * 0.5, 0), (h * 0.3, h * 0.18), (-h * 0.1, h * 0.22)]),
                 body, mix(body, (1, 1, 0.9), 0.45))  # fmt: skip
        pen.fill(
            smooth([(-h * 0.08, -h * 0.2), (h * 0.05, -h * 0.36), (h * 0.2, -h * 0.17)]),
            mix(body, (0.3, 0.1, 0.1), 0.25),
        )
        pen.line(arc_points(h * 0.12, 0, h * 0.07, h * 0.15, -70, 70, 6), mix(body, (0.3, 0.1, 0.1), 0.4), 0.9)
        pen.fill(ellipse(h * 0.32, -h * 0.06, h * 0.05), (1, 1, 1), plain=True)
        pen.fill(ellipse(h * 0.33, -h * 0.06, h * 0.027), (0.08, 0.08, 0.1), plain=True)
