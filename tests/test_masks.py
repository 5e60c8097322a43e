from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from canvas import FeaturebrushError, Mask

inside = st.floats(0.0, 1.0)
middle = st.floats(0.25, 0.75)


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    kind = draw(st.sampled_from(["disc", "rect", "noise", "stroke"]))
    if kind == "disc":
        return Mask.disc(draw(inside), draw(inside), draw(st.floats(0, 0.6)))
    if kind == "rect":
        return Mask.rect(draw(inside), draw(inside), draw(inside), draw(inside))
    if kind == "stroke":
        points = draw(st.lists(st.tuples(inside, inside), min_size=1, max_size=6))
        return Mask.stroke(points, draw(st.floats(0.01, 0.2)), draw(inside))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return Mask.from_array(rng.integers(0, 256, (128, 128)).astype(np.uint8))


def centroid(mask: Mask) -> tuple[float, float]:
    weight = mask.array().astype(float)
    at = (np.arange(128) + 0.5) / 128
    return float((weight.sum(0) * at).sum() / weight.sum()), float((weight.sum(1) * at).sum() / weight.sum())


def test_a_mask_is_a_value() -> None:
    assert Mask.disc(0.3, 0.6, 0.1) == Mask.disc(0.3, 0.6, 0.1)
    assert hash(Mask.full()) == hash(Mask.rect(0, 0, 1, 1))
    assert Mask.empty() != Mask.full()
    assert len({Mask.empty(), Mask.empty(), Mask.full()}) == 2
    with pytest.raises(ValueError, match="read-only"):
        Mask.full().array()[0, 0] = 1


@given(middle, middle, st.floats(0.02, 0.25), st.floats(0.02, 0.25))
def test_an_ellipse_has_its_area(x: float, y: float, rx: float, ry: float) -> None:
    assert Mask.ellipse(x, y, rx, ry).area == pytest.approx(math.pi * rx * ry, rel=0.01, abs=2e-5)


@given(inside, inside, inside, inside)
def test_a_rectangle_has_its_area_whichever_corner_comes_first(x0: float, y0: float, x1: float, y1: float) -> None:
    mask = Mask.rect(x0, y0, x1, y1)
    assert mask == Mask.rect(x1, y1, x0, y0)
    assert mask.area == pytest.approx(abs(x1 - x0) * abs(y1 - y0), abs=0.5 / 255)


def test_a_rectangle_covers_a_grid_exactly() -> None:
    expected = np.zeros((4, 4), np.float32)
    expected[1, 1:3] = (0.5, 1.0)
    np.testing.assert_allclose(Mask.rect(0.375, 0.25, 0.75, 0.5).coverage(4, 4), expected, atol=1e-6)


def test_a_polygon_has_its_area() -> None:
    assert Mask.polygon([(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]).area == pytest.approx(0.36, rel=0.01)
    assert Mask.polygon([(0.1, 0.1), (0.9, 0.1), (0.1, 0.9)]).area == pytest.approx(0.32, rel=0.01)


@given(middle, middle, st.floats(0.02, 0.2))
def test_a_stroke_of_one_point_is_nearly_a_disc(x: float, y: float, r: float) -> None:
    dab, disc = Mask.stroke([(x, y)], r), Mask.disc(x, y, r)
    assert dab.area == pytest.approx(disc.area, rel=0.03)
    assert np.abs(dab.array().astype(int) - disc.array()).max() < 50


def test_a_straight_stroke_has_the_area_of_a_capsule() -> None:
    capsule = 0.5 * 0.1 + math.pi * 0.05**2
    assert Mask.stroke([(0.25, 0.4), (0.75, 0.4)], 0.05).area == pytest.approx(capsule, rel=0.01)
    dense = [(0.25 + 0.5 * i / 300, 0.4) for i in range(301)]
    assert Mask.stroke(dense, 0.05).area == pytest.approx(capsule, rel=0.01)


def test_a_thin_stroke_fades_with_its_width() -> None:
    areas = [Mask.stroke([(0.1, 0.5), (0.9, 0.5)], r / 128).area for r in (0.0, 0.125, 0.25, 0.5)]
    np.testing.assert_allclose(areas, [0.0, *(0.8 * 2 * r / 128 for r in (0.125, 0.25, 0.5))], rtol=0.05, atol=1e-9)


def test_a_soft_stroke_covers_less_and_never_more() -> None:
    path = [(0.2, 0.2), (0.7, 0.5), (0.4, 0.8)]
    hard, soft = Mask.stroke(path, 0.1).array(), Mask.stroke(path, 0.1, hardness=0.2).array()
    assert (soft <= hard).all()
    assert soft.sum() < 0.8 * hard.sum()
    assert soft.max() == 255


@given(masks(), st.integers(1, 40), st.integers(1, 40))
def test_coverage_keeps_the_area_on_every_grid(mask: Mask, h: int, w: int) -> None:
    cover = mask.coverage(h, w)
    assert cover.shape == (h, w)
    assert cover.dtype == np.float32
    assert cover.min() >= 0 and cover.max() <= 1
    assert float(cover.mean()) == pytest.approx(mask.area, abs=1e-5)


def test_full_and_empty_are_exact_on_every_grid() -> None:
    for side in (1, 7, 16, 24, 100, 128, 300):
        assert (Mask.full().coverage(side, side) == 1).all()
        assert (Mask.empty().coverage(side, side) == 0).all()


@given(masks(), masks())
def test_masks_are_a_lattice(a: Mask, b: Mask) -> None:
    assert a | b == b | a
    assert a & b == b & a
    assert a | (a & b) == a
    assert ~(a | b) == ~a & ~b
    assert ~~a == a
    assert (a - a).is_empty
    assert a - Mask.empty() == a
    assert (a - Mask.full()).is_empty
    assert a | Mask.empty() == a & Mask.full() == a


@given(middle, middle, st.floats(0.02, 0.1), st.floats(-0.1, 0.1), st.floats(-0.1, 0.1))
def test_a_shift_moves_the_centroid(x: float, y: float, r: float, dx: float, dy: float) -> None:
    mask = Mask.disc(x, y, r)
    before, after = centroid(mask), centroid(mask.shifted(dx, dy))
    assert after[0] - before[0] == pytest.approx(dx, abs=2e-3)
    assert after[1] - before[1] == pytest.approx(dy, abs=2e-3)


@given(masks())
def test_no_shift_changes_nothing_and_a_far_one_empties(mask: Mask) -> None:
    assert mask.shifted(0, 0) == mask
    assert mask.shifted(2, 0).is_empty


@given(st.floats(0.4, 0.6), st.floats(0.4, 0.6), st.floats(0.3, 1.5), st.floats(0.3, 1.5), st.booleans())
def test_scaling_an_ellipse_gives_an_ellipse(x: float, y: float, sx: float, sy: float, mirrored: bool) -> None:
    mask, sign = Mask.ellipse(x, y, 0.12, 0.2), -1 if mirrored else 1
    scaled = mask.scaled(sign * sx, sy, about=(x, y)).array().astype(int)
    assert np.abs(scaled - Mask.ellipse(x, y, 0.12 * sx, 0.2 * sy).array()).mean() < 1.5


@given(masks())
def test_mirrors_are_their_own_inverse_and_keep_the_box(mask: Mask) -> None:
    for vertically in (False, True):
        assert mask.flipped(vertically).flipped(vertically) == mask
        assert mask.flipped(vertically).box == mask.box
    assert mask.scaled(1) == mask


@given(middle, middle, st.floats(0.05, 0.2))
def test_a_box_holds_what_is_covered(x: float, y: float, r: float) -> None:
    mask = Mask.disc(x, y, r)
    assert mask.box == pytest.approx((x - r, y - r, x + r, y + r), abs=1.5 / 128)
    x0, y0, x1, y1 = mask.box or (0, 0, 0, 0)
    assert (mask - Mask.rect(x0, y0, x1, y1)).is_empty
    assert Mask.empty().box is None


def test_opacity_is_a_factor() -> None:
    assert (Mask.full() * 0.5).array().max() == 128
    assert Mask.disc(0.5, 0.5, 0.2) * 1 == Mask.disc(0.5, 0.5, 0.2)
    assert (Mask.full() * 0).is_empty


def test_a_stroke_is_as_wide_as_the_pen_is_pressed() -> None:
    tapered = Mask.stroke([(0.2, 0.5), (0.8, 0.5)], [0.02, 0.1])
    across = tapered.array()[:, [32, 64, 96]].astype(float).sum(0) / 255 / 128
    np.testing.assert_allclose(
        across, 2 * np.array([0.0267, 0.06, 0.0933]) / math.cos(math.atan(0.08 / 0.6)), atol=0.006
    )
    assert Mask.stroke([(0.2, 0.5), (0.8, 0.5)], [0.1, 0.1], 0.3) == Mask.stroke([(0.2, 0.5), (0.8, 0.5)], 0.1, 0.3)


def test_a_flood_fills_what_hangs_together() -> None:
    image = Image.new("RGB", (256, 256), "navy")
    image.paste("white", (0, 128, 256, 256))
    image.paste("navy", (64, 160, 192, 224))  # an island of the same colour
    assert Mask.flood(image, 0.5, 0.2) == Mask.rect(0, 0, 1, 0.5)
    assert Mask.flood(image, 0.5, 0.7) == Mask.rect(0.25, 0.625, 0.75, 0.875)
    assert Mask.flood(image, 1, 1, tolerance=1) == Mask.full()


@given(masks())
def test_arrays_and_json_round_trip(mask: Mask) -> None:
    assert Mask.from_array(mask.array()) == mask
    assert Mask.from_array(mask.array() / 255) == mask
    assert Mask.from_dict(mask.to_dict()) == mask
    assert Mask.from_image(Image.fromarray(mask.array())) == mask


def test_arrays_of_other_sizes_are_averaged() -> None:
    left = np.zeros((300, 200), bool)
    left[:, :100] = True
    assert Mask.from_array(left) == Mask.rect(0, 0, 0.5, 1)
    np.testing.assert_allclose(Mask.from_array([[0.0, 1.0]]).coverage(1, 2), [[0.0, 1.0]])


def test_an_image_with_alpha_gives_its_alpha() -> None:
    image = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    image.paste((0, 0, 0, 255), (0, 0, 64, 32))
    assert Mask.from_image(image) == Mask.rect(0, 0, 1, 0.5)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((2, 2, 3), np.uint8), r"shape \(2, 2, 3\)"),
        (np.zeros((0, 4), bool), r"shape \(0, 4\)"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.array([["a"]]), "<U1"),
        (np.array([[0.5, np.nan]]), "NaN"),
        (np.array([[0.5, np.inf]]), "NaN or infinite"),
        (np.array([[0.5, 1.5]]), r"0\.5\.\.1\.5"),
        ([[1.0], [1.0, 2.0]], "different lengths"),
    ],
)
def test_wrong_arrays_are_refused(array: object, says: str) -> None:
    with pytest.raises(FeaturebrushError, match=says):
        Mask.from_array(array)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Mask(b"abc"), "3 bytes"),
        (lambda: Mask.disc(math.nan, 0.5, 0.1), "x .*nan"),
        (lambda: Mask.disc(0.5, math.inf, 0.1), "y .*inf"),
        (lambda: Mask.disc(0.5, 0.5, -0.1), "rx .*-0.1"),
        (lambda: Mask.disc(200, 300, 40), "fraction of the canvas.*200"),
        (lambda: Mask.disc("left", 0.5, 0.1), "'left'"),  # pyright: ignore[reportArgumentType]
        (lambda: Mask.polygon([(0, 0), (1, 1)]), "at least 3"),
        (lambda: Mask.stroke([], 0.1), "at least 1"),
        (lambda: Mask.stroke([(0.1,)], 0.1), "pairs"),
        (lambda: Mask.stroke([(0.5, 0.5)], 0.1, hardness=2), "hardness .*2"),
        (lambda: Mask.full().coverage(0, 4), "h is .*0"),
        (lambda: Mask.full().shifted(math.nan, 0), "dx .*nan"),
        (lambda: Mask.stroke([(0.1, 0.1), (0.5, 0.5)], [0.1]), "one for each of the 2 points, not 1"),
        (lambda: Mask.full() * 1.5, "factor .*1.5"),
        (lambda: Mask.full().scaled(0), "sx .*0.0"),
        (lambda: Mask.full().scaled(1, math.inf), "sy .*inf"),
        (lambda: Mask.flood(Image.new("RGB", (8, 8)), 1.2, 0), "x .*1.2"),
        (lambda: Mask.flood(Image.new("RGB", (8, 8)), 0, 0, -1), "tolerance .*-1"),
        (lambda: Mask.flood("me", 0, 0), "PIL image"),  # pyright: ignore[reportArgumentType]
        (lambda: Mask.from_image(3), "PIL image"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_wrong_arguments_are_refused(make, says: str) -> None:
    with pytest.raises(FeaturebrushError, match=says):
        make()


def test_a_mask_in_json_never_unpacks_to_more_than_a_mask() -> None:
    import base64
    import zlib

    bomb = base64.b64encode(zlib.compress(bytes(10_000_000))).decode()
    with pytest.raises(FeaturebrushError, match="16384"):
        Mask.from_dict({"size": [128, 128], "deflate": bomb})
    with pytest.raises(FeaturebrushError, match=r"\[64, 64\]"):
        Mask.from_dict({"size": [64, 64], "deflate": ""})
