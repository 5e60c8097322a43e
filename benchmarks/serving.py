"""The app as a process of its own, for the benchmarks that come to it from outside."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 180
"""Seconds."""
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """``python app.py`` with ``arguments``: its address, once it answers, and its process."""
    url, command = f"http://127.0.0.1:{(port := _free_port())}/", [sys.executable, "app.py", *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, stdout=log, stderr=log)
        try:
            for _ in range(4 * PATIENCE):
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(f"the app ended at once:\n{log.read().decode(errors='replace')}")
                try:
                    direct.open(url, timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.25)
            else:
                sys.exit(f"the app does not answer after {PATIENCE} s")
            yield url, process
        finally:
            process.terminate()
            process.wait(30)
