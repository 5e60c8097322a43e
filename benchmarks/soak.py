"""Painting for long by script: no complaint, no growth, and Python gives the picture that the page shows.

    python benchmarks/soak.py --actions 2000 --seconds 600 --json runs/soak.json

The app runs as a process of its own, and Chromium beside it. Actions are drawn by ``--seed`` from everything a person
can do: strokes of every shape, the eraser, moves and scalings, layers, settings, undo and redo, seeds, snapshots,
comparing, inspecting, the map, the dialogs, reloads. At every tenth of the way the page's used heap (after a
collection), its DOM nodes and the server's resident memory are read. At the end the painting's JSON is rendered by a
``Painter``, and compared with the PNG that the page exports and with what is on the screen. It fails if the browser's
console complained, or the pictures differ.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from serving import PATIENCE, ROOT, serving

sys.path.insert(0, str(ROOT))

ON_SCREEN = 4.0
"""Mean difference of 255 that JPEG and scaling may make."""


class Hand:
    """Does things at random, as a person could."""

    def __init__(self, page: Page, seed: int, concepts: list[str]) -> None:
        self.page = page
        self.rng = random.Random(seed)
        self.concepts = concepts
        self.done: Counter[str] = Counter()
        self.acts: list[tuple[Callable[[], None], int]] = [
            (self.stroke, 30), (self.pick, 12), (self.shape, 8), (self.rub, 4), (self.move, 8), (self.scale, 4),
            (self.undo, 10), (self.redo, 5), (self.slider, 8), (self.layer, 10), (self.zoom, 4), (self.inspect, 4),
            (self.prompt, 2), (self.seed, 3), (self.settings, 3), (self.snapshot, 2), (self.compare, 2),
            (self.dialog, 2), (self.clear, 1), (self.reload, 1),
        ]  # fmt: skip

    def act(self) -> None:
        """One thing."""
        acts, weights = zip(*self.acts, strict=True)
        chosen = self.rng.choices(acts, weights)[0]
        chosen()
        self.done[chosen.__name__] += 1

    def key(self, name: str) -> None:
        self.page.keyboard.press(name)

    def spot(self) -> tuple[float, float]:
        box = self.page.locator(".fb-easel").bounding_box()
        assert box is not None
        return box["x"] + self.rng.random() * box["width"], box["y"] + self.rng.random() * box["height"]

    def drag(self) -> None:
        self.page.mouse.move(*self.spot())
        self.page.mouse.down()
        for _ in range(self.rng.randint(1, 3)):
            self.page.mouse.move(*self.spot(), steps=self.rng.randint(1, 12))
        if self.rng.random() < 0.1:
            self.key("Escape")
        self.page.mouse.up()

    def stroke(self) -> None:
        self.key(self.rng.choice("bbbx"))
        self.drag()

    def pick(self) -> None:
        self.page.evaluate("(name) => featurebrush.pick(name)", self.rng.choice(self.concepts))

    def shape(self) -> None:
        self.key(self.rng.choice("11112345"))

    def rub(self) -> None:
        self.key("e")
        self.drag()

    def move(self) -> None:
        self.key("v")
        self.drag()

    def scale(self) -> None:
        self.key("v")
        handles = self.page.locator(".fb-frame .fb-handle")
        box = handles.nth(self.rng.randrange(8)).bounding_box() if handles.count() else None
        if box is None:
            return
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(*self.spot(), steps=6)
        self.page.mouse.up()
        self.key(self.rng.choice(["Shift+H", "Shift+V"]))

    def undo(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            self.key("Control+z")

    def redo(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            self.key("Control+Shift+z")

    def slide(self, selector: str) -> None:
        self.page.evaluate(
            """([selector, share]) => {
                const range = document.querySelector(selector);
                if (!range || range.disabled) return;
                range.value = Number(range.min) + share * (range.max - range.min);
                for (const kind of ["input", "change"]) range.dispatchEvent(new Event(kind, { bubbles: true }));
            }""",
            [selector, self.rng.random()],
        )

    def slider(self) -> None:
        name = self.rng.choice(["size", "hardness", "opacity", "strength", "masks", "tolerance"])
        self.slide(f"[data-set={name}]")

    def layer(self) -> None:
        rows = self.page.locator(".fb-layer")
        if not rows.count():
            return
        place = self.rng.randrange(rows.count())
        self.page.evaluate("(place) => document.querySelectorAll('.fb-layer .fb-pick')[place].click()", place)
        keys = ["Alt+ArrowUp", "Alt+ArrowDown", "Control+d", "Control+m", "h", "Delete", "Delete", ""]
        if key := self.rng.choice(keys):
            self.key(key)
        else:
            self.slide(".fb-active input[type=range]")

    def zoom(self) -> None:
        self.page.mouse.move(*self.spot())
        self.page.mouse.wheel(0, self.rng.choice([-300, 300, 600]))
        if self.rng.random() < 0.5:
            self.key("0")

    def inspect(self) -> None:
        self.key("i")
        self.page.mouse.click(*self.spot())
        self.key("Escape")
        self.key("b")

    def prompt(self) -> None:
        words = self.rng.sample(["a castle", "at dusk", "by the sea", "in the snow", "a red boat", "papercut"], 2)
        self.page.fill("[data-set=prompt]", ", ".join(words))
        self.page.evaluate("document.activeElement.blur()")

    def seed(self) -> None:
        self.key("r")

    def settings(self) -> None:
        if self.rng.random() < 0.5:
            self.page.evaluate("document.querySelector('[data-set=keep]').click()")
        else:
            value = self.rng.randint(1, 4)
            self.page.evaluate(
                """(value) => {
                    const range = document.querySelector("[data-set=steps]");
                    range.value = value;
                    for (const kind of ["input", "change"]) range.dispatchEvent(new Event(kind, { bubbles: true }));
                }""",
                value,
            )

    def snapshot(self) -> None:
        self.key("s")

    def compare(self) -> None:
        self.key("c")
        self.page.wait_for_timeout(200)
        self.key("c")

    def dialog(self) -> None:
        self.key(self.rng.choice("mga?"))
        self.page.wait_for_timeout(200)
        self.key("Escape")
        self.page.wait_for_function("() => !document.querySelector('.fb dialog[open]')")

    def clear(self) -> None:
        self.page.evaluate("document.querySelector('[data-do=clear]').click()")

    def reload(self) -> None:
        self.page.wait_for_timeout(600)
        self.page.reload()
        self.page.wait_for_selector(".fb[data-ready=yes]", timeout=1000 * PATIENCE)
        self.pick()


def resident(pid: int) -> float:
    """MiB that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} is gone")


def memory(page: Page, pid: int) -> dict[str, float]:
    """MiB of the page's heap and of the server; DOM nodes."""
    client = page.context.new_cdp_session(page)
    client.send("HeapProfiler.collectGarbage")
    client.send("Performance.enable")
    metrics = {one["name"]: one["value"] for one in client.send("Performance.getMetrics")["metrics"]}
    client.detach()
    return {"heap": metrics["JSHeapUsedSize"] / 2**20, "nodes": metrics["Nodes"], "server": resident(pid)}


def colours(data_url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data_url.split(",")[1]))).convert("RGB"), np.float32)


def measure(options: argparse.Namespace, url: str, pid: int) -> dict[str, Any]:
    with sync_playwright() as playwright:
        system = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(url)
        page.wait_for_selector(".fb[data-ready=yes]", timeout=1000 * PATIENCE)
        concepts = page.eval_on_selector_all("[data-concept]", "all => all.map((one) => one.dataset.concept)")
        hand = Hand(page, options.seed, sorted(set(concepts)))
        hand.pick()
        begun, seen, parts = time.monotonic(), [], 10
        for number in range(options.actions):
            hand.act()
            if (number + 1) % max(1, options.actions // parts) == 0:
                seen.append({"action": number + 1, **memory(page, pid)})
                print(json.dumps(seen[-1]), flush=True)
            time.sleep(max(0.0, begun + options.seconds * (number + 1) / options.actions - time.monotonic()))
        took = time.monotonic() - begun
        hand.key("0")
        page.wait_for_timeout(1000)
        page.wait_for_function("() => !featurebrush.busy()", timeout=1000 * PATIENCE)
        page.wait_for_timeout(500)
        text = page.evaluate("featurebrush.json()")
        screen = page.evaluate(
            """() => {
                const small = Object.assign(document.createElement("canvas"), { width: 256, height: 256 });
                const context = small.getContext("2d");
                context.imageSmoothingQuality = "high";
                context.drawImage(document.querySelector(".fb-picture"), 0, 0, 256, 256);
                return small.toDataURL("image/png");
            }"""
        )
        with page.expect_download(timeout=1000 * PATIENCE) as download:
            page.keyboard.press("Control+e")
        exported = Path(download.value.path()).read_bytes()
        browser.close()
    return {
        "actions": options.actions,
        "seconds": took,
        "done": hand.done,
        "memory": seen,
        "complaints": complaints,
        "painting": text,
        "screen": colours(screen),
        "exported": np.asarray(Image.open(io.BytesIO(exported)), np.float32),
    }


def replayed(text: str, model: str, backend: str) -> np.ndarray:
    """What Python makes of the painting's JSON."""
    from canvas import Painter, Painting

    painter = Painter.load(model, backend=backend)
    return np.asarray(painter.render(Painting.from_json(text)), np.float32)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description="Paint for long at random, and look for faults.")
    found.add_argument("--model", default="storybook")
    found.add_argument("--backend", default="auto")
    found.add_argument("--actions", type=int, default=2000)
    found.add_argument("--seconds", type=float, default=600, help="at least so long: the actions are spread over it")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    return found


def main() -> int:
    options = parser().parse_args()
    with serving("--model", options.model, "--backend", options.backend) as (url, process):
        found = measure(options, url, process.pid)
    screen, exported = found.pop("screen"), found.pop("exported")
    again = replayed(found["painting"], options.model, options.backend)
    found["exported_difference"] = float(np.abs(exported - again).max())
    found["screen_difference"] = float(np.abs(screen - again).mean())
    print(f"{found['actions']} actions in {found['seconds']:.0f} s; complaints: {len(found['complaints'])}")
    print(f"exported PNG against Python: at most {found['exported_difference']:.0f} of 255 apart")
    print(f"screen against Python: {found['screen_difference']:.2f} of 255 on average")
    for complaint in found["complaints"]:
        print(" ", complaint)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(bool(found["complaints"]) or found["exported_difference"] > 0 or found["screen_difference"] > ON_SCREEN)


if __name__ == "__main__":
    sys.exit(main())
