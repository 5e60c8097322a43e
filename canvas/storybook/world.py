"""The drawn world: picture-book scenes composed from a seed, each with a caption and the truth about every pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import numpy as np

from canvas.storybook import landscape as land
from canvas.storybook import made, nature
from canvas.storybook.finish import finish
from canvas.storybook.palette import RGB, Palette, jitter, mix, rgb
from canvas.storybook.pen import SIDE, Pen, polygon, smooth
from canvas.storybook.props import COLORS, COUNTS, DRAW, EXTRAS, HEIGHTS, LIGHTABLE, SETTINGS, WHERE, WIDTHS
from canvas.storybook.vocabulary import INDEX, OBJECTS, STYLES, TIMES

USUAL = 0.7
"""How often a thing has its usual colour, and a scene the usual style, which is the first: captions name any other."""


@dataclass(frozen=True)
class Thing:
    """What a caption may say of one kind of thing: how many, of what colour, and where its first one is (0..1)."""

    name: str
    count: int
    color: str
    x: float
    lit: bool = False


@dataclass(frozen=True)
class Scene:
    """One drawn picture and the truth about it."""

    seed: int
    style: str
    time: str
    setting: str
    weather: tuple[str, ...]
    things: tuple[Thing, ...]
    image: np.ndarray = field(repr=False)
    """uint8 [size, size, 3]"""
    masks: np.ndarray = field(repr=False)
    """bool [len(CONCEPTS), size, size]: the visible pixels of every concept of ``vocabulary.CONCEPTS``; none at all
    (first axis 0) if they were not asked for"""


@dataclass
class _Band:
    """A strip of ground or water on which things stand, from its ridge down to the next one."""

    ridge: land.Ridge
    foot: land.Ridge
    kind: str
    paint: Callable[[], None]
    things: list[tuple[float, Callable[[], None]]] = field(default_factory=list)


class _Composer:
    def __init__(self, seed: int, size: int, style: str | None, time: str | None, hero: str | None) -> None:
        self.rng = rng = Random(seed)
        self.style = STYLES[0] if rng.random() < USUAL else rng.choice(STYLES[1:])
        self.style = style or self.style
        self.hero = hero or rng.choice(OBJECTS)
        self.time = time or self._hour()
        places = WHERE.get(self.hero, tuple(SETTINGS))
        self.setting = rng.choices(places, [SETTINGS[p] for p in places])[0]
        self.weather: list[str] = []
        self.things: dict[str, Thing] = {}
        self.pen = Pen(self.style, size)
        self.pal = Palette.choose(self.time, self.style, rng)
        self.horizon = rng.uniform(112, 156)
        self.taken: list[tuple[float, float, float]] = []
        self.lights: list[tuple[float, RGB]] = []
        self.snowing = (
            self.hero not in ("cactus", "palm", "rainbow") and self.setting != "desert" and rng.random() < 0.13
        )

    def _hour(self) -> str:
        likely = {
            "sun": (6, 4, 0),
            "moon": (0, 1, 9),
            "campfire": (2, 3, 4),
            "street lamp": (2, 3, 4),
            "rainbow": (7, 2, 0),
        }
        return self.rng.choices(TIMES, likely.get(self.hero, (5, 3.2, 3)))[0]

    def color(self, name: str) -> str:
        """What colour a thing has: mostly its usual one, which is the first."""
        usual, *others = COLORS.get(name, ("",))
        return self.rng.choice(others) if others and self.rng.random() >= USUAL else usual

    def chance(self, name: str, p: float) -> bool:
        return self.hero == name or self.rng.random() < p

    def note(self, name: str, x: float, color: str = "", lit: bool = False, count: int = 1) -> None:
        old = self.things.get(name)
        self.things[name] = (
            Thing(name, old.count + count, old.color, old.x, old.lit or lit)
            if old
            else Thing(name, count, color, x / SIDE, lit)
        )

    def room(self, x: float, y: float, half: float) -> bool:
        """Whether nothing else stands within reach at about this depth; takes the place if so."""
        if any(abs(x - u) < (half + v) * 0.9 and abs(y - w) < 34 for u, w, v in self.taken):
            return False
        self.taken.append((x, y, half))
        return True

    def scale(self, y: float) -> float:
        return 0.84 + 0.3 * max(0.0, (y - self.horizon) / (SIDE - self.horizon))

    # ---- sky ------------------------------------------------------------------------------------------------------
    def paint_sky(self) -> None:
        rng, pen, pal, horizon = self.rng, self.pen, self.pal, self.horizon
        land.sky(pen, pal)
        if self.time == "night" and rng.random() < 0.8:
            self.weather.append("stars")
            land.stars(pen, pal, rng, horizon)
        if self.time != "night" and self.chance("sun", 0.42):
            r = rng.uniform(20, 28)
            x, y = (
                rng.uniform(30, 226),
                (rng.uniform(26, 62) if self.time == "day" else rng.uniform(horizon - 42, horizon - 8)),
            )
            land.sun(pen, pal, x, y, r, rays=self.time == "day")
            self.note("sun", x)
            self.lights.append((x, (1.0, 0.95, 0.75) if self.time == "day" else (1.0, 0.72, 0.45)))
        if self.time == "night" and self.chance("moon", 0.55):
            r, x, y = rng.uniform(20, 28), rng.uniform(34, 222), rng.uniform(32, 78)
            crescent = self.color("moon") == "crescent"
            land.moon(pen, pal, rng, x, y, r, crescent)
            self.note("moon", x, "crescent" if crescent else "full")
            self.lights.append((x, (0.95, 0.95, 0.85)))
        if self.time != "night" and self.chance("rainbow", 0.05):
            r, x = rng.uniform(74, 118), rng.uniform(70, 186)
            land.rainbow(pen, pal, x, horizon + rng.uniform(-4, 16), r)
            self.note("rainbow", x)
        self.wet = (
            not self.snowing and self.setting != "desert" and self.hero not in ("sun", "moon") and rng.random() < 0.1
        )
        if self.chance("cloud", 0.42) or self.wet:
            for _ in range(rng.choice(COUNTS["cloud"])):
                x, y, w = rng.uniform(10, 246), rng.uniform(34, horizon - 26), rng.uniform(76, 116)
                land.cloud(pen, pal, rng, x, y, w, dark=self.wet)
                self.note("cloud", x)

    def paint_far(self) -> None:
        rng, pen, pal, horizon = self.rng, self.pen, self.pal, self.horizon
        p = {"mountains": 1.0, "lake": 0.5, "river": 0.45, "meadow": 0.25, "sea": 0.14, "desert": 0.2}[self.setting]
        if self.chance("mountain", p):
            count = rng.choice(COUNTS["mountain"])
            snowy = self.setting != "desert" and rng.random() < 0.8
            tops = land.mountains(pen, pal, rng, horizon + 4, count, snowy, haze=rng.uniform(0.1, 0.34))
            self.note("mountain", tops[0][0], "snowy" if snowy else "", count=count)
        if self.chance("balloon", 0.09):
            for _ in range(rng.choice(COUNTS["balloon"])):
                h, x = rng.uniform(84, 112), rng.uniform(40, 216)
                y, color = rng.uniform(h + 6, max(h + 20, horizon + 4)), self.color("balloon")
                if self.room(x, y - h * 0.6, h * 0.4):
                    made.balloon(pen, pal, rng, x, y, h, color=color)
                    self.note("balloon", x, color)
        if self.chance("bird", 0.13):
            cx, cy = rng.uniform(50, 206), rng.uniform(34, horizon - 22)
            for _ in range(rng.choice(COUNTS["bird"])):
                x, y = cx + rng.uniform(-46, 46), cy + rng.uniform(-22, 22)
                nature.bird(pen, pal, rng, x, y, rng.uniform(44, 60))
                self.note("bird", x)

    # ---- ground ---------------------------------------------------------------------------------------------------
    def grass(self) -> RGB:
        if self.snowing:
            return rgb("#eef2f8")
        return jitter(rgb("#7fb556"), self.rng, 0.05)

    def bands(self) -> list[_Band]:
        rng, horizon = self.rng, self.horizon
        floor = [SIDE] * land.STEPS
        kind = "snow" if self.snowing else "meadow"
        match self.setting:
            case "sea":
                shore = land.rolling(rng, rng.uniform(206, 232), rng.uniform(4, 14), 0.7)
                sandy = not self.snowing and (self.hero == "palm" or rng.random() < 0.6)
                ground = self._ground(shore, floor, "beach" if sandy else kind, 0.0)
                return [self._water_band("sea", [horizon] * land.STEPS, shore), ground]
            case "lake":
                far = land.rolling(rng, horizon - rng.uniform(2, 16), rng.uniform(4, 10))
                top, low = horizon + rng.uniform(12, 22), rng.uniform(196, 216)
                lake = self._lake(top, low)
                near = land.rolling(rng, low + rng.uniform(6, 14), 4, 0.7)
                return [
                    self._ground(far, [top - 6] * land.STEPS, kind, 0.25, "hill"),
                    lake,
                    self._ground(near, floor, kind, 0.0, marks=True),
                ]
            case "desert":
                one = land.rolling(rng, horizon, rng.uniform(6, 14), 1.0)
                two = land.rolling(rng, horizon + rng.uniform(26, 44), rng.uniform(6, 14), 0.8)
                return [self._ground(one, two, "desert", 0.22), self._ground(two, floor, "desert", 0.0)]
            case _:
                one = land.rolling(rng, horizon - rng.uniform(0, 12), rng.uniform(6, 16), 1.1)
                two = land.rolling(rng, horizon + rng.uniform(18, 32), rng.uniform(6, 14), 0.9)
                three = land.rolling(rng, rng.uniform(188, 214), rng.uniform(4, 10), 0.7)
                return [
                    self._ground(one, two, kind, 0.3, "hill"),
                    self._ground(two, three, kind, 0.12, "hill"),
                    self._ground(three, floor, kind, 0.0),
                ]

    def _ground(
        self, ridge: land.Ridge, foot: land.Ridge, kind: str, haze: float, concept: str = "", marks: bool = True
    ) -> _Band:
        color = {"desert": "#e9bd7a", "beach": "#f2dba8"}.get(kind)
        tone = jitter(rgb(color), self.rng, 0.05) if color else self.grass()
        concept = concept or ("meadow" if kind in ("meadow", "snow") else kind)
        return _Band(
            ridge, foot, kind, lambda: land.hillside(self.pen, self.pal, self.rng, ridge, tone, haze, concept, marks)
        )

    def _water_band(self, concept: str, ridge: land.Ridge, foot: land.Ridge) -> _Band:
        region = polygon([(-4, ridge[0]), (SIDE + 4, ridge[0]), (SIDE + 4, SIDE), (-4, SIDE)])
        return _Band(
            ridge,
            foot,
            "water",
            lambda: land.water(self.pen, self.pal, self.rng, region, ridge[0], max(foot), concept, self.lights),
        )

    def _lake(self, top: float, low: float) -> _Band:
        rng = self.rng
        cx, rx, middle = rng.uniform(90, 166), rng.uniform(110, 165), (top + low) / 2
        k = (low - top) / 2
        outline = [(cx - rx, middle), (cx - rx * 0.8, middle - k * 0.9), (cx - rx * 0.1, middle - k * 1.15), (cx + rx * 0.7, middle - k * 0.95),
                   (cx + rx, middle), (cx + rx * 0.75, middle + k * 0.95), (cx, middle + k * 1.15), (cx - rx * 0.75, middle + k * 0.9)]  # fmt: skip
        region = smooth([(x + rng.uniform(-9, 9), y) for x, y in outline])
        grass = self.grass()

        def paint() -> None:
            ridge = land.rolling(rng, top - 6, 3)
            land.hillside(self.pen, self.pal, rng, ridge, grass, 0.12, "meadow")
            land.water(self.pen, self.pal, rng, region, top - 2, low, "lake", self.lights)

        return _Band([top + 8] * land.STEPS, [low - 4] * land.STEPS, "water", paint)

    def paint_ground(self) -> None:
        rng, pen, pal = self.rng, self.pen, self.pal
        bands = self.bands()
        stream = self.setting == "river"
        road = self.setting in ("meadow", "desert", "mountains") and self.chance("car", 0.2)
        fall_x = rng.uniform(60, 196)
        if road:
            self._road(bands[-1])
        elif self.setting in ("meadow", "mountains", "desert") and rng.random() < 0.18:
            x, target = rng.uniform(60, 196), bands[-2]
            bands[-1].things.append((0.0, lambda: land.winding_road(pen, pal, rng, x, land.at(target.ridge, x) + 4)))
            self.note("road", x)
        fall = self.hero == "waterfall"
        if fall:
            top, foot, w = self.horizon - rng.uniform(44, 78), land.at(bands[1].ridge, fall_x) + 8, rng.uniform(17, 30)
            bands[1].things.append((-1.0, lambda: land.waterfall(pen, pal, rng, fall_x, top, foot, w, 0.06)))
            self.note("waterfall", fall_x)
            self.taken.append((fall_x, foot, w * 2))
        if stream:
            self._river(bands, fall_x, fall)
        self._populate(bands, road)
        for band in bands:
            band.paint()
            for _, draw in sorted(band.things, key=lambda t: t[0]):
                draw()

    def _road(self, band: _Band) -> None:
        rng, pen, pal = self.rng, self.pen, self.pal
        y, w = rng.uniform(max(band.ridge) + 20, 234), rng.uniform(26, 34)
        band.things.append((0.0, lambda: self._draw_road(y, w)))
        self.note("road", 128)
        if self.chance("car", 0.6):
            color, x, h = self.color("car"), rng.uniform(46, 210), HEIGHTS["car"] * rng.uniform(0.85, 1.15)
            lit = self.time != "day"
            band.things.append((y + w * 0.3, lambda: made.car(pen, pal, rng, x, y + w * 0.22, h, color=color, lit=lit)))
            self.note("car", x, color)
            self.taken.append((x, y, h * 1.2))
        if self.chance("street lamp", 0.3):
            for i in range(rng.choice((1, 1, 2))):
                x = (rng.uniform(30, 80) + i * 76) % 250
                band.things.append((y - w * 0.5, lambda x=x: made.street_lamp(pen, pal, rng, x, y - w * 0.42, 84)))
                self.note("street lamp", x)
                self.taken.append((x, y, 8))

    def _draw_road(self, y: float, w: float) -> None:
        land.crossroad(self.pen, self.pal, self.rng, y, w)

    def _river(self, bands: list[_Band], x: float, fall: bool) -> None:
        rng, pen, pal = self.rng, self.pen, self.pal
        top = land.at(bands[1].ridge, x) + 6
        path = land.river(rng, x, top, SIDE, 10 if fall else 3, rng.uniform(34, 54))
        bands[2].things.append((-0.5, lambda: land.water(pen, pal, rng, path, top, SIDE, "river", self.lights)))
        y = rng.uniform(206, 232)
        left, right = _span(path, y)
        self.taken.append(((left + right) / 2, y, (right - left) / 2))
        self.taken.append(((left + right) / 2, y - 40, (right - left) / 2 + 10))
        if self.chance("bridge", 0.35):
            half, cx = (right - left) / 2 + rng.uniform(16, 24), (left + right) / 2
            bands[2].things.append((y, lambda: made.bridge(pen, pal, rng, cx, y + 4, min(half, 105))))
            self.note("bridge", cx)

    def _populate(self, bands: list[_Band], road: bool) -> None:
        rng = self.rng
        wanted = (
            [self.hero]
            if self.hero in DRAW and self.hero not in ("car",) and not (self.hero == "street lamp" and road)
            else []
        )
        kinds = dict.fromkeys(band.kind for band in bands)
        pool = {name: weight for kind in kinds for name, weight in EXTRAS.get(kind, {}).items()}
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            if pool:
                wanted.append(rng.choices(list(pool), list(pool.values()))[0])
        if rng.random() < 0.16 and self.setting == "sea" and "lighthouse" not in wanted:
            wanted.append("lighthouse")
        for name in dict.fromkeys(wanted):
            for attempt in range(rng.choice(COUNTS.get(name, (1,)))):
                self._place(name, bands, must=name == self.hero and attempt == 0)

    def _place(self, name: str, bands: list[_Band], must: bool) -> None:
        rng, pen, pal = self.rng, self.pen, self.pal
        wet = name in ("boat", "fish")
        fitting = [b for b in bands if (b.kind == "water") == wet] or bands
        islet = name == "lighthouse" and self.setting == "sea" and rng.random() < 0.4
        if islet:
            fitting = [b for b in bands if b.kind == "water"]
        for _ in range(14):
            band = rng.choices(fitting, [1 + 1.6 * i for i in range(len(fitting))])[0]
            x = rng.uniform(24, SIDE - 24)
            low = max(land.at(band.ridge, x), 0) + 5
            high = min(land.at(band.foot, x) + (0 if band.kind == "water" else 5), SIDE - 7)
            if high < low:
                high = low + 4
            y = rng.uniform(low, high)
            h = HEIGHTS[name] * self.scale(y) * rng.uniform(0.92, 1.1)
            if name in ("castle", "windmill", "lighthouse") and y > 236:
                y -= 12
            if self.room(x, y, h * WIDTHS[name] / 2):
                break
        else:
            if not must:
                return
            self.taken.append((x, y, h * WIDTHS[name] / 2))
        color = self.things[name].color if name in self.things and rng.random() < 0.5 else self.color(name)
        lit = name in LIGHTABLE and rng.random() < {"day": 0.0, "sunset": 0.5, "night": 1.0}[self.time]
        haze = max(0.0, 0.3 * (1 - (y - self.horizon) / 60))
        extra = ({"color": color} if color else {}) | ({"lit": lit} if name in LIGHTABLE else {})

        def draw() -> None:
            if islet:
                rock = pal.lit("#857d84")
                pen.fill(smooth([(x - h * 0.3, y + h * 0.05), (x - h * 0.24, y - h * 0.03), (x, y - h * 0.07), (x + h * 0.22, y - h * 0.03),
                                 (x + h * 0.32, y + h * 0.05), (x, y + h * 0.08)]), mix(rock, (1, 1, 1), 0.2), rock)  # fmt: skip
            DRAW[name](pen, pal, rng, x, y, h, haze, **extra)

        band.things.append((y, draw))
        self.note(name, x, color, lit)

    # ---- weather in front -----------------------------------------------------------------------------------------
    def paint_weather(self) -> None:
        rng, pen = self.rng, self.pen
        if self.hero not in ("sun", "rainbow") and rng.random() < 0.09:
            land.fog(pen, self.pal, rng, self.horizon)
            self.weather.append("fog")
        if self.wet or self.snowing:
            kind = "rain" if self.wet else "snowfall"
            x0, x1 = (-10.0, SIDE + 10) if rng.random() < 0.72 else (rng.uniform(-20, 60), rng.uniform(150, 270))
            top = rng.uniform(30, 70) if self.wet else -6.0
            land.falling(pen, rng, kind, x0, x1, top)
            self.weather.append(kind)

    def compose(self) -> None:
        self.paint_sky()
        self.paint_far()
        self.paint_ground()
        self.paint_weather()


def _span(path, y: float) -> tuple[float, float]:  # noqa: ANN001 - a skia path
    """Where a winding shape begins and ends at height y."""
    xs = [x for x in range(0, int(SIDE), 3) if path.contains(x, y)]
    return (float(min(xs)), float(max(xs))) if xs else (110.0, 146.0)


def draw_scene(
    seed: int,
    size: int = 256,
    style: str | None = None,
    time: str | None = None,
    hero: str | None = None,
    masks: bool = True,
) -> Scene:
    """Compose the scene of a seed, the same on every machine that has the same version of the drawing library.

    ``style``, ``time`` and ``hero`` (a concept of ``vocabulary.OBJECTS`` that must be in it) override what the seed
    would choose. Without ``masks`` drawing is a little faster.
    """
    composer = _Composer(seed, size, style, time, hero)
    composer.compose()
    truth = composer.pen.masks() if masks else np.zeros((0, size, size), bool)
    if masks:
        truth[INDEX[composer.style]] = True
    image = finish(composer.pen.picture(), composer.style, composer.rng)
    return Scene(
        seed,
        composer.style,
        composer.time,
        composer.setting,
        tuple(composer.weather),
        tuple(composer.things.values()),
        image,
        truth,
    )
