"""Layers and their list, in a real browser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from canvas import Mask, Painting

THREE = (
    Painting(seed=7)
    .paint("castle", Mask.disc(0.3, 0.3, 0.15))
    .paint("moon", Mask.disc(0.7, 0.3, 0.1))
    .paint("castle", Mask.disc(0.5, 0.7, 0.1))
)


@pytest.fixture
def three(easel: Any) -> Any:
    easel.page.evaluate("(text) => featurebrush.load(text)", THREE.to_json())
    easel.wait()
    return easel


def painted(easel: Any) -> Painting:
    return Painting.from_json(easel.page.evaluate("featurebrush.json()"))


def names(easel: Any) -> list[str]:
    return [layer["brush"]["concept"] for layer in easel.layers()]


def row(place: int) -> str:
    """The list's row at that place from its top."""
    return f".fb-layer:nth-child({place + 1})"


def said(easel: Any, words: str) -> None:
    script = "(words) => document.querySelector('.fb-toast').textContent.includes(words)"
    easel.page.wait_for_function(script, arg=words)


def test_dragging_a_row_moves_its_layer_as_one_step(three: Any) -> None:
    page = three.page
    grip, last = (page.locator(f"{row(place)} .fb-grip").bounding_box() for place in (1, 2))
    page.mouse.move(grip["x"] + 5, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    page.mouse.move(grip["x"] + 5, last["y"] + last["height"] + 12, steps=6)
    page.mouse.up()
    three.wait()
    assert painted(three) == THREE.moved_layer(1, 0)
    page.keyboard.press("Control+z")
    assert painted(three) == THREE


def test_keys_move_layers_too(three: Any) -> None:
    three.page.click(f"{row(0)} .fb-pick")
    three.page.keyboard.press("Alt+ArrowDown")
    assert painted(three) == THREE.moved_layer(2, 1)
    three.page.keyboard.press("Alt+ArrowUp")
    three.page.keyboard.press("Alt+ArrowUp")
    assert painted(three) == THREE
    three.page.focus(f"{row(2)} .fb-grip")
    three.page.keyboard.press("ArrowUp")
    three.page.keyboard.press("ArrowUp")
    assert painted(three) == THREE.moved_layer(0, 2)


def test_the_picture_follows_the_order_and_the_eye(three: Any) -> None:
    overlapping = THREE.with_layer(1, mask=Mask.disc(0.3, 0.3, 0.15))
    three.page.evaluate("(text) => featurebrush.load(text)", overlapping.to_json())
    three.wait()
    inside = overlapping.layers[0].mask.array().repeat(2, 0).repeat(2, 1) > 200
    over = three.pixels()
    three.page.click(f"{row(1)} .fb-pick")
    three.page.keyboard.press("Alt+ArrowDown")
    three.wait()
    assert np.abs(three.pixels() - over)[inside].mean() > 10
    three.page.keyboard.press("h")
    assert [layer["visible"] for layer in three.layers()] == [False, True, True]


def test_negative_strength_paints_away_and_says_so(three: Any) -> None:
    three.set_range(f"{row(0)} input[type=range]", -0.5)
    assert painted(three) == THREE.with_layer(2, strength=-0.5)
    assert "paints away" in three.page.text_content(row(0)) and "−50%" in three.page.text_content(row(0))


def test_a_layer_is_renamed_in_place(three: Any) -> None:
    three.page.dblclick(f"{row(1)} .fb-pick")
    three.page.keyboard.type("the old moon")
    three.page.keyboard.press("Enter")
    assert painted(three) == THREE.with_layer(1, name="the old moon")
    assert "the old moon" in three.page.text_content(row(1))
    three.page.keyboard.press("F2")
    three.page.keyboard.type("something else")
    three.page.keyboard.press("Escape")
    assert painted(three).layers[1].name == "the old moon"


def test_a_locked_layer_stays_as_it_is_and_says_why(three: Any) -> None:
    three.page.click(f"{row(0)} .fb-pick")
    three.page.keyboard.press("l")
    locked = THREE.with_layer(2, locked=True)
    assert painted(three) == locked and three.page.is_disabled(f"{row(0)} input[type=range]")
    three.page.keyboard.press("e")
    three.stroke((0.5, 0.7), (0.6, 0.7))
    said(three, "locked")
    three.page.keyboard.press("v")
    three.stroke((0.5, 0.7), (0.6, 0.6))
    three.page.keyboard.press("Delete")
    three.page.click(f"{row(0)} [aria-label^=Delete]")
    assert painted(three) == locked
    three.page.keyboard.press("l")
    three.page.keyboard.press("Delete")
    assert painted(three) == THREE.without_layer(2)


def test_duplicating_and_merging(three: Any) -> None:
    three.page.click(f"{row(0)} .fb-pick")
    three.page.keyboard.press("Control+d")
    assert painted(three) == THREE.duplicated_layer(2)
    three.page.keyboard.press("Control+m")
    assert painted(three) == THREE
    three.page.keyboard.press("Control+m")
    said(three, "cannot be one layer")
    assert painted(three) == THREE
    three.page.keyboard.press("Alt+ArrowDown")
    three.page.keyboard.press("Control+m")
    assert painted(three) == THREE.moved_layer(2, 1).merged_layer(1)


def test_mode_and_steps_under_more(three: Any) -> None:
    three.page.click(f"{row(0)} [aria-label^=More]")
    three.page.select_option(f"{row(0)} select", "replace")
    three.page.fill(f"{row(0)} input[type=number] >> nth=0", "25")
    three.page.keyboard.press("Enter")
    three.page.fill(f"{row(0)} input[type=number] >> nth=1", "10")
    three.page.keyboard.press("Enter")
    assert painted(three) == THREE.with_layer(2, mode="replace", steps=(0.25, 0.26))


def test_dragging_a_region_moves_the_thing(three: Any) -> None:
    three.page.click(f"{row(2)} .fb-pick")
    three.page.keyboard.press("v")
    three.stroke((0.3, 0.3), (0.45, 0.5))
    three.wait()
    moved, wanted = painted(three).layers[0].mask, THREE.layers[0].mask.shifted(0.15, 0.2)
    apart = np.abs(moved.array().astype(int) - wanted.array())
    assert apart.max() <= 20 and apart.mean() < 0.5, "as Python moves it, to a pixel of the screen"
    assert painted(three).layers[1:] == THREE.layers[1:]
    three.page.keyboard.press("Control+z")
    assert painted(three) == THREE
    three.page.focus(".fb-easel")
    three.page.keyboard.press("ArrowRight")
    assert painted(three).layers[0].mask == THREE.layers[0].mask.shifted(1 / 128, 0)


@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [0.02, 0.16, 0.5])
def test_strokes_cover_what_python_says(easel: Any, size: float, hardness: float) -> None:
    rng = np.random.default_rng(round(100 * size + 10 * hardness))
    path = np.clip(0.5 + np.cumsum(rng.normal(0, 0.04, (40, 2)), axis=0), -0.1, 1.1).tolist()
    for points in (path[:1], path[:3], path):
        made = easel.page.evaluate(
            "(what) => featurebrush.drawn(...what)",
            ["makeStroke", [{"x": x, "y": y} for x, y in points], size, hardness],
        )
        wanted = Mask.stroke(points, size / 2, hardness).array().astype(int)
        assert np.abs(np.array(made, int).reshape(128, 128) - wanted).max() <= 1


def test_a_soft_brush_paints_soft_edges(easel: Any) -> None:
    easel.pick("castle")
    easel.set_range("[data-set=hardness]", 0)
    easel.stroke((0.4, 0.4), (0.5, 0.5))
    mask = easel.layers()[0]["mask"]
    assert ((mask > 20) & (mask < 235)).sum() > 0.5 * (mask >= 235).sum() > 0


def test_alt_click_picks_the_layer_that_is_there(three: Any) -> None:
    three.page.click(f"{row(1)} .fb-pick")
    before = painted(three)
    three.page.keyboard.down("Alt")
    three.page.mouse.click(*three.spot(0.5, 0.7))
    three.page.keyboard.up("Alt")
    assert "fb-active" in three.page.get_attribute(row(0), "class")
    assert three.page.evaluate("featurebrush.tool().brush.concept") == "castle" and painted(three) == before
    three.page.keyboard.down("Alt")
    three.page.mouse.click(*three.spot(0.7, 0.3))
    three.page.keyboard.up("Alt")
    assert three.page.evaluate("featurebrush.tool().brush.concept") == "moon"


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.1003, -0.2), (-1.5, 0.3), (1 / 256, 1 / 256), (0.0, 0.999)])
def test_the_page_moves_masks_as_python_does(three: Any, dx: float, dy: float) -> None:
    mask = Mask.stroke([(0.2, 0.2), (0.8, 0.6)], 0.1, hardness=0.3)
    three.page.evaluate("(text) => featurebrush.load(text)", Painting().paint("castle", mask).to_json())
    moved = three.page.evaluate("(shift) => featurebrush.placed(0, { shift })", [dx, dy])
    assert np.abs(np.array(moved, int).reshape(128, 128) - mask.shifted(dx, dy).array().astype(int)).max() <= 1


def test_the_list_of_keys_names_every_shortcut_of_a_tooltip(easel: Any) -> None:
    easel.page.keyboard.press("?")
    listed = easel.page.eval_on_selector_all(
        ".fb-keys dd", "all => all.map((dd) => [...dd.children].map((kbd) => kbd.textContent).join('+'))"
    )
    assert easel.page.is_visible("dialog.fb-keys") and len(listed) > 25
    titles = easel.page.eval_on_selector_all("[title]", "all => all.map((one) => one.title)")
    shortcuts = {title.rsplit("(", 1)[1].rstrip(")") for title in titles if title.endswith(")") and "(" in title}
    assert len(shortcuts) > 8
    assert {key for key in shortcuts if " and " not in key} - {"Esc", "+", "-", "0"} <= set(listed)
    easel.page.keyboard.press("Escape")
    assert not easel.page.is_visible("dialog.fb-keys")
