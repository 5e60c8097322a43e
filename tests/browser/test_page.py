"""The page in a real browser, with a stand-in for the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from canvas.painting import Painting

SKY = ((0.3, 0.25), (0.6, 0.25))
MEADOW = ((0.3, 0.85), (0.6, 0.85))


def test_it_opens_with_a_picture_and_says_what_to_do(easel: Any) -> None:
    assert easel.pixels().std() > 10
    assert "Pick something on the left" in easel.page.text_content(".fb-guide")
    assert easel.page.locator("footer").count() == 0 or not easel.page.locator("footer").first.is_visible()
    assert easel.layers() == []


def test_a_stroke_makes_a_layer_and_the_picture_follows(easel: Any) -> None:
    before = easel.pixels()
    easel.pick("castle")
    easel.stroke(*SKY)
    easel.wait()
    (layer,) = easel.layers()
    assert layer["brush"] == {"concept": "castle"} and layer["mode"] == "add" and layer["strength"] == 1
    inside = layer["mask"].repeat(2, 0).repeat(2, 1) > 128
    assert 0.02 < inside.mean() < 0.2
    rows, columns = np.nonzero(inside)
    assert abs(rows.mean() / 256 - 0.25) < 0.02 and abs(columns.mean() / 256 - 0.45) < 0.02
    change = np.abs(easel.pixels() - before).mean(-1)
    assert change[inside].mean() > 20 * change[~inside].mean() + 5


def test_the_json_is_a_painting(easel: Any) -> None:
    easel.pick("moon")
    easel.stroke(*SKY)
    text = easel.page.evaluate("featurebrush.json()")
    painting = Painting.from_json(text)
    assert painting.layers[0].brush.name == "moon"
    assert not painting.layers[0].mask.is_empty
    assert Painting.from_json(painting.to_json()) == painting


def test_a_second_stroke_of_the_same_brush_extends_the_layer_and_another_concept_starts_one(easel: Any) -> None:
    easel.pick("castle")
    easel.stroke(*SKY)
    first = easel.layers()[0]["mask"]
    easel.stroke(*MEADOW)
    (layer,) = easel.layers()
    assert (layer["mask"] >= first).all() and layer["mask"].sum() > 1.5 * first.sum()
    easel.pick("sea")
    easel.stroke(*MEADOW)
    assert [layer["brush"]["concept"] for layer in easel.layers()] == ["castle", "sea"]
    easel.set_range(".fb-tools [data-set=strength]", 0.5)
    easel.stroke(*SKY)
    assert [layer["strength"] for layer in easel.layers()] == [1, 1, 0.5]


def test_undo_and_redo_by_key_and_button_go_stroke_by_stroke(easel: Any) -> None:
    easel.pick("castle")
    easel.stroke(*SKY)
    one = easel.painting()
    easel.stroke(*MEADOW)
    two = easel.painting()
    easel.page.keyboard.press("Control+z")
    np.testing.assert_equal(easel.painting(), one)
    easel.page.click("[data-do=undo]")
    assert easel.layers() == [] and easel.page.is_disabled("[data-do=undo]")
    easel.page.keyboard.press("Control+Shift+z")
    np.testing.assert_equal(easel.painting(), one)
    easel.page.click("[data-do=redo]")
    np.testing.assert_equal(easel.painting(), two)
    assert easel.page.is_disabled("[data-do=redo]")


def test_undo_brings_the_old_picture_back(easel: Any) -> None:
    before = easel.pixels()
    easel.pick("castle")
    easel.stroke(*SKY)
    easel.wait()
    assert np.abs(easel.pixels() - before).mean() > 2
    easel.page.keyboard.press("Control+z")
    easel.wait()
    assert np.abs(easel.pixels() - before).max() == 0


def test_the_eraser_takes_from_the_active_layers_mask(easel: Any) -> None:
    easel.pick("castle")
    easel.stroke(*SKY)
    before = easel.layers()[0]["mask"]
    easel.page.keyboard.press("e")
    easel.stroke((0.6, 0.1), (0.6, 0.4))
    (layer,) = easel.layers()
    assert (layer["mask"] <= before).all() and layer["mask"].sum() < 0.9 * before.sum()
    assert layer["mask"][32, 77] == 0 and layer["mask"][32, 45] == 255
    easel.page.keyboard.press("Control+z")
    assert (easel.layers()[0]["mask"] == before).all()


def test_remove_mode_makes_a_layer_that_erases_from_the_picture(easel: Any) -> None:
    easel.pick("cloud")
    easel.page.keyboard.press("x")
    easel.stroke(*SKY)
    assert [layer["mode"] for layer in easel.layers()] == ["erase"]
    easel.page.click("[data-tool=add]")
    easel.stroke(*SKY)
    assert [layer["mode"] for layer in easel.layers()] == ["erase", "add"]


def test_clear_empties_the_painting_and_can_be_undone(easel: Any) -> None:
    easel.pick("castle")
    easel.stroke(*SKY)
    easel.page.click("[data-do=clear]")
    assert easel.layers() == [] and easel.page.is_visible(".fb-empty")
    easel.page.keyboard.press("Control+z")
    assert len(easel.layers()) == 1


def test_a_layers_row_changes_strength_hides_and_deletes(easel: Any) -> None:
    easel.pick("castle")
    easel.stroke(*SKY)
    easel.wait()
    full = easel.pixels()
    easel.set_range(".fb-layer input[type=range]", 0.4)
    easel.wait()
    assert easel.layers()[0]["strength"] == 0.4
    assert np.abs(easel.pixels() - full).mean() > 1
    easel.stroke(*MEADOW)
    assert len(easel.layers()) == 1, "the brush keeps the active layer's strength"
    easel.page.click('[aria-label="Hide Castle"]')
    assert easel.layers()[0]["visible"] is False
    easel.page.click('[aria-label="Delete Castle"]')
    assert easel.layers() == []
    for _ in range(3):
        easel.page.keyboard.press("Control+z")
    assert easel.layers()[0]["visible"] and easel.layers()[0]["strength"] == 0.4


def test_choosing_a_layer_takes_up_its_brush(easel: Any) -> None:
    easel.pick("castle")
    easel.stroke(*SKY)
    easel.pick("sea")
    easel.stroke(*MEADOW)
    easel.page.click('[aria-label="Select layer Castle"]')
    assert easel.page.get_attribute('[data-concept="castle"]', "aria-selected") == "true"
    easel.stroke((0.8, 0.2), (0.8, 0.3))
    assert len(easel.layers()) == 2 and easel.layers()[0]["mask"][32, 102] == 255


def test_search_finds_names_and_synonyms_and_enter_picks(easel: Any) -> None:
    def found() -> list[str]:
        return easel.page.eval_on_selector_all(".fb-tile", "tiles => tiles.map(tile => tile.dataset.concept)")

    assert len(found()) > 20
    easel.page.keyboard.press("/")
    easel.page.keyboard.type("palace")
    assert found() == ["castle"]
    easel.page.keyboard.press("Enter")
    assert easel.page.evaluate("featurebrush.tool().brush.concept") == "castle"
    easel.page.fill(".fb-search input", "hou")
    assert found()[0] == "house" and "lighthouse" in found()
    easel.page.fill(".fb-search input", "zebra")
    assert found() == [] and "zebra" in easel.page.text_content(".fb-none")
    easel.page.click(".fb-none button")
    assert len(found()) > 20


def test_the_palette_is_walked_with_arrow_keys(easel: Any) -> None:
    easel.page.focus(".fb-search input")
    easel.page.keyboard.press("Tab")
    easel.page.keyboard.press("ArrowRight")
    easel.page.keyboard.press("ArrowRight")
    easel.page.keyboard.press("Enter")
    assert easel.page.evaluate("featurebrush.tool().brush.concept") == "night"
    assert easel.page.locator('.fb-tile[tabindex="0"]').count() == 1


def test_the_picture_is_painted_by_keyboard_alone(easel: Any) -> None:
    easel.pick("castle")
    easel.page.focus(".fb-easel")
    for _ in range(5):
        easel.page.keyboard.press("ArrowUp")
    easel.page.keyboard.press(" ")
    (layer,) = easel.layers()
    rows, columns = np.nonzero(layer["mask"] > 128)
    assert abs(rows.mean() - 0.4 * 128) < 2 and abs(columns.mean() - 64) < 2


def test_the_brush_grows_and_shrinks(easel: Any) -> None:
    size = "featurebrush.tool().size"
    start = easel.page.evaluate(size)
    easel.page.keyboard.press("]")
    assert easel.page.evaluate(size) > start
    easel.page.keyboard.press("[")
    easel.page.keyboard.press("[")
    assert easel.page.evaluate(size) < start
    easel.set_range(".fb-tools [data-set=size]", 40)
    easel.pick("castle")
    easel.stroke((0.5, 0.5))
    area = (easel.layers()[0]["mask"] / 255).mean()
    assert abs(area - np.pi * 0.2**2) < 0.005


def test_the_seed_changes_the_picture_and_can_be_locked(easel: Any) -> None:
    before = easel.pixels()
    easel.page.fill("[data-set=seed]", "1234")
    easel.page.keyboard.press("Enter")
    easel.wait()
    assert easel.painting()["seed"] == 1234 and np.abs(easel.pixels() - before).mean() > 1
    easel.page.click("[data-do=roll]")
    rolled = easel.painting()["seed"]
    assert rolled != 1234
    easel.page.click("[data-do=lock]")
    assert easel.page.is_disabled("[data-do=roll]")
    easel.page.keyboard.press("Control+z")
    assert easel.painting()["seed"] == 1234
    assert not easel.page.is_editable("[data-set=seed]")


def test_the_prompt_is_one_step_and_a_refusal_is_told_in_words(easel: Any) -> None:
    easel.pick("castle")
    easel.stroke(*SKY)
    easel.page.fill("[data-set=prompt]", "fail")
    easel.page.keyboard.press("Enter")
    easel.page.wait_for_selector(".fb-toast:visible")
    assert "This prompt cannot be painted" in easel.page.text_content(".fb-toast")
    easel.page.wait_for_selector(".fb-status[data-state=error]")
    assert len(easel.layers()) == 1, "the painting is kept"
    easel.page.fill("[data-set=prompt]", "a crash")
    easel.page.keyboard.press("Enter")
    easel.page.wait_for_function("() => /wrong/.test(document.querySelector('.fb-toast').textContent)")
    easel.page.fill("[data-set=prompt]", "a quiet lake")
    easel.page.keyboard.press("Enter")
    easel.page.wait_for_selector(".fb-toast", state="hidden")
    easel.wait()
    assert easel.painting()["prompt"] == "a quiet lake"
    for _ in range(3):
        easel.page.click("[data-do=undo]")
    assert easel.painting()["prompt"] not in ("fail", "a crash", "a quiet lake") and len(easel.layers()) == 1


def test_the_last_stroke_is_never_dropped(easel: Any) -> None:
    easel.pick("castle")
    for i in range(12):
        easel.stroke((0.1 + 0.07 * i, 0.2), (0.1 + 0.07 * i, 0.3))
    easel.wait()
    frames = easel.page.evaluate("featurebrush.frames()")
    assert frames["asked"] == frames["shown"], "the newest request is the one on the screen"
    sent = easel.painting()
    shown = easel.pixels()
    easel.page.evaluate("featurebrush.json().then(featurebrush.load)")
    easel.wait()
    np.testing.assert_equal(easel.painting(), sent)
    assert np.abs(easel.pixels() - shown).max() == 0


def test_escape_takes_a_stroke_back(easel: Any) -> None:
    easel.pick("castle")
    easel.page.mouse.move(*easel.spot(0.3, 0.3))
    easel.page.mouse.down()
    easel.page.mouse.move(*easel.spot(0.6, 0.3), steps=5)
    easel.page.keyboard.press("Escape")
    easel.page.mouse.up()
    assert easel.layers() == [] and easel.page.is_disabled("[data-do=undo]")


def test_painting_without_a_brush_asks_for_one(easel: Any) -> None:
    easel.stroke(*SKY)
    assert easel.layers() == []
    assert easel.page.locator(".fb-concepts.fb-nudge").count() == 1


def test_the_painting_survives_a_reload(easel: Any) -> None:
    easel.pick("castle")
    easel.stroke(*SKY)
    easel.wait()
    easel.page.wait_for_timeout(800)
    painting, pixels = easel.painting(), easel.pixels()
    easel.page.reload()
    easel.page.wait_for_selector(".fb[data-ready=yes]")
    np.testing.assert_equal(easel.painting(), painting)
    assert np.abs(easel.pixels() - pixels).max() == 0


def test_a_kept_painting_that_does_not_fit_gives_way_to_the_opening_one(
    fake: Any, open_page: Callable[..., Any]
) -> None:
    easel = open_page(fake.url)
    painting = json.loads(easel.page.evaluate("featurebrush.json()"))
    painting["model"] = "storybook"
    painting["layers"] = [{"brush": {"concept": "zeppelin"}, "mask": {"size": [128, 128], "deflate": "eJwDAAAAAAE="}}]
    easel.page.evaluate("text => localStorage.setItem('featurebrush:painting', text)", json.dumps(painting))
    easel.page.reload()
    easel.page.wait_for_selector(".fb[data-ready=yes]")
    assert easel.layers() == [] and easel.pixels().std() > 10
    assert easel.page.is_visible(".fb-toast")


def test_the_download_is_a_png_that_carries_the_painting(easel: Any, tmp_path: Path) -> None:
    easel.pick("castle")
    easel.stroke(*SKY)
    easel.wait()
    with easel.page.expect_download() as download:
        easel.page.click("[data-do=file]")
        easel.page.click("[data-file=download]")
    assert download.value.suggested_filename == "featurebrush-9.png"
    file = tmp_path / "picture.png"
    download.value.save_as(file)
    with Image.open(file) as image:
        assert image.format == "PNG" and image.size == (256, 256)
        assert Painting.from_json(image.info["featurebrush"]).layers[0].brush.name == "castle"
        shown = easel.pixels()
        assert np.abs(np.asarray(image.convert("RGB"), np.float32) - shown).mean() < 2


def test_touch_paints_on_a_phone(fake: Any, open_page: Callable[..., Any]) -> None:
    easel = open_page(fake.url, 390, 844, has_touch=True, is_mobile=True, device_scale_factor=2)
    assert "below" in easel.page.text_content(".fb-guide")
    easel.page.tap('[data-concept="castle"]')
    session = easel.page.context.new_cdp_session(easel.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        at = [dict(zip("xy", easel.spot(*point), strict=True)) for point in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    touch("touchStart", (0.3, 0.3))
    for i in range(10):
        touch("touchMove", (0.3 + 0.03 * i, 0.3 + 0.02 * i))
    touch("touchEnd")
    easel.wait()
    (layer,) = easel.layers()
    assert layer["mask"][int(0.4 * 128), int(0.45 * 128)] == 255
    assert easel.page.evaluate("document.scrollingElement.scrollTop") == 0, "painting does not scroll the page"
    assert easel.page.evaluate("document.scrollingElement.scrollWidth") == 390


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 700), (820, 1180), (390, 844), (844, 390)])
def test_nothing_overflows(fake: Any, open_page: Callable[..., Any], width: int, height: int) -> None:
    easel = open_page(fake.url, width, height)
    assert easel.page.evaluate("document.scrollingElement.scrollWidth") == width
    if width > 940:
        assert easel.page.evaluate("document.scrollingElement.scrollHeight") == height
    box = easel.page.locator(".fb-easel").bounding_box()
    assert abs(box["width"] - box["height"]) < 1
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    spilled = easel.page.evaluate(
        """() => [...document.querySelectorAll(".fb-tools, .fb-bar, .fb-tools *, .fb-bar *")]
            .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.className)"""
    )
    assert spilled == []


def test_every_control_has_a_name(easel: Any) -> None:
    easel.pick("castle")
    easel.stroke(*SKY)
    nameless = easel.page.evaluate(
        """() => [...document.querySelectorAll(".fb button, .fb input, .fb textarea, .fb canvas:not([aria-hidden])")]
            .filter(e => e.tagName !== "CANVAS")
            .filter(e => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.[0]?.textContent.trim()))
            .map(e => e.outerHTML)"""
    )
    assert nameless == []


def test_it_reconnects_and_keeps_the_painting(serve: Callable[..., Any], open_page: Callable[..., Any]) -> None:
    server = serve("-m", "tests.browser.fake")
    easel = open_page(server.url, quiet=False)
    easel.pick("castle")
    easel.stroke(*SKY)
    easel.wait()
    before = easel.pixels()
    server.stop()
    easel.stroke(*MEADOW)
    easel.page.wait_for_selector('.fb-status[data-state="reconnecting"]')
    assert "safe" in easel.page.text_content(".fb-toast")
    server.start()
    easel.page.wait_for_selector('.fb-status[data-state="ready"]')
    easel.wait()
    assert np.abs(easel.pixels() - before).mean() > 1
    assert not easel.page.is_visible(".fb-toast") and len(easel.layers()) == 1


def test_a_server_killed_in_the_middle_of_a_stroke_loses_nothing(
    serve: Callable[..., Any], open_page: Callable[..., Any]
) -> None:
    """Neither the stroke under way nor what was painted before; the new server is given the whole painting."""
    server = serve("-m", "tests.browser.fake")
    easel = open_page(server.url, quiet=False)
    easel.pick("castle")
    easel.stroke(*SKY)
    easel.wait()
    before, first = easel.pixels(), easel.layers()[0]["mask"]
    mouse = easel.page.mouse
    mouse.move(*easel.spot(*MEADOW[0]))
    mouse.down()
    mouse.move(*easel.spot(0.45, 0.85), steps=8)
    server.process.kill()
    server.process.wait(30)
    mouse.move(*easel.spot(*MEADOW[1]), steps=8)
    mouse.up()
    easel.page.wait_for_selector('.fb-status[data-state="reconnecting"]')
    easel.page.keyboard.press("Control+z")
    easel.page.keyboard.press("Control+Shift+z")
    server.start()
    easel.page.wait_for_selector('.fb-status[data-state="ready"]')
    easel.wait()
    mask = easel.layers()[0]["mask"]
    assert (mask >= first).all() and mask[96:].any() and not first[96:].any()
    changed = np.abs(easel.pixels() - before).mean(-1)
    assert changed[200:232, 90:140].mean() > 10 * max(0.5, changed[20:100].mean())
    easel.page.reload()
    easel.page.wait_for_selector(".fb[data-ready=yes]")
    easel.wait()
    assert np.array_equal(easel.layers()[0]["mask"], mask)


def test_nothing_stays_over_the_picture_once_it_has_followed(easel: Any) -> None:
    for concept in ("castle", "sea", "moon"):
        easel.pick(concept)
        easel.stroke((0.2, 0.3), (0.7, 0.3))
        easel.stroke((0.7, 0.5))
    easel.wait()
    easel.page.mouse.move(5, 5)
    easel.page.wait_for_timeout(1000)
    assert easel.page.locator(".fb-overlay polyline").count() == 0
    assert not easel.page.is_visible(".fb-overlay circle") and not easel.page.is_visible(".fb-mask")
