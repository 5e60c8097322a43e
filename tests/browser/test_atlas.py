"""Features found and taken as brushes: by search, on the map, by inspecting the picture; favourites and recent ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.browser.fake import FakePainter

SKY = ((0.3, 0.25), (0.6, 0.25))


def open_map(easel: Any) -> None:
    easel.page.keyboard.press("m")
    easel.page.wait_for_selector("dialog.fb-map[open]")
    easel.page.wait_for_function("() => document.querySelector('.fb-blocks button[aria-pressed=true]')")
    easel.page.wait_for_timeout(500)


def map_pixels(easel: Any) -> np.ndarray:
    width, height, data = easel.page.evaluate(
        """() => {
            const canvas = document.querySelector(".fb-map-room canvas");
            const { width, height } = canvas;
            return [width, height, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
        }"""
    )
    return np.array(data, np.uint8).reshape(height, width, 4)


def map_spot(easel: Any, feature: int) -> tuple[float, float]:
    spot = easel.page.evaluate(f"featurebrush.mapSpot({feature})")
    return spot["x"], spot["y"]


def hand(easel: Any) -> str:
    return easel.page.text_content(".fb-hand .fb-words")


def names(easel: Any, group: str) -> list[str]:
    return easel.page.eval_on_selector_all(
        f'.fb-group [aria-label="{group}" i] .fb-tile', "tiles => tiles.map(tile => tile.textContent.trim())"
    )


def test_a_concept_found_by_its_synonym_paints_and_the_hand_says_what_it_is_good_at(easel: Any) -> None:
    easel.page.keyboard.press("/")
    easel.page.keyboard.type("papercut")
    easel.page.keyboard.press("Enter")
    assert "Paper" in hand(easel) and "80%" in hand(easel) and "up.0.2" in hand(easel)
    easel.stroke(*SKY)
    (layer,) = easel.layers()
    assert layer["brush"] == {"concept": "paper"} and layer["mask"].any()


def test_pointing_at_a_tile_shows_it_large_without_taking_it(easel: Any) -> None:
    easel.pick("castle")
    easel.page.hover('[data-concept="paper"]')
    assert "Paper" in hand(easel)
    easel.page.hover(".fb-bar h1")
    assert "Castle" in hand(easel) and "fortress" in hand(easel)
    easel.stroke(*SKY)
    assert easel.layers()[0]["brush"] == {"concept": "castle"}


def test_weak_concepts_are_folded_away_but_can_be_painted(easel: Any) -> None:
    groups = easel.page.eval_on_selector_all(".fb-grid", "grids => grids.map(grid => grid.ariaLabel)")
    assert groups[-2:] == ["Style", "Weak"]
    assert "Windmill" not in names(easel, "buildings") and names(easel, "Weak") == ["Windmill", "Street lamp"]
    assert not easel.page.is_visible('[data-concept="windmill"]')
    easel.page.click(".fb-fold")
    easel.pick("windmill")
    assert "weak" in hand(easel) and "12%" in hand(easel)
    easel.stroke(*SKY)
    assert easel.layers()[0]["brush"] == {"concept": "windmill"}


def test_favourites_and_recent_brushes_outlive_a_reload(easel: Any) -> None:
    easel.pick("sea")
    easel.page.keyboard.press("f")
    easel.pick("castle")
    open_map(easel)
    easel.page.mouse.click(*map_spot(easel, 99))
    assert (names(easel, "Favourites"), names(easel, "Recent")[1:]) == (["Sea"], ["Castle", "Sea"])
    easel.page.reload()
    easel.page.wait_for_selector(".fb[data-ready=yes]")
    label = easel.page.locator('[data-feature="down.1.0:99"] .fb-label')
    easel.page.wait_for_function("() => / 99$/.test(document.querySelector('[data-feature] .fb-label').textContent)")
    assert names(easel, "Favourites") == ["Sea"] and label.text_content() == names(easel, "Recent")[0]
    easel.page.click('[data-feature="down.1.0:99"]')
    easel.stroke(*SKY)
    assert easel.layers()[0]["brush"] == {"block": "down.1.0", "feature": 99}
    easel.page.click('.fb-group [aria-label="Favourites"] .fb-tile')
    easel.page.click("[data-do=star]")
    assert names(easel, "Favourites") == []


def test_a_feature_picked_on_the_map_paints(easel: Any) -> None:
    before = easel.pixels()
    open_map(easel)
    easel.page.click('.fb-blocks [data-block="up.0.2"]')
    easel.page.wait_for_timeout(500)
    easel.page.mouse.click(*map_spot(easel, 98))
    assert easel.page.evaluate("featurebrush.tool().brush") == {"block": "up.0.2", "feature": 98}
    assert "label fits 98%" in hand(easel)
    easel.stroke(*SKY)
    easel.wait()
    (layer,) = easel.layers()
    assert layer["brush"] == {"block": "up.0.2", "feature": 98}
    assert np.abs(easel.pixels() - before)[layer["mask"].repeat(2, 0).repeat(2, 1) > 128].mean() > 10


def test_a_search_lights_its_matches_on_the_map(easel: Any) -> None:
    open_map(easel)
    easel.page.mouse.move(5, 5)
    everything = map_pixels(easel)
    easel.page.fill("dialog.fb-map input", "palace")
    easel.page.wait_for_timeout(300)
    found = map_pixels(easel)
    assert (found[..., 3] == 255).sum() < 0.4 * (everything[..., 3] == 255).sum()
    expected = sum(feature.label == "castle" for feature in FakePainter().features("down.1.0"))
    assert easel.page.text_content(".fb-found").startswith(f"{expected} features")
    easel.page.focus("dialog.fb-map input")
    easel.page.keyboard.press("Enter")
    easel.page.keyboard.press("Enter")
    brush = easel.page.evaluate("featurebrush.tool().brush")
    assert brush["block"] == "down.1.0" and "Castle" in hand(easel)
    easel.stroke(*SKY)
    assert easel.layers()[0]["brush"] == brush


def test_the_map_is_zoomed_and_moved_by_wheel_drag_and_keys(easel: Any) -> None:
    open_map(easel)
    first, middle = map_spot(easel, 255), map_spot(easel, 0)
    easel.page.mouse.move(*middle)
    easel.page.mouse.wheel(0, -600)
    easel.page.wait_for_timeout(200)
    near = map_spot(easel, 255)
    assert np.hypot(*np.subtract(near, map_spot(easel, 0))) > 2 * np.hypot(*np.subtract(first, middle))
    assert np.allclose(map_spot(easel, 0), middle, atol=2), "what is under the pointer stays there"
    easel.page.mouse.down()
    easel.page.mouse.move(middle[0] + 120, middle[1] + 40, steps=5)
    easel.page.mouse.up()
    assert np.allclose(map_spot(easel, 0), np.add(middle, (120, 40)), atol=2)
    assert easel.page.evaluate("featurebrush.tool().brush") is None, "a drag is no click"
    easel.page.keyboard.press("Shift+ArrowRight")
    assert map_spot(easel, 0)[0] < middle[0] + 120
    easel.page.keyboard.press("0")
    assert np.allclose(map_spot(easel, 255), first, atol=1)
    easel.page.keyboard.press("Escape")
    assert easel.page.evaluate("document.querySelector('dialog.fb-map').open") is False and easel.layers() == []


def test_the_map_is_walked_with_arrow_keys(easel: Any) -> None:
    open_map(easel)
    easel.page.focus(".fb-map-room canvas")
    easel.page.keyboard.press("ArrowRight")
    one = easel.page.text_content(".fb-card small")
    easel.page.keyboard.press("ArrowLeft")
    two = easel.page.text_content(".fb-card small")
    assert one != two
    easel.page.keyboard.press("Enter")
    assert "{block} · {feature}".format(**easel.page.evaluate("featurebrush.tool().brush")) == two


def test_ten_thousand_features_have_room_on_the_map(serve: Callable[..., Any], open_page: Callable[..., Any]) -> None:
    easel = open_page(serve("-m", "tests.browser.fake", "--features", "10000").url)
    open_map(easel)
    assert "10,000" in easel.page.text_content(".fb-found")
    drawn = (map_pixels(easel)[..., 3] > 0).mean()
    assert 0.2 < drawn < 0.9
    assert easel.page.evaluate("document.querySelectorAll('.fb *').length") < 1000, "no element for each feature"
    easel.page.mouse.move(*map_spot(easel, 9999))
    easel.page.mouse.wheel(0, -2500)
    easel.page.wait_for_timeout(300)
    easel.page.mouse.click(*map_spot(easel, 9999))
    assert easel.page.evaluate("featurebrush.tool().brush") == {"block": "down.1.0", "feature": 9999}
    easel.stroke(*SKY)
    easel.wait()
    assert easel.layers()[0]["brush"]["feature"] == 9999


def test_the_strongest_features_of_a_place_are_listed_and_paint(easel: Any) -> None:
    easel.page.keyboard.press("i")
    easel.page.mouse.move(*easel.spot(0.4, 0.3))
    easel.page.mouse.click(*easel.spot(0.4, 0.3))
    cell = int(16 * 0.3) * 16 + int(16 * 0.4)
    easel.page.wait_for_selector(f'[data-feature="down.1.0:{cell}"]')
    assert easel.layers() == [], "looking paints nothing"
    listed = easel.page.eval_on_selector_all(".fb-seen li button", "rows => rows.map(row => row.dataset.feature)")
    assert listed == [f"{block}:{cell + i}" for block in ("down.1.0", "up.0.2") for i in range(3)]
    easel.page.mouse.move(*easel.spot(0.9, 0.9))
    easel.page.wait_for_timeout(500)
    assert easel.page.locator(f'[data-feature="down.1.0:{cell}"]').count() == 1, "a place that was clicked is kept"
    easel.page.hover(f'[data-feature="up.0.2:{cell + 1}"]')
    heat = np.array(
        easel.page.evaluate("[...document.querySelector('.fb-heat').getContext('2d').getImageData(0, 0, 16, 16).data]")
    ).reshape(16, 16, 4)
    assert np.unravel_index(heat[..., 0].argmax(), (16, 16)) == (4, 6) and heat[15, 15, 0] < 30
    assert easel.page.is_visible(".fb-heat")
    easel.page.click(f'[data-feature="up.0.2:{cell + 1}"]')
    assert not easel.page.is_visible(".fb-seen") and not easel.page.is_visible(".fb-heat")
    easel.stroke((0.4, 0.8), (0.6, 0.8))
    easel.wait()
    (layer,) = easel.layers()
    assert layer["brush"] == {"block": "up.0.2", "feature": cell + 1} and layer["mask"][102, 64] == 255


def test_inspecting_sees_what_was_painted(easel: Any) -> None:
    easel.pick("castle")
    easel.stroke(*SKY)
    easel.wait()
    easel.page.keyboard.press("i")
    easel.page.focus(".fb-easel")
    for _ in range(12):
        easel.page.keyboard.press("ArrowUp")
    easel.page.wait_for_function("() => document.querySelector('.fb-seen li button b')?.textContent === 'Castle'")
    assert len(easel.layers()) == 1
    easel.page.keyboard.press("Control+z")
    easel.page.wait_for_function("() => document.querySelector('.fb-seen li button b')?.textContent !== 'Castle'")
    assert easel.layers() == []


@pytest.mark.parametrize("tool", ["map", "inspect"])
def test_a_phone_finds_features_too(fake: Any, open_page: Callable[..., Any], tool: str) -> None:
    easel = open_page(fake.url, 390, 844, has_touch=True, is_mobile=True, device_scale_factor=2)
    if tool == "map":
        easel.page.tap("[data-do=map]")
        easel.page.wait_for_timeout(800)
        easel.page.touchscreen.tap(*map_spot(easel, 99))
        assert easel.page.evaluate("featurebrush.tool().brush") is None, "a finger hides what it points at"
        easel.page.tap(".fb-card button")
    else:
        easel.page.tap("[data-tool=inspect]")
        easel.page.touchscreen.tap(*easel.spot(0.19, 0.4))
        easel.page.wait_for_selector('[data-feature="down.1.0:99"]')
        easel.page.tap('.fb-seen [data-feature="down.1.0:99"]')
    assert easel.page.evaluate("document.scrollingElement.scrollWidth") == 390
    easel.page.evaluate("scrollTo(0, 0)")
    easel.page.touchscreen.tap(*easel.spot(0.5, 0.5))
    (layer,) = easel.layers()
    assert layer["brush"] == {"block": "down.1.0", "feature": 99} and layer["mask"][64, 64] == 255
