"""Around the brush: shapes, transforms, zoom, masks over the picture, settings and variations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from canvas import Mask, Painting
from tests.browser.conftest import PATIENCE, Easel


def drag(easel: Easel, *points: tuple[float, float], held: str = "") -> None:
    """With the mouse along ``points``, while a key is held."""
    if held:
        easel.page.keyboard.down(held)
    easel.stroke(*points)
    if held:
        easel.page.keyboard.up(held)


def covered(easel: Easel, place: int = -1) -> Mask:
    """The mask of a layer."""
    return Painting.from_json(easel.page.evaluate("featurebrush.json()")).layers[place].mask


def likeness(a: Mask, b: Mask) -> float:
    """Covered by both over covered by either, 0..1."""
    return (a & b).area / (a | b).area


def apart(a: Mask, b: Mask) -> float:
    """Mean difference of coverage, of 255."""
    return float(np.abs(a.array().astype(int) - b.array()).mean())


@pytest.fixture
def castle(easel: Easel) -> Easel:
    """The page with the castle in hand."""
    easel.pick("castle")
    return easel


@pytest.fixture
def box(easel: Easel) -> Easel:
    """A castle in a rectangle, held by the move tool."""
    painting = Painting().paint("castle", Mask.rect(0.25, 0.25, 0.5, 0.75) - Mask.disc(0.3, 0.3, 0.05))
    easel.page.evaluate("(text) => featurebrush.load(text)", painting.to_json())
    easel.page.click(".fb-layer .fb-pick")
    easel.page.keyboard.press("v")
    easel.wait()
    return easel


CORNERS = [(0.2, 0.3), (0.7, 0.55)]


@pytest.mark.parametrize(
    ("key", "held", "wanted"),
    [
        ("2", "", Mask.rect(0.2, 0.3, 0.7, 0.55)),
        ("2", "Shift", Mask.rect(0.2, 0.3, 0.7, 0.8)),
        ("3", "", Mask.ellipse(0.45, 0.425, 0.25, 0.125)),
        ("3", "Shift", Mask.disc(0.45, 0.55, 0.25)),
    ],
)
def test_boxes_are_drawn_from_corner_to_corner(castle: Easel, key: str, held: str, wanted: Mask) -> None:
    before = castle.pixels()
    castle.page.keyboard.press(key)
    drag(castle, *CORNERS, held=held)
    castle.wait()
    assert likeness(covered(castle), wanted) > 0.98
    assert len(castle.layers()) == 1, "however many frames it took, it is one layer"
    changed = np.abs(castle.pixels() - before).mean(-1)
    inside = wanted.coverage(256, 256) > 0.9
    assert changed[inside].mean() > 10 * changed[wanted.coverage(256, 256) == 0].mean()
    castle.page.keyboard.press("Control+z")
    assert castle.layers() == []


@pytest.mark.parametrize("seed", range(3))
def test_the_page_draws_shapes_as_python_does(easel: Easel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    (x0, y0), (x1, y1) = points = rng.uniform(-0.1, 1.1, (2, 2))

    def drawn(make: str, path: Any, *how: float) -> Mask:
        places = [{"x": x, "y": y, **more} for (x, y), more in path]
        data = easel.page.evaluate("(what) => featurebrush.drawn(...what)", [make, places, *how])
        return Mask(bytes(data))

    plain = [(point, {}) for point in points.tolist()]
    assert apart(drawn("makeRect", plain), Mask.rect(x0, y0, x1, y1)) < 0.02
    ellipse = Mask.ellipse((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) / 2, abs(y1 - y0) / 2)
    assert apart(drawn("makeEllipse", plain), ellipse) < 0.02
    star = rng.uniform(0, 1, (7, 2)).tolist()
    assert apart(drawn("makeLasso", [(point, {}) for point in star]), Mask.polygon(star)) < 2
    pressed = rng.uniform(0, 1, 7).tolist()
    pen = drawn("makeStroke", [(point, {"press": p}) for point, p in zip(star, pressed, strict=True)], 0.2, 0.5)
    assert apart(pen, Mask.stroke(star, [0.1 * (0.3 + 0.7 * p) for p in pressed], 0.5)) < 0.05


@pytest.mark.parametrize(
    ("scale", "about"), [((1.7, 0.6), (0.3, 0.5)), ((-1, 1), (0.5, 0.5)), ((0.4, -1.3), (0.2, 0.9))]
)
def test_the_page_scales_masks_as_python_does(easel: Easel, scale: Any, about: Any) -> None:
    mask = Mask.stroke([(0.2, 0.2), (0.8, 0.6)], 0.1, hardness=0.3)
    easel.page.evaluate("(text) => featurebrush.load(text)", Painting().paint("castle", mask).to_json())
    placed = easel.page.evaluate("(how) => featurebrush.placed(0, how)", {"scale": scale, "about": about})
    assert np.abs(np.array(placed).reshape(128, 128) - mask.scaled(*scale, about=about).array()).max() <= 1


def test_a_lasso_draws_around_a_region_and_rubs_one_out(castle: Easel) -> None:
    triangle = [(0.2, 0.2), (0.8, 0.2), (0.5, 0.8)]
    castle.page.keyboard.press("4")
    drag(castle, *triangle)
    castle.wait()
    assert likeness(covered(castle), Mask.polygon(triangle)) > 0.97
    castle.page.keyboard.press("e")
    castle.page.keyboard.press("2")
    drag(castle, (0.1, 0.1), (0.9, 0.4))
    castle.wait()
    assert likeness(covered(castle), Mask.polygon(triangle) - Mask.rect(0.1, 0.1, 0.9, 0.4)) > 0.96


def test_filling_takes_what_has_the_colour_of_the_place(castle: Easel) -> None:
    picture = Image.fromarray(castle.pixels().astype(np.uint8))
    castle.page.keyboard.press("5")
    assert castle.page.is_visible("[data-set=tolerance]") and castle.page.is_hidden("[data-set=size]")
    drag(castle, (0.5, 0.95))
    castle.wait()
    meadow = Mask.flood(picture, 0.5, 0.95, tolerance=0.12)
    assert 0.2 < meadow.area < 0.6
    assert likeness(covered(castle), meadow) > 0.97


def test_a_stroke_covers_as_much_as_its_opacity_says(castle: Easel) -> None:
    castle.set_range("[data-set=opacity]", 40)
    castle.stroke((0.4, 0.4), (0.6, 0.6))
    assert covered(castle).array().max() == 102


def test_a_pen_paints_as_wide_as_it_is_pressed(castle: Easel) -> None:
    def pen(kind: str, x: float, pressure: float) -> None:
        at = dict(zip(("clientX", "clientY"), castle.spot(x, 0.5), strict=True))
        pointer = {"pointerType": "pen", "isPrimary": True, "pointerId": 1, "button": 0, "bubbles": True}
        castle.page.evaluate(
            """([kind, what]) => {
                const easel = document.querySelector(".fb-easel");
                easel.setPointerCapture = () => {};
                easel.dispatchEvent(new PointerEvent(kind, what));
            }""",
            [kind, {**pointer, **at, "pressure": pressure}],
        )

    pen("pointerdown", 0.2, 0.1)
    for step in range(1, 13):
        pen("pointermove", 0.2 + 0.05 * step, 0.1 + 0.075 * step)
    pen("pointerup", 0.8, 0)
    castle.wait()
    across = covered(castle).array()[:, [32, 96]].astype(float).sum(0) / 255 / 128
    assert across[1] > 1.8 * across[0] > 0.05
    assert across[1] < 0.17


@pytest.mark.parametrize(
    ("grip", "to", "scale", "about"),
    [
        ((0.5, 0.75), (0.75, 0.5), (2, 0.5), (0.25, 0.25)),
        ((0.25, 0.5), (0.375, 0.9), (0.5, 1), (0.5, 0.5)),
        ((0.25, 0.25), (0.75, 0.25), (-1, 1), (0.5, 0.75)),
    ],
)
def test_handles_scale_and_mirror_a_region(box: Easel, grip: Any, to: Any, scale: Any, about: Any) -> None:
    mask = covered(box)
    drag(box, grip, to)
    box.wait()
    assert likeness(covered(box), mask.scaled(*scale, about=about)) > 0.93
    box.page.keyboard.press("Control+z")
    assert covered(box) == mask


def test_shift_keeps_proportions_and_keys_mirror(box: Easel) -> None:
    mask = covered(box)
    box.page.keyboard.press("Shift+H")
    assert covered(box) == mask.flipped()
    box.page.keyboard.press("Shift+V")
    assert covered(box) == mask.flipped().flipped(vertically=True)
    drag(box, (0.5, 0.75), (0.75, 0.8), held="Shift")
    box.wait()
    x0, y0, x1, y1 = covered(box).box or (0, 0, 0, 0)
    assert (x1 - x0, y1 - y0) == pytest.approx((0.5, 0.75), abs=0.03)


def test_zooming_and_panning_keep_strokes_under_the_pointer(castle: Easel) -> None:
    castle.page.mouse.move(*castle.spot(0.25, 0.25))
    castle.page.mouse.wheel(0, -600)
    castle.page.wait_for_function("() => featurebrush.zoom() > 2")
    zoom = castle.page.evaluate("featurebrush.zoom()")
    castle.stroke((0.25, 0.25))
    castle.wait()
    x0, y0, x1, y1 = covered(castle).box or (0, 0, 0, 0)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((0.25, 0.25), abs=0.01), "the wheel's place stayed"
    assert castle.page.inner_text(".fb-zoom") == f"{round(100 * zoom)}%"
    castle.page.keyboard.down("Space")
    castle.stroke((0.5, 0.5), (0.5 - 0.2 * zoom, 0.5))
    castle.page.keyboard.up("Space")
    assert len(castle.layers()) == 1 and covered(castle).box == (x0, y0, x1, y1), "no dab, no stroke"
    castle.page.keyboard.press("e")
    castle.page.keyboard.press("b")
    castle.page.evaluate("featurebrush.pick('moon')")
    castle.stroke((0.25, 0.25))
    castle.wait()
    left, top, right, bottom = covered(castle).box or (0, 0, 0, 0)
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((0.45, 0.25), abs=0.01)
    castle.page.keyboard.press("0")
    assert castle.page.evaluate("featurebrush.zoom()") == 1 and castle.page.is_hidden(".fb-zoom")
    castle.page.keyboard.press("+")
    assert castle.page.evaluate("featurebrush.zoom()") == 1.5
    castle.page.keyboard.press("-")
    assert castle.page.evaluate("featurebrush.zoom()") == 1


def test_two_fingers_zoom_and_take_back_what_the_first_began(fake: Any, open_page: Any) -> None:
    easel = open_page(fake.url, 390, 844, has_touch=True, is_mobile=True)
    easel.pick("castle")
    client = easel.page.context.new_cdp_session(easel.page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(easel.spot(*place) for place in places)]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (0.4, 0.5))
    touch("touchMove", (0.42, 0.5))
    touch("touchStart", (0.42, 0.5), (0.6, 0.5))
    for step in range(1, 6):
        touch("touchMove", (0.42 - 0.04 * step, 0.5), (0.6 + 0.04 * step, 0.5))
    touch("touchEnd")
    easel.wait()
    assert easel.page.evaluate("featurebrush.zoom()") == pytest.approx(0.58 / 0.18, rel=0.1)
    assert easel.layers() == []
    touch("touchStart", (0.5, 0.5))
    touch("touchMove", (0.55, 0.5))
    touch("touchEnd")
    easel.wait()
    assert len(easel.layers()) == 1, "and one finger paints again"


def test_masks_are_shown_over_the_picture(box: Easel) -> None:
    assert box.page.is_hidden(".fb-masks")
    box.set_range("[data-set=masks]", 50)
    assert box.page.eval_on_selector(".fb-masks", "masks => [masks.hidden, masks.style.opacity]") == [False, "0.5"]
    seen = box.page.eval_on_selector(
        ".fb-masks", "masks => [...masks.getContext('2d').getImageData(0, 0, 128, 128).data]"
    )
    colours = np.array(seen).reshape(128, 128, 4)[..., :3]
    strange = (np.abs(colours - colours[0, 0]).sum(-1) > 60).astype(float)
    assert likeness(Mask.from_array(strange), covered(box)) > 0.95
    box.set_range("[data-set=masks]", 0)
    box.page.keyboard.down("o")
    assert box.page.eval_on_selector(".fb-masks", "masks => [masks.hidden, masks.style.opacity]") == [False, "1"]
    box.page.keyboard.up("o")
    assert box.page.is_hidden(".fb-masks")


def test_the_cells_that_a_stroke_touches_are_shown_while_it_is_painted(castle: Easel) -> None:
    castle.page.keyboard.press("2")
    castle.page.mouse.move(*castle.spot(0.25, 0.25))
    castle.page.mouse.down()
    castle.page.mouse.move(*castle.spot(0.5, 0.3125), steps=4)
    castle.page.wait_for_function(
        "() => document.querySelector('.fb-cells').getAttribute('d')?.split('M').length === 5"
    )
    castle.page.mouse.up()
    castle.wait()
    assert castle.page.get_attribute(".fb-cells", "d") == ""


def test_shapes_are_drawn_by_keys_alone(castle: Easel) -> None:
    castle.page.focus(".fb-easel")
    castle.page.keyboard.press("2")
    for key in ("ArrowLeft", "Space", *["ArrowRight"] * 10, *["ArrowDown"] * 5, "Space"):
        castle.page.keyboard.press(key)
    castle.wait()
    assert likeness(covered(castle), Mask.rect(0.48, 0.5, 0.68, 0.6)) > 0.98


def test_steps_guidance_and_keep_travel_with_the_painting(easel: Easel) -> None:
    assert [easel.painting()[name] for name in ("steps", "guidance", "keep")] == [None, None, True]
    assert easel.page.get_attribute("[data-set=steps]", "max") == "50"
    easel.set_range("[data-set=steps]", 9)
    easel.set_range("[data-set=guidance]", 2.5)
    easel.page.uncheck("[data-set=keep]")
    easel.wait()
    assert [easel.painting()[name] for name in ("steps", "guidance", "keep")] == [9, 2.5, False]
    easel.page.click("[data-reset=steps]")
    assert easel.painting()["steps"] is None and easel.page.input_value("[data-set=steps]") == "4"
    for _ in range(4):
        easel.page.keyboard.press("Control+z")
    assert [easel.painting()[name] for name in ("steps", "guidance", "keep")] == [None, None, True]


def test_variations_show_four_seeds_and_one_is_taken(box: Easel) -> None:
    before = json.loads(box.page.evaluate("featurebrush.json()"))
    box.page.keyboard.press("a")
    box.page.wait_for_function(
        "() => document.querySelectorAll('.fb-seeds img:not([hidden])').length === 4", timeout=1000 * PATIENCE
    )
    seeds = box.page.eval_on_selector_all(".fb-seeds span", "all => all.map((one) => one.textContent)")
    assert len(set(seeds)) == 4
    box.page.click("[data-do=another]")
    box.page.wait_for_function(
        "() => document.querySelectorAll('.fb-seeds img:not([hidden])').length === 4", timeout=1000 * PATIENCE
    )
    again = box.page.eval_on_selector_all(".fb-seeds span", "all => all.map((one) => one.textContent)")
    assert not set(seeds) & set(again)
    box.page.click(".fb-seeds button >> nth=2")
    box.wait()
    after = json.loads(box.page.evaluate("featurebrush.json()"))
    assert after["seed"] == int(again[2])
    assert {**after, "seed": 0} == {**before, "seed": 0}
