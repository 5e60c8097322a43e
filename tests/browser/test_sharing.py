"""Opening, saving and sharing paintings, in a real browser."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from canvas import Mask, Painting, files
from tests.browser.fake import FakePainter

PAINTING = Painting(prompt="two hills", seed=2**53 + 1).paint("moon", Mask.disc(0.3, 0.3, 0.15), name="mine")


def painted(easel: Any) -> Painting:
    return Painting.from_json(easel.page.evaluate("featurebrush.json()"))


def choose(easel: Any, name: str) -> None:
    easel.page.click("[data-do=file]")
    easel.page.click(f"[data-file={name}]")


def open_with_picker(easel: Any, path: Path) -> None:
    with easel.page.expect_file_chooser() as chooser:
        choose(easel, "open")
    chooser.value.set_files(path)


def drop(easel: Any, path: Path) -> None:
    """Drop the file on the page, as a hand does from a folder."""
    easel.page.evaluate(
        """([name, data]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name));
            const target = document.querySelector(".fb-easel");
            for (const kind of ["dragover", "drop"]) {
                target.dispatchEvent(new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
            }
        }""",
        [path.name, b64encode(path.read_bytes()).decode()],
    )


def until_painted(easel: Any, painting: Painting) -> None:
    easel.page.wait_for_function(
        "async (wanted) => (await featurebrush.json()).includes(wanted)", arg=f'"seed":{painting.seed},'
    )
    easel.wait()


def least_difference(easel: Any, wanted: np.ndarray) -> float:
    """Mean difference of the screen from a picture, as soon as it is small, or after four seconds."""
    for _ in range(40):
        difference = float(np.abs(easel.pixels() - wanted).mean())
        if difference < 3:
            break
        easel.page.wait_for_timeout(100)
    return difference


def until_said(easel: Any, words: str) -> None:
    easel.page.wait_for_function(
        "(words) => document.querySelector('.fb-toast').textContent.includes(words)", arg=words, timeout=20000
    )


def test_what_is_saved_opens_again(easel: Any, tmp_path: Path) -> None:
    easel.pick("castle")
    easel.stroke((0.3, 0.3), (0.5, 0.5))
    easel.wait()
    before = painted(easel)
    with easel.page.expect_download() as download:
        choose(easel, "save")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "featurebrush-9.json" and files.load(path) == before
    easel.page.click("[data-do=clear]")
    assert easel.layers() == []
    open_with_picker(easel, path)
    easel.page.wait_for_function("featurebrush.painting().layers.length === 1")
    assert painted(easel) == before
    easel.page.keyboard.press("Control+z")
    assert easel.layers() == [], "opening is one step of the history"


@pytest.mark.parametrize("way", [open_with_picker, drop])
def test_a_png_brings_its_painting_back(easel: Any, tmp_path: Path, way: Callable[[Any, Path], None]) -> None:
    path = tmp_path / "moon.png"
    files.save(PAINTING, path, FakePainter(seconds=0).render(PAINTING))
    way(easel, path)
    until_painted(easel, PAINTING)
    assert painted(easel) == PAINTING
    wanted = np.asarray(FakePainter(seconds=0).render(PAINTING)).astype(float)
    assert least_difference(easel, wanted) < 6


def test_what_cannot_be_opened_is_said_and_nothing_is_lost(easel: Any, tmp_path: Path) -> None:
    easel.pick("castle")
    easel.stroke((0.3, 0.3), (0.5, 0.5))
    before = painted(easel)
    plain, other, newer = tmp_path / "plain.png", tmp_path / "other.json", tmp_path / "newer.json"
    Image.new("RGB", (9, 9)).save(plain)
    files.save(Painting().paint("zeppelin", Mask.full()), other)
    newer.write_text(json.dumps({"featurebrush": 99}))
    for path, words in ((plain, "carries no painting"), (other, "zeppelin"), (newer, "newer")):
        drop(easel, path)
        until_said(easel, words)
        assert path.name in easel.page.text_content(".fb-toast").lower()
        assert painted(easel) == before


def test_a_link_carries_the_painting_to_another_browser(easel: Any, open_page: Callable[..., Any], fake: Any) -> None:
    easel.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    easel.page.evaluate("(text) => featurebrush.load(text)", PAINTING.to_json())
    easel.wait()
    choose(easel, "link")
    until_said(easel, "copied")
    link = easel.page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(fake.url) and files.from_link(link) == PAINTING
    other = open_page(link)
    assert painted(other) == PAINTING and "#" not in other.page.url
    other.page.keyboard.press("Control+z")
    assert other.layers() == [], "the painting that was there before is one step back"


def test_a_broken_link_is_said(open_page: Callable[..., Any], fake: Any) -> None:
    easel = open_page(f"{fake.url}#painting=eJwnonsense")
    until_said(easel, "unpacked")
    assert easel.layers() == []


def test_a_painting_too_large_for_a_link_says_so(easel: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    easel.page.evaluate("(text) => featurebrush.load(text)", Painting().paint("sea", Mask.from_array(noise)).to_json())
    choose(easel, "link")
    until_said(easel, "too large")


def test_the_code_is_python_that_paints_the_same(easel: Any) -> None:
    easel.page.evaluate("(text) => featurebrush.load(text)", PAINTING.to_json())
    choose(easel, "code")
    easel.page.wait_for_selector("dialog.fb-share[open]")
    assert easel.page.input_value(".fb-share textarea") == files.to_code(PAINTING)
    easel.page.keyboard.press("Escape")
    assert easel.page.locator("dialog.fb-share[open]").count() == 0


def test_an_example_of_the_gallery_opens(easel: Any) -> None:
    easel.page.keyboard.press("g")
    easel.page.click(".fb-examples button:has-text('The moon')")
    easel.page.wait_for_function("featurebrush.painting().layers.length === 1")
    assert painted(easel) == FakePainter(seconds=0).examples[1].painting
    assert easel.page.locator("dialog.fb-gallery[open]").count() == 0


def test_the_menu_works_by_keys(easel: Any) -> None:
    easel.page.focus("[data-do=file]")
    easel.page.keyboard.press("Enter")
    assert easel.page.evaluate("document.activeElement.dataset.file") == "open"
    easel.page.keyboard.press("ArrowUp")
    assert easel.page.evaluate("document.activeElement.dataset.file") == "code"
    easel.page.keyboard.press("Escape")
    assert easel.page.evaluate("document.activeElement.dataset.do") == "file"
    assert not easel.page.is_visible(".fb-menu")


def test_large_seeds_are_not_rounded(easel: Any) -> None:
    largest = str(2**63 - 1)
    easel.page.fill("[data-set=seed]", largest + "9")
    easel.page.press("[data-set=seed]", "Enter")
    assert painted(easel).seed == 2**63 - 1 and easel.page.input_value("[data-set=seed]") == largest
    easel.page.press("[data-set=seed]", "ArrowDown")
    assert painted(easel).seed == 2**63 - 2
    easel.wait()
    easel.page.reload()
    easel.page.wait_for_selector(".fb[data-ready=yes]")
    assert painted(easel).seed == 2**63 - 2
