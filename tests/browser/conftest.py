"""Fixtures for tests in a real browser: the page served by a process of its own, and Chromium by Playwright."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120
"""Seconds after which something that should happen has failed; no test asserts a time."""


@dataclass
class Server:
    """A process that serves the page."""

    command: list[str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> Server:
        """Start it and wait until it answers."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "0"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(4 * PATIENCE):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended at once:\n{self.log.read_text()}")
            try:
                opener.open(self.url, timeout=2).close()
                return self
            except OSError:
                time.sleep(0.25)
        raise RuntimeError(f"the server does not answer:\n{self.log.read_text()}")

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start a server: ``serve("app.py", "--model", ...)``; ``--port`` is appended."""
    servers: list[Server] = []

    def start(*command: str) -> Server:
        port = free_port()
        log = tmp_path_factory.mktemp("server") / "log.txt"
        servers.append(Server([sys.executable, *command, "--port", str(port)], port, log).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def fake(serve: Callable[..., Server]) -> Server:
    """The page with a stand-in for the model."""
    return serve("-m", "tests.browser.fake")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, the system's if there is one."""
    playwright_api = pytest.importorskip("playwright.sync_api")
    with playwright_api.sync_playwright() as playwright:
        system = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        try:
            chromium = playwright.chromium.launch(executable_path=system, args=ARGUMENTS)
        except playwright_api.Error as error:
            if os.environ.get("FEATUREBRUSH_NEEDS_BROWSER"):
                raise
            pytest.skip(f"no browser: {error}")
        yield chromium
        chromium.close()


@dataclass
class Easel:
    """The opened page, as a user would handle it."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    """What the browser's console complained about, and requests to other machines."""

    def wait(self) -> None:
        """Until the picture has followed the painting and stands still."""
        self.page.wait_for_function("() => !featurebrush.busy()", timeout=1000 * PATIENCE)
        self.page.wait_for_timeout(250)

    def pick(self, concept: str) -> None:
        """Take a concept from the palette."""
        self.page.click(f'[data-concept="{concept}"]')

    def spot(self, x: float, y: float) -> tuple[float, float]:
        """A place in the picture, as a place on the page."""
        box = self.page.locator(".fb-easel").bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def stroke(self, *points: tuple[float, float]) -> None:
        """Paint along ``points`` with the mouse."""
        self.page.mouse.move(*self.spot(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.spot(*point), steps=8)
        self.page.mouse.up()

    def painting(self) -> dict[str, Any]:
        """The painting's JSON, with each mask as an array."""
        painting = json.loads(self.page.evaluate("featurebrush.json()"))
        for layer in painting["layers"]:
            raw = zlib.decompress(b64decode(layer["mask"]["deflate"]))
            layer["mask"] = np.frombuffer(raw, np.uint8).reshape(layer["mask"]["size"])
        return painting

    def layers(self) -> list[dict[str, Any]]:
        """The painting's layers."""
        return self.painting()["layers"]

    def pixels(self) -> np.ndarray:
        """The picture on the screen, scaled to the model's own size: [256, 256, 3] of 0..255."""
        width, height, data = self.page.evaluate(
            """() => {
                const small = Object.assign(document.createElement("canvas"), { width: 256, height: 256 });
                const context = small.getContext("2d");
                context.imageSmoothingQuality = "high";
                context.drawImage(document.querySelector(".fb-picture"), 0, 0, 256, 256);
                return [256, 256, [...context.getImageData(0, 0, 256, 256).data]];
            }"""
        )
        return np.array(data, np.float32).reshape(height, width, 4)[..., :3]

    def set_range(self, selector: str, value: float) -> None:
        """Move a slider as a user does: input on the way, change at the end."""
        self.page.eval_on_selector(
            selector,
            """(range, value) => {
                range.value = value;
                range.dispatchEvent(new Event("input", { bubbles: true }));
                range.dispatchEvent(new Event("change", { bubbles: true }));
            }""",
            value,
        )


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Easel]]:
    """Open a server's page in a new browser profile; complaints of the console fail the test at its end."""
    contexts, easels = [], []

    def open_(url: str, width: int = 1280, height: int = 800, quiet: bool = True, **options: Any) -> Easel:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        easel = Easel(context.new_page())

        def on_console(message: Any) -> None:
            if message.type == "error":
                easel.complaints.append(message.text)

        def on_request(request: Any) -> None:
            if not request.url.startswith((re.split("[?#]", url)[0], "data:", "blob:")):
                easel.complaints.append(f"request to {request.url}")

        if quiet:
            easels.append(easel)
        easel.page.on("console", on_console)
        easel.page.on("pageerror", lambda error: easel.complaints.append(str(error)))
        easel.page.on("request", on_request)
        easel.page.goto(url)
        easel.page.wait_for_selector(".fb[data-ready=yes]")
        easel.wait()
        return easel

    yield open_
    for context in contexts:
        context.close()
    assert [easel.complaints for easel in easels if easel.complaints] == []


@pytest.fixture
def easel(fake: Server, open_page: Callable[..., Easel]) -> Easel:
    """The page with the stand-in, opened on a desk."""
    return open_page(fake.url)
