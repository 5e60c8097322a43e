"""Paint to pixels, as a person feels it: the page in Chromium, a pointer that paints, and the wait for the picture.

    python benchmarks/browser.py --seconds 10 --json runs/browser.json

The app runs as a process of its own, as ``python app.py`` starts it, and the browser on the same cores. The pointer is
held down and moved along an eight over the canvas, ``--rate`` times a second, and lifted after each round. Printed:

- *event to picture*: from each pointer event under the brush to the first picture on the screen that knows of it. An
  event waits for the frame before it, so this is up to twice what a frame takes.
- *frame*: from when a painting leaves the page to when its picture is on the screen.
- frames per second, between the first and the last picture.
- *opening*: from asking for the address, the server being up, to the first picture on the screen, in an empty profile.

With ``--trace FILE`` the page is also filmed by Chromium's own tracing, for chrome://tracing.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright
from serving import PATIENCE, serving

ROUND = 2.5
"""Seconds that a stroke takes."""

WATCH = """() => {
    const seen = (window.__seen = { events: [], sent: {}, shown: {} });
    addEventListener("pointermove", (event) => { if (event.buttons) seen.events.push(event.timeStamp); }, true);
    new PerformanceObserver((list) => {
        for (const { name, startTime, detail } of list.getEntries()) {
            const [, what] = name.split(":");
            if (seen[what]) seen[what][detail] = startTime;
        }
    }).observe({ type: "mark" });
}"""


def paint(page: Page, seconds: float, rate: float) -> None:
    """Move the pointer along an eight, pressed, and lift it after each round; beside the clock, not after it."""
    box = page.locator(".fb-easel").bounding_box()
    assert box is not None
    begun, pressed = time.monotonic(), -1
    for tick in range(int(seconds * rate)):
        t = tick / rate
        angle = math.tau * t / ROUND
        x = box["x"] + box["width"] * (0.5 + 0.3 * math.sin(angle))
        y = box["y"] + box["height"] * (0.55 + 0.25 * math.sin(2 * angle))
        if int(t / ROUND) != pressed:
            if pressed >= 0:
                page.mouse.up()
                page.keyboard.press("Control+z")
            pressed = int(t / ROUND)
            page.mouse.move(x, y)
            page.mouse.down()
        page.mouse.move(x, y)
        time.sleep(max(0.0, begun + (tick + 1) / rate - time.monotonic()))
    page.mouse.up()
    page.wait_for_function("() => !featurebrush.busy()", timeout=1000 * PATIENCE)


def waits(seen: dict[str, Any]) -> dict[str, list[float]]:
    """Milliseconds of every event and of every frame, and the times of the pictures."""
    sent = {int(number): at for number, at in seen["sent"].items()}
    shown = {int(number): at for number, at in seen["shown"].items()}
    frames = sorted((sent[number], at) for number, at in shown.items() if number in sent)
    events = []
    for event in seen["events"]:
        later = [at for began, at in frames if began >= event]
        if later:
            events.append(min(later) - event)
    return {"events": events, "frames": [at - began for began, at in frames], "pictures": [at for _, at in frames]}


def summary(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50": statistics.median(ordered), "p95": ordered[math.ceil(0.95 * len(ordered)) - 1], "n": len(ordered)}


def measure(options: argparse.Namespace, url: str) -> dict[str, Any]:
    with sync_playwright() as playwright:
        system = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        asked = time.monotonic()
        page.goto(url)
        page.wait_for_selector(".fb[data-ready=yes]", timeout=1000 * PATIENCE)
        opening = time.monotonic() - asked
        page.click(f'[data-concept="{options.concept}"]')
        paint(page, 2, options.rate)
        page.evaluate(WATCH)
        if options.trace:
            browser.start_tracing(page=page, path=options.trace)
        paint(page, options.seconds, options.rate)
        if options.trace:
            browser.stop_tracing()
        seen = page.evaluate("window.__seen")
        browser.close()
    if errors:
        sys.exit(f"the page has an error: {errors[0]}")
    found = waits(seen)
    pictures = sorted(found["pictures"])
    fps = (len(pictures) - 1) / (pictures[-1] - pictures[0]) * 1000
    return {
        "event to picture": summary(found["events"]),
        "frame": summary(found["frames"]),
        "fps": fps,
        "opening": opening,
    }


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description="From the pointer to the picture, in Chromium.")
    found.add_argument("--model", default="storybook")
    found.add_argument("--backend", default="auto")
    found.add_argument("--concept", default="tree")
    found.add_argument("--seconds", type=float, default=10)
    found.add_argument("--rate", type=float, default=60, help="pointer events a second")
    found.add_argument("--trace", metavar="FILE")
    found.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    return found


def main() -> int:
    options = parser().parse_args()
    with serving("--model", options.model, "--backend", options.backend) as (url, _):
        found = measure(options, url)
    for name in ("event to picture", "frame"):
        f = found[name]
        print(f"{name:<18} p50 {f['p50']:6.1f} ms   p95 {f['p95']:6.1f} ms   ({f['n']:.0f})")
    print(f"{'frames per second':<18} {found['fps']:.1f}")
    print(f"{'opening':<18} {found['opening']:.2f} s")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
