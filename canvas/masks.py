"""Where a layer paints: an immutable raster of coverage over the whole canvas."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from sae.errors import FeaturebrushError

SIZE = 128
"""Pixels of a mask's raster in each direction."""

_BYTES = SIZE * SIZE
_FAR = 100.0
"""Coordinates beyond this many canvases are refused: they are always a mistake in units."""
_SCANLINES = 16
_SUPERSAMPLE = 8


@dataclass(frozen=True, slots=True)
class Mask:
    """Coverage of the canvas, 128×128 pixels of 0..255, row by row from the top left.

    Coordinates of every constructor are fractions of the canvas: x to the right, y downwards, (0, 0) the top left
    corner. What lies outside the canvas is clipped. Masks are values: equal by content, hashable, never changed.

    Raises ``FeaturebrushError`` for coordinates that are not finite numbers, and for rasters of a wrong shape or type.
    """

    data: bytes
    """128·128 bytes, 0 = not covered, 255 = covered."""

    def __post_init__(self) -> None:
        if not isinstance(self.data, bytes) or len(self.data) != _BYTES:
            got = f"{len(self.data)} bytes" if isinstance(self.data, bytes) else type(self.data).__name__
            raise FeaturebrushError(f"a mask holds {_BYTES} bytes ({SIZE}×{SIZE}), not {got}; see Mask.from_array")

    def __repr__(self) -> str:
        return f"Mask(area={self.area:.4f})"

    @classmethod
    def empty(cls) -> Mask:
        """Nothing covered."""
        return cls(bytes(_BYTES))

    @classmethod
    def full(cls) -> Mask:
        """The whole canvas covered."""
        return cls(b"\xff" * _BYTES)

    @classmethod
    def disc(cls, x: float, y: float, r: float) -> Mask:
        """A disc around (x, y); ``r`` is its radius as a fraction of the canvas' width."""
        return cls.ellipse(x, y, r, r)

    @classmethod
    def ellipse(cls, x: float, y: float, rx: float, ry: float) -> Mask:
        """An ellipse around (x, y) with half-axes ``rx`` and ``ry``; coverage is exact to about 1/255."""
        cx, cy = _number("x", x) * SIZE, _number("y", y) * SIZE
        ax, ay = _radius("rx", rx) * SIZE, _radius("ry", ry) * SIZE
        covered = np.zeros((SIZE, SIZE))
        top, bottom = max(0, math.floor(cy - ay)), min(SIZE, math.ceil(cy + ay))
        if min(ax, ay) > 1e-6 and top < bottom:
            lines = top + (np.arange((bottom - top) * _SCANLINES) + 0.5) / _SCANLINES
            half = ax * np.sqrt(np.clip(1 - ((lines - cy) / ay) ** 2, 0, None))[:, None]
            covered[top:bottom] = _overlap(cx - half, cx + half).reshape(-1, _SCANLINES, SIZE).mean(axis=1)
        return cls._from_fractions(covered)

    @classmethod
    def rect(cls, x0: float, y0: float, x1: float, y1: float) -> Mask:
        """The axis-aligned rectangle between two opposite corners, in any order; coverage is exact."""
        xs = sorted((_number("x0", x0) * SIZE, _number("x1", x1) * SIZE))
        ys = sorted((_number("y0", y0) * SIZE, _number("y1", y1) * SIZE))
        return cls._from_fractions(np.outer(_overlap(*ys), _overlap(*xs)))

    @classmethod
    def polygon(cls, points: Iterable[Sequence[float]]) -> Mask:
        """The inside of a closed polygon of at least 3 (x, y) points; where it crosses itself, the even-odd rule."""
        corners = _points(points, at_least=3)
        scale = SIZE * _SUPERSAMPLE
        image = Image.new("L", (scale, scale), 0)
        ImageDraw.Draw(image).polygon([(px * scale - 0.5, py * scale - 0.5) for px, py in corners], fill=255)
        return cls(image.reduce(_SUPERSAMPLE).tobytes())

    @classmethod
    def stroke(cls, points: Iterable[Sequence[float]], r: float | Sequence[float], hardness: float = 1.0) -> Mask:
        """What a round brush covers when drawn along a line of (x, y) points; one point is a dab.

        Parameters: ``r`` is the radius as a fraction of the canvas' width, or one for every point, as a pen gives it
        that is pressed more and less; ``hardness`` in 0..1 is the part of the radius that is fully covered, from there
        coverage falls smoothly to 0 at ``r``.
        """
        path = _points(points, at_least=1) * SIZE
        each = [r] * len(path) if isinstance(r, (int, float)) or not isinstance(r, Sequence) else r
        if len(each) != len(path):
            raise FeaturebrushError(
                f"r is one radius, or one for each of the {len(path)} points, not {len(each)} of them"
            )
        radii = np.array([_radius("r", radius) for radius in each]) * SIZE
        hard = _fraction("hardness", hardness)
        if radii.max() < 1e-6:
            return cls.empty()
        kept = _thinned(path, min(max(0.5, radii[0] / 6), 2.0))
        beyond, radius = _beyond_stroke(path[kept], radii[kept])
        covered = np.clip(np.minimum(beyond + 2 * radius, 0.5) - np.maximum(beyond, -0.5), 0, 1)
        if hard < 1:
            ramp = np.clip(-beyond / np.maximum(radius * (1 - hard), 1e-9), 0, 1)
            covered = np.minimum(covered, ramp * ramp * (3 - 2 * ramp))
        return cls._from_fractions(covered)

    @classmethod
    def flood(cls, image: Image.Image, x: float, y: float, tolerance: float = 0.1) -> Mask:
        """The part of ``image`` around (x, y) that has about its colour there, as far as it hangs together.

        Parameters: ``tolerance`` in 0..1 is the difference that is let through, the mean of red, green and blue.
        """
        if not isinstance(image, Image.Image):
            raise FeaturebrushError(f"Mask.flood takes a PIL image, not {type(image).__name__}")
        limit = 3 * 255 * _fraction("tolerance", tolerance)
        column, row = (min(int(_fraction(name, value) * SIZE), SIZE - 1) for name, value in (("x", x), ("y", y)))
        small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
        colours = np.asarray(small).astype(int)
        alike = np.abs(colours - colours[row, column]).sum(-1) <= limit
        filled = Image.fromarray(np.where(alike, 255, 0).astype(np.uint8)).copy()  # to be written to
        ImageDraw.floodfill(filled, (column, row), 128)
        return cls.from_array(np.asarray(filled) == 128)

    @classmethod
    def from_array(cls, a: ArrayLike) -> Mask:
        """A mask from a 2-D array of any size that stands for the whole canvas, resampled by exact area average.

        Parameters: ``a`` is ``[h, w]`` of bool, of uint8 (0..255), or of floats in 0..1.
        """
        try:
            array = np.asarray(a)
        except ValueError:
            raise FeaturebrushError("a mask needs a 2-D array [height, width], not rows of different lengths") from None
        if array.ndim != 2 or 0 in array.shape:
            raise FeaturebrushError(f"a mask needs a 2-D array [height, width], not one of shape {array.shape}")
        if array.dtype == np.bool_:
            fractions = array.astype(np.float64)
        elif array.dtype == np.uint8:
            if array.shape == (SIZE, SIZE):
                return cls(array.tobytes())
            fractions = array / 255
        elif np.issubdtype(array.dtype, np.floating):
            fractions = array.astype(np.float64)
            if not np.isfinite(fractions).all():
                raise FeaturebrushError("a mask cannot hold NaN or infinite values; accepted are 0..1")
            low, high = float(fractions.min()), float(fractions.max())
            if low < 0 or high > 1:
                raise FeaturebrushError(f"a float mask holds values in 0..1, not {low:g}..{high:g}")
        else:
            raise FeaturebrushError(f"a mask array is of bool, uint8 or float, not {array.dtype}")
        return cls._from_fractions(_resampled(fractions, SIZE, SIZE))

    @classmethod
    def from_image(cls, im: Image.Image) -> Mask:
        """A mask from an image of any size: its alpha channel where it has one, else its brightness."""
        if not isinstance(im, Image.Image):
            raise FeaturebrushError(f"Mask.from_image takes a PIL image, not {type(im).__name__}; see Mask.from_array")
        channel = im.convert("RGBA").getchannel("A") if im.has_transparency_data else im.convert("L")
        return cls.from_array(np.asarray(channel))

    @classmethod
    def _from_fractions(cls, fractions: NDArray[np.floating[Any]]) -> Mask:
        return cls(np.rint(fractions * 255).astype(np.uint8).tobytes())

    def array(self) -> NDArray[np.uint8]:
        """The raster, ``[128, 128]`` uint8, read-only."""
        return np.frombuffer(self.data, np.uint8).reshape(SIZE, SIZE)

    def coverage(self, h: int, w: int) -> NDArray[np.float32]:
        """The covered fraction 0..1 of every cell of a grid ``[h, w]`` laid over the canvas: the exact area average."""
        for name, value in (("h", h), ("w", w)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise FeaturebrushError(f"a grid's {name} is a whole number from 1, not {value!r}")
        return _resampled(self.array() / 255, h, w).astype(np.float32)

    def __or__(self, other: Mask) -> Mask:
        """Covered by either (the larger coverage)."""
        return self._with(np.maximum(self.array(), other.array())) if isinstance(other, Mask) else NotImplemented

    def __and__(self, other: Mask) -> Mask:
        """Covered by both (the smaller coverage)."""
        return self._with(np.minimum(self.array(), other.array())) if isinstance(other, Mask) else NotImplemented

    def __sub__(self, other: Mask) -> Mask:
        """What is left after erasing ``other``: coverages subtracted, not below 0, so that ``m - m`` is empty."""
        if not isinstance(other, Mask):
            return NotImplemented
        return self._with(self.array() - np.minimum(self.array(), other.array()))

    def __invert__(self) -> Mask:
        """Covered where this mask is not."""
        return self._with(255 - self.array())

    def __mul__(self, opacity: float) -> Mask:
        """Covered ``opacity`` in 0..1 times as much."""
        return self._from_fractions(self.array() / 255 * _fraction("a mask's factor", opacity))

    def shifted(self, dx: float, dy: float) -> Mask:
        """This mask moved by fractions of the canvas, to parts of a pixel; what leaves the canvas is lost."""
        return self._placed((1.0, 1.0), (0.0, 0.0), (_number("dx", dx), _number("dy", dy)))

    def scaled(self, sx: float, sy: float | None = None, about: Sequence[float] | None = None) -> Mask:
        """This mask ``sx`` times as wide and ``sy`` (``sx`` if not given) times as high; negative: mirrored as well.

        Parameters: ``about`` is the point (x, y) that stays, the middle of ``box`` if not given. Coverage is averaged
        over areas; what leaves the canvas is lost.
        """
        scale = (_factor("sx", sx), _factor("sy", sx if sy is None else sy))
        if about is not None:
            x, y = _points([about], at_least=1)[0]
            return self._placed(scale, (x, y), (0.0, 0.0))
        if self.box is None:
            return self
        x0, y0, x1, y1 = self.box
        return self._placed(scale, ((x0 + x1) / 2, (y0 + y1) / 2), (0.0, 0.0))

    def flipped(self, vertically: bool = False) -> Mask:
        """This mask mirrored in its own box: left to right, or top to bottom."""
        return self.scaled(1, -1) if vertically else self.scaled(-1, 1)

    def _placed(self, scale: Sequence[float], about: Sequence[float], shift: Sequence[float]) -> Mask:
        (sx, sy), (x, y), (dx, dy) = scale, np.multiply(about, SIZE), np.multiply(shift, SIZE)
        stretched = _stretched(self.array() / 255, sy, y, dy)
        return self._from_fractions(np.clip(_stretched(stretched.T, sx, x, dx).T, 0, 1))

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The smallest rectangle (x0, y0, x1, y1) of whole pixels that holds what is covered; None if nothing is."""
        covered = self.array() > 0
        columns, rows = np.flatnonzero(covered.any(0)), np.flatnonzero(covered.any(1))
        if not len(columns):
            return None
        edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return tuple(float(edge) / SIZE for edge in edges)  # pyright: ignore[reportReturnType] - four of them

    @property
    def is_empty(self) -> bool:
        """Whether no pixel is covered at all."""
        return not any(self.data)

    @property
    def area(self) -> float:
        """The covered fraction of the canvas, 0..1."""
        return float(self.array().mean()) / 255

    def to_dict(self) -> dict[str, Any]:
        """The form that goes into JSON: ``{"size": [128, 128], "deflate": base64 of the zlib-compressed bytes}``."""
        return {"size": [SIZE, SIZE], "deflate": base64.b64encode(zlib.compress(self.data, 6)).decode("ascii")}

    @classmethod
    def from_dict(cls, value: object) -> Mask:
        """The inverse of ``to_dict``. Never unpacks more than a mask's 16384 bytes."""
        if not isinstance(value, dict) or set(value) != {"size", "deflate"}:
            raise FeaturebrushError(f'a mask in JSON is {{"size", "deflate"}}, not {_shown(value)}')
        if value["size"] != [SIZE, SIZE]:
            raise FeaturebrushError(f'a mask\'s "size" is [{SIZE}, {SIZE}], not {_shown(value["size"])}')
        text = value["deflate"]
        if not isinstance(text, str):
            raise FeaturebrushError(f'a mask\'s "deflate" is a base64 string, not {_shown(text)}')
        try:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(base64.b64decode(text, validate=True), _BYTES + 1)
        except (binascii.Error, zlib.error, ValueError) as error:
            raise FeaturebrushError(f'a mask\'s "deflate" cannot be unpacked: {error}') from error
        if not unpacker.eof or unpacker.unused_data:
            raise FeaturebrushError(f'a mask\'s "deflate" is not one whole zlib stream of {_BYTES} bytes')
        return cls(data)

    @staticmethod
    def _with(array: NDArray[np.uint8]) -> Mask:
        return Mask(array.tobytes())


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _number(name: str, value: object) -> float:
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        raise FeaturebrushError(f"{name} must be a number (a fraction of the canvas), not {_shown(value)}") from None
    if not math.isfinite(number) or abs(number) > _FAR:
        raise FeaturebrushError(f"{name} is a fraction of the canvas, 0..1 inside it; received {number!r}")
    return number


def _radius(name: str, value: object) -> float:
    number = _number(name, value)
    if number < 0:
        raise FeaturebrushError(f"{name} is a radius, 0 or more; received {number!r}")
    return number


def _fraction(name: str, value: object) -> float:
    number = _number(name, value)
    if not 0 <= number <= 1:
        raise FeaturebrushError(f"{name} must be between 0 and 1, not {value!r}")
    return number


def _factor(name: str, value: object) -> float:
    number = _number(name, value)
    if abs(number) < 1e-3:
        raise FeaturebrushError(f"{name} is a factor of at least 0.001 in size; received {number!r}")
    return number


def _points(points: Iterable[Sequence[float]], at_least: int) -> NDArray[np.float64]:
    try:
        array = np.array([[_number("x", x), _number("y", y)] for x, y in points], dtype=np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, FeaturebrushError):
            raise
        raise FeaturebrushError(f"points are (x, y) pairs, not {_shown(points)}") from None
    if len(array) < at_least:
        raise FeaturebrushError(f"at least {at_least} point(s) are needed, not {len(array)}")
    return array


def _overlap(low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """The part of every pixel [i, i + 1), i < 128, that the interval [low, high] covers; broadcasts."""
    left = np.arange(SIZE)
    return np.clip(np.minimum(high, left + 1) - np.maximum(low, left), 0, 1)


# No matrix products here: NumPy's would start OpenBLAS's threads, which wait busily beside the model's own.
def _resampled(fractions: NDArray[np.float64], h: int, w: int) -> NDArray[np.float64]:
    """The area average of ``fractions`` over each cell of a grid ``[h, w]``."""
    if fractions.shape == (h, w):
        return fractions
    return np.clip(_averaged(_averaged(fractions, h).T, w).T, 0, 1)


def _averaged(rows: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """The averages of ``rows`` ``[m, k]`` over each of ``n`` equal spans of their height, ``[n, k]``."""
    m, k = rows.shape
    summed = np.concatenate([np.zeros((1, k)), np.cumsum(rows, axis=0)])
    edges = np.arange(n + 1) * (m / n)
    above = np.minimum(edges.astype(int), m - 1)
    upto = summed[above] + (edges - above)[:, None] * rows[above]
    return np.diff(upto, axis=0) * (n / m)


def _stretched(rows: NDArray[np.float64], scale: float, about: float, shift: float) -> NDArray[np.float64]:
    """``rows`` ``[128, k]`` stretched by ``scale`` about a height and then moved down, in pixels; areas averaged."""
    summed = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)])
    edges = np.clip(about + (np.arange(SIZE + 1) - shift - about) / scale, 0, SIZE)
    above = np.minimum(edges.astype(int), SIZE - 1)
    upto = summed[above] + (edges - above)[:, None] * rows[above]
    return np.diff(upto, axis=0) * scale


def _thinned(path: NDArray[np.float64], spacing: float) -> list[int]:
    """Which points of the path to keep: none nearer than ``spacing`` to the one kept before; both ends stay."""
    kept = [0]
    for i, point in enumerate(path[1:-1], start=1):
        last = path[kept[-1]]
        if math.hypot(point[0] - last[0], point[1] - last[1]) >= spacing:
            kept.append(i)
    if len(path) > 1:
        kept.append(len(path) - 1)
    return kept


def _beyond_stroke(path: NDArray[np.float64], radii: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """How far each pixel's centre lies beyond a stroke's edge, and the stroke's radius there, both ``[128, 128]``.

    The stroke runs along the polyline ``path`` ``[n, 2]`` in pixels; between points its radius changes evenly.
    """
    beyond = np.full((SIZE, SIZE), np.inf)
    radius = np.zeros((SIZE, SIZE))
    centres = np.arange(SIZE) + 0.5
    first = np.arange(max(1, len(path) - 1))
    for i, j in zip(first, np.minimum(first + 1, len(path) - 1), strict=True):
        (ax, ay), (bx, by) = path[i], path[j]
        reach = max(radii[i], radii[j]) + 1
        x0, x1 = _within(min(ax, bx) - reach, max(ax, bx) + reach)
        y0, y1 = _within(min(ay, by) - reach, max(ay, by) + reach)
        if x0 >= x1 or y0 >= y1:
            continue
        px, py = centres[x0:x1] - ax, (centres[y0:y1] - ay)[:, None]
        dx, dy = bx - ax, by - ay
        length2 = dx * dx + dy * dy
        squared, t = px * px + py * py, np.zeros((y1 - y0, x1 - x0))
        if length2 > 0:
            along = px * dx + py * dy
            t = np.minimum(np.maximum(along / length2, 0), 1)
            squared = squared - t * (2 * along - t * length2)
        here = radii[i] + t * (radii[j] - radii[i])
        gap = np.sqrt(np.maximum(squared, 0)) - here
        nearer = gap < beyond[y0:y1, x0:x1]
        beyond[y0:y1, x0:x1][nearer] = gap[nearer]
        radius[y0:y1, x0:x1][nearer] = here[nearer]
    return beyond, radius


def _within(low: float, high: float) -> tuple[int, int]:
    return int(min(max(math.floor(low), 0), SIZE)), int(min(max(math.ceil(high), 0), SIZE))
