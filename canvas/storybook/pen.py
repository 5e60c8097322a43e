"""A pen that draws twice: the picture, and which concepts are visible at every pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import skia

from canvas.storybook.palette import RGB, mix
from canvas.storybook.vocabulary import CONCEPTS, INDEX

SIDE = 256.0
"""Drawing units across the picture, whatever its size in pixels."""
INK: RGB = (0.16, 0.15, 0.22)
Points = Sequence[tuple[float, float]]


def polygon(points: Points) -> skia.Path:
    path = skia.Path()
    path.addPoly([skia.Point(x, y) for x, y in points], True)
    return path


def smooth(points: Points, closed: bool = True) -> skia.Path:
    """A closed (or open) curve through the points: quadratic arcs between the middles of the edges."""
    path = skia.Path()
    n = len(points)
    middle = [
        ((points[i][0] + points[(i + 1) % n][0]) / 2, (points[i][1] + points[(i + 1) % n][1]) / 2) for i in range(n)
    ]
    if closed:
        path.moveTo(*middle[-1])
        for (x, y), (mx, my) in zip(points, middle, strict=True):
            path.quadTo(x, y, mx, my)
        path.close()
    else:
        path.moveTo(*points[0])
        for i in range(1, n - 1):
            path.quadTo(*points[i], *middle[i])
        path.lineTo(*points[-1])
    return path


def ellipse(x: float, y: float, rx: float, ry: float | None = None) -> skia.Path:
    ry = rx if ry is None else ry
    path = skia.Path()
    path.addOval(skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry))
    return path


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> skia.Path:
    path = skia.Path()
    path.addRoundRect(skia.Rect.MakeLTRB(x0, y0, x1, y1), radius, radius)
    return path


def cut(path: skia.Path, hole: skia.Path) -> skia.Path:
    """What is left of ``path`` outside ``hole``."""
    return skia.Op(path, hole, skia.PathOp.kDifference_PathOp)


def under(ridge: Sequence[float], bottom: float = SIDE + 4) -> skia.Path:
    """The area below a ridge that is sampled at equal steps across the picture."""
    step = SIDE / (len(ridge) - 1)
    points = [(i * step, y) for i, y in enumerate(ridge)]
    return polygon([(-4, bottom), (-4, ridge[0]), *points, (SIDE + 4, ridge[-1]), (SIDE + 4, bottom)])


class Pen:
    """Draws shapes into a picture in one of the styles, and the same shapes into a raster of parts.

    A *part* is the set of concepts that a shape belongs to (a lit window belongs to ``lit window`` and ``house``);
    later shapes hide earlier ones in both rasters, so the masks hold visible pixels. Weather that lies over
    everything (rain, snowfall, fog) is kept in masks of its own.
    """

    def __init__(self, style: str, size: int = 256) -> None:
        self.style = style
        self.size = size
        self._pixels = np.zeros((size, size, 4), np.uint8)
        self._parts_raster = np.zeros((size, size, 4), np.uint8)
        self.surface = skia.Surface(self._pixels, colorType=skia.kRGBA_8888_ColorType)
        self._parts_surface = skia.Surface(self._parts_raster, colorType=skia.kRGBA_8888_ColorType)
        self.canvas = self.surface.getCanvas()
        self._parts_canvas = self._parts_surface.getCanvas()
        for canvas in (self.canvas, self._parts_canvas):
            canvas.scale(size / SIDE, size / SIDE)
        self._parts: dict[tuple[str, ...], int] = {(): 0}
        self._tags: tuple[str, ...] = ()
        self._silent = False
        self._veils: dict[str, np.ndarray] = {}

    @contextmanager
    def tag(self, *concepts: str) -> Iterator[None]:
        """Everything drawn inside belongs to these concepts as well."""
        before = self._tags
        self._tags = (*before, *concepts)
        yield
        self._tags = before

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Everything drawn inside (shadow, glow, reflection) belongs to no concept and hides none."""
        before, self._silent = self._silent, True
        yield
        self._silent = before

    @contextmanager
    def clipped(self, path: skia.Path) -> Iterator[None]:
        for canvas in (self.canvas, self._parts_canvas):
            canvas.save()
            canvas.clipPath(path, skia.ClipOp.kIntersect, canvas is self.canvas)
        yield
        for canvas in (self.canvas, self._parts_canvas):
            canvas.restore()

    @contextmanager
    def turned(self, x: float, y: float, degrees: float = 0.0, flip: bool = False) -> Iterator[None]:
        """A frame with its origin at (x, y), rotated clockwise, mirrored left to right if ``flip``."""
        for canvas in (self.canvas, self._parts_canvas):
            canvas.save()
            canvas.translate(x, y)
            canvas.rotate(degrees)
            if flip:
                canvas.scale(-1, 1)
        yield
        for canvas in (self.canvas, self._parts_canvas):
            canvas.restore()

    def fill(
        self,
        path: skia.Path,
        color: RGB,
        to: RGB | None = None,
        alpha: float = 1.0,
        blur: float = 0.0,
        plain: bool = False,
    ) -> None:
        """Fill a shape; ``to`` makes a vertical gradient from ``color`` (top) to it; ``blur`` is a sigma in units.

        The style adds what it adds to every shape (shadow, darkened rim, bright rim, outline) unless ``plain``.
        """
        paint = skia.Paint(AntiAlias=True, Color4f=skia.Color4f(*color, alpha))
        if to is None and self.style == "glow" and not plain:
            to = mix(color, (0.02, 0.02, 0.08), 0.28)
        if to is not None:
            bounds = path.getBounds()
            paint.setShader(
                skia.GradientShader.MakeLinear(
                    [skia.Point(0, bounds.top()), skia.Point(0, bounds.bottom())],
                    [skia.Color4f(*color, alpha).toColor(), skia.Color4f(*to, alpha).toColor()],
                )
            )
        if blur:
            paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, blur))
        styled = not (plain or blur or self._silent)
        if styled and self.style == "paper":
            shadow = skia.Paint(AntiAlias=True, Color4f=skia.Color4f(0.05, 0.04, 0.12, 0.20))
            shadow.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, 1.6))
            self.canvas.save()
            self.canvas.translate(1.2, 1.8)
            self.canvas.drawPath(path, shadow)
            self.canvas.restore()
        self.canvas.drawPath(path, paint)
        if styled and self.style != "paper":
            self._rim(path, color)
        if not self._silent:
            self._parts_canvas.drawPath(path, self._part_paint())

    def _rim(self, path: skia.Path, color: RGB) -> None:
        rims = {
            "watercolour": (mix(color, (0.1, 0.12, 0.25), 0.42), 0.42, 1.0),
            "glow": (mix(color, (1.0, 0.95, 0.85), 0.55), 0.55, 0.8),
            "ink": (INK, 0.85, 1.05),
        }
        rim, alpha, width = rims[self.style]
        self.canvas.drawPath(path, _stroke(rim, width, alpha))

    def line(self, points: Points, color: RGB, width: float, alpha: float = 1.0, curved: bool = False) -> None:
        path = smooth(points, closed=False) if curved else skia.Path()
        if not curved:
            path.moveTo(*points[0])
            for point in points[1:]:
                path.lineTo(*point)
        self.canvas.drawPath(path, _stroke(color, width, alpha))
        if not self._silent:
            paint = self._part_paint()
            paint.setStyle(skia.Paint.kStroke_Style)
            paint.setStrokeWidth(width)
            self._parts_canvas.drawPath(path, paint)

    def mark(self, path: skia.Path) -> None:
        """Give a region to the present concepts without drawing anything."""
        self._parts_canvas.drawPath(path, self._part_paint())

    def glow(self, x: float, y: float, radius: float, color: RGB, strength: float = 0.6) -> None:
        """Light around a point, added to what is there. It belongs to no concept."""
        paint = skia.Paint(BlendMode=skia.BlendMode.kScreen)
        inner, outer = skia.Color4f(*color, strength).toColor(), skia.Color4f(*color, 0.0).toColor()
        middle = skia.Color4f(*color, strength * 0.3).toColor()
        paint.setShader(skia.GradientShader.MakeRadial(skia.Point(x, y), radius, [inner, middle, outer], [0, 0.45, 1]))
        self.canvas.drawCircle(x, y, radius, paint)

    def shadow(self, x: float, y: float, rx: float, ry: float) -> None:
        """The soft shadow in which a thing stands."""
        with self.silent():
            self.fill(ellipse(x, y, rx, ry), (0.04, 0.05, 0.12), alpha=0.26, blur=max(0.8, ry * 0.4))

    def mirrored(self, draw: Callable[[], None], waterline: float, alpha: float = 0.3, squash: float = 0.7) -> None:
        """Draw the reflection in water of what ``draw`` draws above ``waterline``."""
        with self.silent():
            self.canvas.saveLayerAlpha(None, int(alpha * 255))
            self.canvas.translate(0, waterline * (1 + squash))
            self.canvas.scale(1, -squash)
            draw()
            self.canvas.restore()

    def reflect(self, region: skia.Path, waterline: float, alpha: float = 0.45) -> None:
        """Mirror the picture so far below ``waterline`` into a region of water."""
        image = self.surface.makeImageSnapshot()
        self.canvas.save()
        self.canvas.clipPath(region, skia.ClipOp.kIntersect, True)
        self.canvas.translate(0, 2 * waterline)
        self.canvas.scale(SIDE / self.size, -SIDE / self.size)
        paint = skia.Paint(Alphaf=alpha, ImageFilter=skia.ImageFilters.Blur(1.6, 1.0))
        self.canvas.drawImage(image, 0, 0, skia.SamplingOptions(skia.FilterMode.kLinear), paint)
        self.canvas.restore()

    def veil(self, concept: str, coverage: np.ndarray) -> None:
        """Say where weather that lies over everything is to be seen: bool [size, size]."""
        self._veils[concept] = self._veils.get(concept, np.zeros_like(coverage)) | coverage

    def picture(self) -> np.ndarray:
        """What was drawn: uint8 [size, size, 3]."""
        self.surface.flushAndSubmit()
        return self._pixels[..., :3].copy()

    def masks(self) -> np.ndarray:
        """Where each concept is visible: bool [len(CONCEPTS), size, size]."""
        table = np.zeros((len(self._parts), len(CONCEPTS)), bool)
        for concepts, part in self._parts.items():
            for concept in concepts:
                table[part, INDEX[concept]] = True
        raster = self._parts_raster[..., 0]
        masks = table.T.take(raster, axis=1)
        for concept, coverage in self._veils.items():
            masks[INDEX[concept]] |= coverage
        return masks

    def _part_paint(self) -> skia.Paint:
        key = tuple(sorted(set(self._tags)))
        part = self._parts.setdefault(key, len(self._parts))
        if part > 255:
            raise RuntimeError("more than 256 parts in one scene")
        return skia.Paint(AntiAlias=False, Color=skia.Color(part, 0, 0))


def _stroke(color: RGB, width: float, alpha: float) -> skia.Paint:
    return skia.Paint(
        AntiAlias=True,
        Color4f=skia.Color4f(*color, alpha),
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )


def arc_points(x: float, y: float, rx: float, ry: float, start: float, stop: float, n: int = 12) -> Points:
    """Points on an ellipse from ``start`` to ``stop`` degrees (0 right, 90 down)."""
    return [
        (x + rx * math.cos(math.radians(a)), y + ry * math.sin(math.radians(a)))
        for a in (start + (stop - start) * i / (n - 1) for i in range(n))
    ]
