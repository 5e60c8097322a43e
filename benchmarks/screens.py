"""The page as it looks: six states, light and dark, on a desk, a phone and a large screen, on sheets to look at.

    python benchmarks/screens.py docs/img

The app runs as ``python app.py`` starts it, with the embedded model; each sheet is ``page-WIDTHxHEIGHT-SCHEME.webp``.
The second state on a desk in light is also written as ``page.png``, whole.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from serving import PATIENCE, serving

SIZES = ((1440, 900), (390, 844), (2560, 1440))
WIDEST = 1280
"""Of one state on a sheet, in pixels."""
GAP = 12


def settled(page: Page) -> None:
    """Wait until the model has nothing to do and what moves has come to rest."""
    page.wait_for_timeout(400)
    page.wait_for_function("() => !featurebrush.busy()", timeout=1000 * PATIENCE)
    page.wait_for_timeout(400)


def states(page: Page) -> Iterator[bytes]:
    """The page's states, one after the other, as PNG."""

    def at(x: float, y: float) -> tuple[float, float]:
        box = page.locator(".fb-easel").bounding_box()
        assert box is not None
        return box["x"] + box["width"] * x, box["y"] + box["height"] * y

    def drag(*points: tuple[float, float]) -> None:
        page.mouse.move(*at(*points[0]))
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*at(*point), steps=8)

    yield page.screenshot()
    page.click('[data-concept="house"]')
    drag((0.2, 0.6), (0.34, 0.62), (0.26, 0.7))
    page.wait_for_timeout(900)
    yield page.screenshot()
    page.mouse.up()
    settled(page)
    page.click('[data-concept="balloon"]')
    drag((0.66, 0.22), (0.7, 0.34))
    page.mouse.up()
    settled(page)
    page.keyboard.press("v")
    settled(page)
    yield page.screenshot()
    page.keyboard.down("o")
    page.wait_for_timeout(400)
    yield page.screenshot()
    page.keyboard.up("o")
    page.keyboard.press("m")
    page.wait_for_timeout(2500)
    yield page.screenshot()
    page.keyboard.press("Escape")
    page.keyboard.press("i")
    page.mouse.move(*at(0.28, 0.64))
    page.wait_for_timeout(2500)
    yield page.screenshot()


def sheet(pictures: list[Image.Image]) -> Image.Image:
    scale = min(1.0, WIDEST / pictures[0].width)
    small = [one.resize((round(one.width * scale), round(one.height * scale))) for one in pictures]
    columns = 3 if small[0].width > small[0].height else 6
    width, height = small[0].size
    rows = -(-len(small) // columns)
    page = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), (128, 128, 128))
    for i, one in enumerate(small):
        page.paste(one, (i % columns * (width + GAP), i // columns * (height + GAP)))
    return page


def main() -> int:
    found = argparse.ArgumentParser(description="Sheets of the page's states.")
    found.add_argument("out", type=Path)
    out: Path = found.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    errors: list[str] = []
    with serving() as (url, _), sync_playwright() as playwright:
        system = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox", "--disable-gpu"])
        for width, height in SIZES:
            for scheme in ("light", "dark"):
                shape = {"width": width, "height": height}
                page = browser.new_page(viewport=shape, color_scheme=scheme)  # pyright: ignore
                page.on("pageerror", lambda error: errors.append(str(error)))
                page.goto(url)
                page.wait_for_selector(".fb[data-ready=yes]", timeout=1000 * PATIENCE)
                settled(page)
                shots = [Image.open(io.BytesIO(png)).convert("RGB") for png in states(page)]
                sheet(shots).save(out / f"page-{width}x{height}-{scheme}.webp", quality=80, method=6)
                if (width, scheme) == (1440, "light"):
                    shots[2].save(out / "page.png", optimize=True)
                page.close()
        browser.close()
    for error in errors:
        print(error)
    return int(bool(errors))


if __name__ == "__main__":
    sys.exit(main())
