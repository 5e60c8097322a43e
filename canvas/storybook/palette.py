"""Colours: what the hour and the drawing style make of them. Colours are RGB triples in 0..1."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from random import Random

RGB = tuple[float, float, float]


def rgb(code: str) -> RGB:
    """``"#rrggbb"`` as a triple in 0..1."""
    return tuple(int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))  # type: ignore[return-value]


def mix(a: RGB, b: RGB, t: float) -> RGB:
    """Linear blend: ``a`` at t = 0, ``b`` at t = 1."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def saturate(c: RGB, factor: float) -> RGB:
    h, s, v = colorsys.rgb_to_hsv(*c)
    return colorsys.hsv_to_rgb(h, min(1.0, s * factor), v)


def jitter(c: RGB, rng: Random, amount: float = 0.04) -> RGB:
    h, s, v = colorsys.rgb_to_hsv(*c)
    return colorsys.hsv_to_rgb(
        (h + rng.uniform(-amount, amount) * 0.25) % 1.0,
        min(1.0, max(0.0, s * (1 + rng.uniform(-amount, amount)))),
        min(1.0, max(0.0, v * (1 + rng.uniform(-amount, amount) * 0.7))),
    )


SKIES: dict[str, tuple[str, str, str]] = {
    "day": ("#4796d9", "#8fcbf0", "#e6f4f4"),
    "sunset": ("#4c3f80", "#dc6a7c", "#ffc874"),
    "night": ("#0a1030", "#1a2860", "#42518f"),
}
"""From the top down."""
AMBIENT: dict[str, RGB] = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.80, 0.74), "night": (0.50, 0.57, 0.82)}
GLAZE: dict[str, tuple[RGB, float]] = {
    "day": (rgb("#fff6d8"), 0.0),
    "sunset": (rgb("#ff7e5a"), 0.14),
    "night": (rgb("#20306c"), 0.22),
}
CREAM = rgb("#f8f1e2")


@dataclass(frozen=True)
class Palette:
    """The colours of one scene: a sky, and what hour and style make of any local colour."""

    time: str
    style: str
    sky: tuple[RGB, RGB, RGB]

    @classmethod
    def choose(cls, time: str, style: str, rng: Random) -> Palette:
        top, middle, low = (jitter(rgb(c), rng, 0.03) for c in SKIES[time])
        palette = cls(time, style, (top, middle, low))
        return cls(time, style, (palette.styled(top), palette.styled(middle), palette.styled(low)))

    def styled(self, c: RGB) -> RGB:
        """What the drawing style does to a colour."""
        match self.style:
            case "watercolour":
                return mix(saturate(c, 0.95), CREAM, 0.08 if self.time == "night" else 0.22)
            case "glow":
                return saturate((c[0] * 0.56, c[1] * 0.56, c[2] * 0.68), 1.4)
            case "ink":
                return mix(saturate(c, 0.78), CREAM, 0.12 if self.time == "night" else 0.32)
            case _:
                return saturate(c, 1.06)

    def lit(self, c: RGB | str, haze: float = 0.0) -> RGB:
        """A thing's own colour under this hour's light; ``haze`` 0..1 takes it towards the low sky (distance)."""
        own = rgb(c) if isinstance(c, str) else c
        ambient, (glaze, amount) = AMBIENT[self.time], GLAZE[self.time]
        if self.style == "glow" and self.time == "night":
            ambient = mix(ambient, (1.0, 1.0, 1.0), 0.45)
        shaded = mix((own[0] * ambient[0], own[1] * ambient[1], own[2] * ambient[2]), glaze, amount)
        return mix(self.styled(shaded), self.sky[2], haze)

    def light(self, c: RGB | str) -> RGB:
        """The colour of something that gives light itself: the hour does not darken it."""
        own = rgb(c) if isinstance(c, str) else c
        return own if self.style == "glow" else mix(own, self.styled(own), 0.4)
