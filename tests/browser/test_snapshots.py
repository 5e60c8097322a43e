"""Snapshots, and before and after, in a real browser."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from canvas import Mask, Painting

CASTLE = Painting(seed=7).paint("castle", Mask.disc(0.25, 0.3, 0.15))
BOTH = CASTLE.paint("moon", Mask.disc(0.75, 0.3, 0.15))


def show(easel: Any, painting: Painting) -> None:
    easel.page.evaluate("(text) => featurebrush.load(text)", painting.to_json())
    easel.wait()


def painted(easel: Any) -> Painting:
    return Painting.from_json(easel.page.evaluate("featurebrush.json()"))


def snap(easel: Any, count: int) -> None:
    """Take a snapshot, the ``count``-th, and wait for its thumbnail."""
    easel.page.keyboard.press("s")
    easel.page.wait_for_function(f"() => document.querySelectorAll('.fb-back img').length === {count}")


def before(easel: Any) -> np.ndarray:
    """The picture to the left of the divider, as [256, 256, 3]."""
    data = easel.page.evaluate(
        """() => {
            const small = Object.assign(document.createElement("canvas"), { width: 256, height: 256 });
            const context = small.getContext("2d");
            context.drawImage(document.querySelector(".fb-before"), 0, 0, 256, 256);
            return [...context.getImageData(0, 0, 256, 256).data];
        }"""
    )
    return np.array(data, np.float32).reshape(256, 256, 4)[..., :3]


def shot(easel: Any) -> np.ndarray:
    """What the screen shows of the picture, dividers and all."""
    with Image.open(io.BytesIO(easel.page.locator(".fb-easel").screenshot())) as image:
        return np.asarray(image.convert("RGB").resize((256, 256)), np.float32)


def test_a_snapshot_is_gone_back_to_as_a_step(easel: Any) -> None:
    assert "go back to" in easel.page.text_content(".fb-strip-empty")
    show(easel, CASTLE)
    picture = easel.pixels()
    snap(easel, 1)
    easel.page.keyboard.press("s")
    easel.page.wait_for_selector(".fb-toast:visible")
    assert "already" in easel.page.text_content(".fb-toast")
    show(easel, BOTH)
    easel.page.click("[data-do=snapshot]")
    easel.page.wait_for_function("() => document.querySelectorAll('.fb-back img').length === 2")
    easel.page.click('[aria-label="Go back to snapshot 1"]')
    easel.wait()
    assert painted(easel) == CASTLE and np.abs(easel.pixels() - picture).max() == 0
    easel.page.keyboard.press("Control+z")
    assert painted(easel) == BOTH


def test_snapshots_are_there_after_a_reload_until_they_are_deleted(easel: Any) -> None:
    show(easel, CASTLE)
    snap(easel, 1)
    easel.page.reload()
    easel.page.wait_for_selector(".fb[data-ready=yes]")
    assert easel.page.locator(".fb-back img").count() == 1
    show(easel, BOTH)
    easel.page.click('[aria-label="Go back to snapshot 1"]')
    easel.page.wait_for_function("() => featurebrush.painting().layers.length === 1")
    assert painted(easel) == CASTLE
    easel.page.hover(".fb-back")
    easel.page.click('[aria-label="Delete snapshot 1"]')
    assert easel.page.locator(".fb-back").count() == 0
    easel.page.reload()
    easel.page.wait_for_selector(".fb[data-ready=yes]")
    assert easel.page.locator(".fb-back").count() == 0


@pytest.mark.parametrize("found", ["{", '[{"number": 1}]', '{"a": 1}', '"text"', "[null]"])
def test_what_is_no_snapshot_is_passed_over(easel: Any, found: str) -> None:
    easel.page.evaluate("(found) => localStorage.setItem('featurebrush:snapshots:storybook', found)", found)
    easel.page.reload()
    easel.page.wait_for_selector(".fb[data-ready=yes]")
    assert easel.page.locator(".fb-back").count() == 0


def test_comparing_shows_before_left_of_the_divider(easel: Any) -> None:
    plain = easel.pixels()
    show(easel, BOTH.replace(prompt=painted(easel).prompt))
    easel.page.keyboard.press("c")
    easel.page.wait_for_selector(".fb-before:visible")
    easel.page.mouse.move(5, 5)
    assert np.abs(before(easel) - plain).mean() < 3
    over = shot(easel)
    castle, moon = (layer.mask.coverage(256, 256) > 0.9 for layer in BOTH.layers)
    now = easel.pixels()
    assert np.abs(over - plain)[castle].mean() < 8 < 20 < np.abs(over - now)[castle].mean()
    assert np.abs(over - now)[moon].mean() < 8

    x, y = easel.spot(0.5, 0.8)
    easel.page.mouse.move(x, y)
    easel.page.mouse.down()
    easel.page.mouse.move(*easel.spot(0.97, 0.8), steps=5)
    easel.page.mouse.up()
    assert easel.page.get_attribute(".fb-divider", "aria-valuenow") == "97"
    assert np.abs(shot(easel) - plain)[moon].mean() < 8
    easel.page.keyboard.press("Home")
    assert np.abs(shot(easel) - now)[castle].mean() < 8
    assert painted(easel).layers == BOTH.layers, "dragging the divider paints nothing"

    easel.pick("sea")
    easel.stroke((0.2, 0.8), (0.7, 0.8))
    assert len(easel.layers()) == 3, "it is painted on while it is compared"
    easel.page.keyboard.press("Escape")
    assert not easel.page.is_visible(".fb-before") and not easel.page.is_visible(".fb-divider")


def test_comparing_with_a_snapshot_and_following_the_seed(easel: Any) -> None:
    show(easel, CASTLE)
    castle = easel.pixels()
    snap(easel, 1)
    show(easel, BOTH)
    easel.page.click("[data-do=compare]")
    easel.page.select_option(".fb-compare select", label="snapshot 1")
    easel.page.wait_for_function("() => !document.querySelector('.fb-before').hidden")
    old = easel.page.get_attribute(".fb-before", "src")
    assert np.abs(before(easel) - castle).mean() < 3
    easel.page.select_option(".fb-compare select", "")
    easel.page.wait_for_function("(old) => document.querySelector('.fb-before').src !== old", arg=old)
    old = easel.page.get_attribute(".fb-before", "src")
    show(easel, BOTH.replace(seed=8))
    easel.page.wait_for_function("(old) => document.querySelector('.fb-before').src !== old", arg=old)
    easel.page.click("[data-do=compare]")
    assert not easel.page.is_visible(".fb-before")


def test_the_oldest_snapshots_make_room(fake: Any, open_page: Callable[..., Any]) -> None:
    easel = open_page(fake.url)
    many = [{"number": n, "text": CASTLE.replace(seed=n).to_json(), "image": "data:,"} for n in range(1, 49)]
    easel.page.evaluate(
        "(many) => localStorage.setItem('featurebrush:snapshots:storybook', JSON.stringify(many))", many
    )
    easel.page.reload()
    easel.page.wait_for_selector(".fb[data-ready=yes]")
    easel.page.keyboard.press("s")
    easel.page.wait_for_selector(".fb-toast:visible")
    assert "made room" in easel.page.text_content(".fb-toast")
    kept = easel.page.evaluate("JSON.parse(localStorage.getItem('featurebrush:snapshots:storybook'))")
    assert [one["number"] for one in kept] == list(range(2, 50))
