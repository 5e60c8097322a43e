"""Buildings, vehicles and lights. Every function draws one thing of height ``h`` standing at (x, y), in drawing units."""

from __future__ import annotations

from random import Random

from canvas.storybook.palette import RGB, Palette, jitter, mix, rgb
from canvas.storybook.pen import Pen, arc_points, box, cut, ellipse, polygon, smooth

PAINTS = {"red": "#d9483b", "blue": "#3f74c4", "yellow": "#f4bf3f", "green": "#4b9b6b", "white": "#f5efe2", "orange": "#ee8840", "purple": "#8a5bb8", "pink": "#ec87a6"}  # fmt: skip
WALLS = {"white": "#f6ecd9", "yellow": "#f3cf7f", "red": "#c8674f", "blue": "#9cbfd8", "pink": "#eeb6ae"}
ROOF = "#c1503c"
STONES = {"grey": "#b7b3b8", "white": "#eee6da", "golden": "#dcc08c", "pink": "#ddb0ad"}


def window(pen: Pen, pal: Palette, x0: float, y0: float, x1: float, y1: float, lit: bool, radius: float = 0.0) -> None:
    if lit:
        with pen.tag("lit window"):
            pen.fill(box(x0, y0, x1, y1, radius), pal.light("#ffd95e"), pal.light("#ffb648"), plain=True)
        pen.glow((x0 + x1) / 2, (y0 + y1) / 2, 2.1 * max(x1 - x0, y1 - y0), (1.0, 0.75, 0.35), 0.55)
    else:
        pen.fill(box(x0, y0, x1, y1, radius), pal.lit("#5b7391"), pal.lit("#a9c6d6"), plain=True)


def house(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "white", lit: bool = False) -> None:  # fmt: skip
    wall = pal.lit(jitter(rgb(WALLS[color]), rng, 0.03), haze)
    shade = mix(wall, (0.15, 0.12, 0.3), 0.22)
    roof = pal.lit(jitter(rgb(ROOF), rng), haze)
    w = h * 0.58
    pen.shadow(x + h * 0.1, y, w * 1.15, h * 0.06)
    with pen.tag("house"):
        pen.fill(box(x + w * 0.42, y - h * 0.98, x + w * 0.62, y - h * 0.6), pal.lit("#9d5a48", haze))
        with pen.silent():
            for i in range(4):
                pen.fill(ellipse(x + w * (0.55 + 0.1 * i), y - h * (1.05 + 0.11 * i), h * (0.035 + 0.016 * i)), pal.lit("#ffffff", 0.3), alpha=0.5, blur=1.0)  # fmt: skip
        pen.fill(box(x - w, y - h * 0.55, x + w, y), wall, shade)
        pen.fill(polygon([(x - w * 1.16, y - h * 0.52), (x - w * 0.8, y - h * 0.94), (x + w * 0.8, y - h * 0.94), (x + w * 1.16, y - h * 0.52)]),
                 mix(roof, (1, 1, 0.9), 0.08), roof)  # fmt: skip
        pen.fill(box(x - w * 0.16, y - h * 0.36, x + w * 0.16, y, h * 0.03), pal.lit("#7a4a35", haze))
        for dx in (-0.62, 0.62):
            window(pen, pal, x + dx * w - h * 0.085, y - h * 0.4, x + dx * w + h * 0.085, y - h * 0.2, lit)


def castle(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "grey", lit: bool = False) -> None:  # fmt: skip
    stone = jitter(rgb(STONES[color]), rng, 0.03)
    light, shade = pal.lit(stone, haze), pal.lit(mix(stone, (0.15, 0.12, 0.35), 0.3), haze)
    roof = pal.lit(jitter(rgb("#4b5f9e"), rng), haze)
    w = h * 0.42

    def battlement(x0: float, x1: float, top: float, n: int) -> None:
        step = (x1 - x0) / (2 * n - 1)
        for i in range(n):
            pen.fill(box(x0 + 2 * i * step, top - step * 1.1, x0 + (2 * i + 1) * step, top + 1), light, plain=True)

    def tower(tx: float, half: float, top: float) -> None:
        pen.fill(box(tx - half, top, tx + half, y), light, shade)
        tip = top - half * 2.5
        pen.fill(
            polygon([(tx - half * 1.3, top + 1), (tx, tip), (tx + half * 1.3, top + 1)]),
            mix(roof, (1, 1, 0.9), 0.15),
            roof,
        )
        pen.line([(tx, tip), (tx, tip - h * 0.08)], shade, 1.1)
        pen.fill(
            polygon([(tx, tip - h * 0.085), (tx + h * 0.09, tip - h * 0.06), (tx, tip - h * 0.03)]),
            pal.lit("#f0b83f", haze),
            plain=True,
        )
        window(pen, pal, tx - half * 0.26, top + half * 0.8, tx + half * 0.26, top + half * 1.8, lit, half * 0.26)

    pen.shadow(x + h * 0.08, y, w * 1.3, h * 0.05)
    with pen.tag("castle"):
        tower(x, w * 0.34, y - h * 0.66)
        pen.fill(box(x - w, y - h * 0.38, x + w, y), light, shade)
        battlement(x - w * 0.95, x + w * 0.95, y - h * 0.38, 6)
        for side in (-1, 1):
            tower(x + side * w, w * 0.24, y - h * 0.54)
        gate = smooth(
            [
                (x - w * 0.22, y + 1),
                (x - w * 0.22, y - h * 0.2),
                (x, y - h * 0.28),
                (x + w * 0.22, y - h * 0.2),
                (x + w * 0.22, y + 1),
            ]
        )
        pen.fill(gate, pal.lit("#5a3a2c", haze))
        for dx in (-0.55, 0.55):
            window(pen, pal, x + dx * w - w * 0.07, y - h * 0.27, x + dx * w + w * 0.07, y - h * 0.14, lit, w * 0.06)


def lighthouse(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "red", lit: bool = False) -> None:  # fmt: skip
    band, white = pal.lit(PAINTS[color], haze), pal.lit("#f8f2e6", haze)
    w = h * 0.13
    if lit:
        with pen.silent():
            for side in (-1, 1):
                pen.fill(
                    polygon([(x, y - h * 0.88), (x + side * h * 1.2, y - h * 1.1), (x + side * h * 1.2, y - h * 0.72)]),
                    (1.0, 0.93, 0.62),
                    alpha=0.22,
                    blur=2.0,
                )
    pen.shadow(x + h * 0.06, y, w * 2.2, h * 0.03)
    with pen.tag("lighthouse"):
        for i in range(5):
            t0, t1 = i / 5, (i + 1) / 5
            w0, w1 = w * (1 - 0.36 * t0), w * (1 - 0.36 * t1)
            y0, y1 = y - h * 0.78 * t0, y - h * 0.78 * t1
            c = band if i % 2 == 0 else white
            pen.fill(
                polygon([(x - w0, y0), (x - w1, y1), (x + w1, y1), (x + w0, y0)]), c, mix(c, (0.1, 0.1, 0.3), 0.12)
            )
        pen.fill(box(x - w * 0.95, y - h * 0.80, x + w * 0.95, y - h * 0.77), pal.lit("#4b4a58", haze))
        with pen.tag(*(("lit window",) if lit else ())):
            pen.fill(
                box(x - w * 0.5, y - h * 0.93, x + w * 0.5, y - h * 0.80),
                pal.light("#ffe27a") if lit else pal.lit("#9fb9c9", haze),
            )
        pen.fill(
            smooth(
                [
                    (x - w * 0.75, y - h * 0.92),
                    (x - w * 0.3, y - h * 0.99),
                    (x, y - h * 1.02),
                    (x + w * 0.3, y - h * 0.99),
                    (x + w * 0.75, y - h * 0.92),
                ]
            ),
            band,
        )
        pen.fill(box(x - w * 0.2, y - h * 0.12, x + w * 0.2, y, w * 0.18), pal.lit("#5b4337", haze))
    if lit:
        pen.glow(x, y - h * 0.87, h * 0.42, (1.0, 0.9, 0.55), 0.8)


def windmill(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "white", lit: bool = False) -> None:  # fmt: skip
    wall = pal.lit(WALLS[color], haze)
    w = h * 0.19
    pen.shadow(x + h * 0.08, y, w * 1.7, h * 0.04)
    with pen.tag("windmill"):
        pen.fill(
            polygon([(x - w, y), (x - w * 0.6, y - h * 0.62), (x + w * 0.6, y - h * 0.62), (x + w, y)]),
            wall,
            mix(wall, (0.15, 0.12, 0.3), 0.22),
        )
        pen.fill(
            smooth(
                [
                    (x - w * 0.8, y - h * 0.6),
                    (x - w * 0.5, y - h * 0.76),
                    (x, y - h * 0.82),
                    (x + w * 0.5, y - h * 0.76),
                    (x + w * 0.8, y - h * 0.6),
                ]
            ),
            pal.lit(ROOF, haze),
        )
        pen.fill(box(x - w * 0.22, y - h * 0.17, x + w * 0.22, y, w * 0.2), pal.lit("#6f4733", haze))
        window(pen, pal, x - w * 0.2, y - h * 0.46, x + w * 0.2, y - h * 0.34, lit)
        turn, hub = 38, (x, y - h * 0.66)
        sail, spar = pal.lit("#fbf4e4", haze), pal.lit("#5c4334", haze)
        for i in range(4):
            with pen.turned(*hub, turn + 90 * i):
                pen.fill(
                    polygon(
                        [(h * 0.07, -h * 0.02), (h * 0.42, -h * 0.02), (h * 0.42, -h * 0.13), (h * 0.07, -h * 0.1)]
                    ),
                    sail,
                )
                pen.line([(0, 0), (h * 0.43, 0)], spar, h * 0.024)
        pen.fill(ellipse(*hub, h * 0.035), spar, plain=True)


def bridge(pen: Pen, pal: Palette, rng: Random, x: float, y: float, half: float, haze: float = 0.0) -> None:
    """A stone arch bridge whose deck is ``2 half`` wide, its feet at ``y``."""
    stone = jitter(rgb("#c2a78c"), rng, 0.05)
    light, shade = pal.lit(stone, haze), pal.lit(mix(stone, (0.15, 0.12, 0.3), 0.35), haze)
    rise = half * 0.42
    with pen.tag("bridge"):
        deck = (
            [(x - half, y)]
            + [
                (x + half * (t - 0.5) * 2, y - rise * (1 - (2 * t - 1) ** 2 * 0.75))
                for t in (i / 12 for i in range(13))
            ]
            + [(x + half, y)]
        )
        arches = polygon(deck)
        n = 1 if half < 36 else 3
        width = half * 1.5 / n
        for i in range(n):
            ax = x + (i - (n - 1) / 2) * width
            top = rise * (0.62 if i == (n - 1) / 2 else 0.42)
            hole = polygon(
                [
                    (ax - width * 0.38, y + 2),
                    *arc_points(ax, y, width * 0.38, top, 180, 360),
                    (ax + width * 0.38, y + 2),
                ]
            )
            arches = cut(arches, hole)
        pen.fill(arches, light, shade)
        pen.line(
            [(px, py - 1) for px, py in deck[1:-1]], pal.lit(mix(stone, (1, 1, 0.9), 0.3), haze), max(1.6, half * 0.06)
        )


def boat(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "red") -> None:  # fmt: skip
    """A sailing boat; the waterline is at ``y``."""
    hull, sail = pal.lit(jitter(rgb("#8a4f34"), rng), haze), pal.lit(jitter(rgb(PAINTS[color]), rng, 0.03), haze)
    jib = pal.lit("#fbf3e0" if color != "white" else "#e9785a", haze)
    flip = rng.random() < 0.5

    def draw() -> None:
        with pen.turned(x, y, flip=flip), pen.tag("boat"):
            pen.line([(0, -h * 0.12), (0, -h)], pal.lit("#5a4030", haze), max(1.0, h * 0.025))
            pen.fill(
                smooth(
                    [
                        (h * 0.03, -h * 0.96),
                        (h * 0.3, -h * 0.5),
                        (h * 0.42, -h * 0.2),
                        (h * 0.2, -h * 0.2),
                        (h * 0.03, -h * 0.21),
                    ]
                ),
                sail,
                mix(sail, (0.1, 0.05, 0.2), 0.12),
            )
            pen.fill(
                smooth(
                    [
                        (-h * 0.03, -h * 0.9),
                        (-h * 0.16, -h * 0.5),
                        (-h * 0.32, -h * 0.22),
                        (-h * 0.1, -h * 0.22),
                        (-h * 0.03, -h * 0.24),
                    ]
                ),
                jib,
            )
            pen.fill(
                polygon([(-h * 0.44, -h * 0.16), (h * 0.48, -h * 0.16), (h * 0.34, h * 0.03), (-h * 0.3, h * 0.03)]),
                hull,
                mix(hull, (0.05, 0.03, 0.1), 0.3),
            )
            pen.fill(box(-h * 0.44, -h * 0.175, h * 0.48, -h * 0.14), pal.lit("#f4e7cf", haze), plain=True)

    pen.mirrored(draw, y + h * 0.03, 0.34, 0.5)
    draw()
    with pen.silent():
        pen.fill(ellipse(x, y + h * 0.03, h * 0.5, h * 0.025), pal.lit("#ffffff"), alpha=0.55)


def balloon(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "red") -> None:  # fmt: skip
    """A hot-air balloon whose basket ends at ``y``."""
    first = pal.lit(PAINTS[color], haze)
    second = pal.lit("#fbf1da" if color != "white" else "#e9785a", haze)
    r, cy = h * 0.36, y - h * 0.64
    with pen.tag("balloon"):
        for dx in (-0.5, 0.5):
            pen.line(
                [(x + dx * r * 0.72, cy + r * 0.75), (x + dx * h * 0.13, y - h * 0.13)], pal.lit("#6b5140", haze), 0.9
            )
        shell = smooth([(x - r * 1.0, cy - r * 0.25), (x - r * 0.75, cy - r * 0.98), (x, cy - r * 1.16), (x + r * 0.75, cy - r * 0.98),
                        (x + r * 1.0, cy - r * 0.25), (x + r * 0.72, cy + r * 0.62), (x + r * 0.3, cy + r * 1.04), (x - r * 0.3, cy + r * 1.04), (x - r * 0.72, cy + r * 0.62)])  # fmt: skip
        pen.fill(shell, first)
        with pen.clipped(shell):
            for k in (-0.62, 0.0, 0.62):
                pen.fill(ellipse(x + k * r, cy - r * 0.05, r * 0.17, r * 1.25), second, plain=True)
            with pen.silent():
                pen.fill(
                    ellipse(x + r * 0.85, cy + r * 0.3, r * 0.6, r * 1.2), (0.1, 0.05, 0.25), alpha=0.2, blur=r * 0.16
                )
                pen.fill(ellipse(x - r * 0.42, cy - r * 0.5, r * 0.26, r * 0.36), (1, 1, 1), alpha=0.25, blur=r * 0.1)
        pen.fill(
            box(x - h * 0.08, y - h * 0.14, x + h * 0.08, y, h * 0.02),
            pal.lit("#94633d", haze),
            pal.lit("#6d452b", haze),
        )
        if pal.time == "night":
            pen.glow(x, y - h * 0.2, h * 0.3, (1.0, 0.7, 0.3), 0.5)


def car(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0, color: str = "red", lit: bool = False) -> None:  # fmt: skip
    paint = pal.lit(jitter(rgb(PAINTS[color]), rng, 0.03), haze)
    pen.shadow(x, y, h * 1.15, h * 0.1)
    with pen.turned(x, y, flip=rng.random() < 0.5), pen.tag("car"):
        pen.fill(
            smooth(
                [
                    (-h * 0.72, -h * 0.5),
                    (-h * 0.52, -h * 1.0),
                    (-h * 0.1, -h * 1.04),
                    (h * 0.3, -h * 1.0),
                    (h * 0.62, -h * 0.5),
                ]
            ),
            paint,
        )
        pen.fill(
            smooth([(-h * 0.52, -h * 0.56), (-h * 0.42, -h * 0.9), (-h * 0.06, -h * 0.92), (-h * 0.06, -h * 0.56)]),
            pal.lit("#bfe0ea", haze),
            plain=True,
        )
        pen.fill(
            smooth([(h * 0.02, -h * 0.56), (h * 0.02, -h * 0.92), (h * 0.26, -h * 0.88), (h * 0.46, -h * 0.56)]),
            pal.lit("#bfe0ea", haze),
            plain=True,
        )
        pen.fill(box(-h * 1.05, -h * 0.6, h * 1.1, -h * 0.17, h * 0.2), paint, mix(paint, (0.05, 0.02, 0.1), 0.28))
        for dx in (-0.6, 0.64):
            pen.fill(ellipse(dx * h, -h * 0.18, h * 0.21), pal.lit("#2e2c36", haze))
            pen.fill(ellipse(dx * h, -h * 0.18, h * 0.09), pal.lit("#d8d4cc", haze), plain=True)
        pen.fill(ellipse(h * 1.02, -h * 0.45, h * 0.07), pal.light("#ffe9a0"), plain=True)
        if lit:
            pen.glow(h * 1.2, -h * 0.42, h * 0.7, (1.0, 0.9, 0.6), 0.7)


def campfire(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0) -> None:
    if pal.time != "day":
        pen.glow(x, y - h * 0.3, h * 2.0, (1.0, 0.5, 0.2), 0.6)
    with pen.tag("campfire"):
        for angle in (-24, 24):
            with pen.turned(x, y - h * 0.06, angle):
                pen.fill(box(-h * 0.48, -h * 0.07, h * 0.48, h * 0.07, h * 0.06), pal.lit("#6d4630", haze))
        for size, color in ((1.0, "#f2632e"), (0.72, "#ff9d37"), (0.42, "#ffe07a")):
            s, lean = h * size, rng.uniform(-0.06, 0.06) * h
            pen.fill(smooth([(x - s * 0.34, y - s * 0.16), (x - s * 0.26, y - s * 0.5), (x - s * 0.08 + lean, y - s * 0.62), (x + lean, y - s * 1.04),
                             (x + s * 0.16 + lean, y - s * 0.66), (x + s * 0.3, y - s * 0.46), (x + s * 0.34, y - s * 0.16), (x, y - s * 0.02)]), pal.light(color), plain=True)  # fmt: skip


def street_lamp(pen: Pen, pal: Palette, rng: Random, x: float, y: float, h: float, haze: float = 0.0) -> None:
    iron: RGB = pal.lit("#3b3d4a", haze)
    on = pal.time != "day"
    if on:
        with pen.silent():
            pen.fill(ellipse(x, y, h * 0.3, h * 0.05), (1.0, 0.85, 0.5), alpha=0.35, blur=2.5)
    with pen.tag("street lamp"):
        pen.fill(box(x - h * 0.022, y - h * 0.8, x + h * 0.022, y), iron)
        pen.fill(
            polygon([(x - h * 0.07, y), (x - h * 0.03, y - h * 0.1), (x + h * 0.03, y - h * 0.1), (x + h * 0.07, y)]),
            iron,
        )
        glass = polygon(
            [
                (x - h * 0.06, y - h * 0.78),
                (x - h * 0.1, y - h * 0.95),
                (x + h * 0.1, y - h * 0.95),
                (x + h * 0.06, y - h * 0.78),
            ]
        )
        pen.fill(glass, pal.light("#ffdf80") if on else pal.lit("#dfe8ea", haze))
        pen.fill(polygon([(x - h * 0.13, y - h * 0.94), (x, y - h * 1.03), (x + h * 0.13, y - h * 0.94)]), iron)
    if on:
        pen.glow(x, y - h * 0.86, h * 0.5, (1.0, 0.82, 0.45), 0.85)
