"""Many people painting at once with one app: does everybody get pictures, and does memory stand still?

    python benchmarks/sessions.py --sessions 1 4 16 --seconds 60 --json runs/sessions.json

The app runs as a process of its own, as ``python app.py`` starts it. Each session has a picture of its own (another
seed), paints over the network as the page does, one request at a time with another mask in each, and asks for the next
frame when it has one. Printed for each number of sessions: frames a second in all, frames of the session with fewest
and the mean (starved is who gets less than half of that), errors, and the app's resident memory after a third of the
time and at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import threading
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serving import direct, serving

from canvas import Mask, Painting


def post(url: str, body: dict[str, Any]) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with direct.open(request, timeout=600) as answer:
        return json.load(answer)


def page_component(url: str) -> int:
    """The number of the component whose functions the page calls."""
    with direct.open(f"{url}config", timeout=60) as answer:
        config = json.load(answer)
    return next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "featurebrush")


@dataclass
class Session:
    """Somebody who paints."""

    url: str
    component: int
    base: Painting
    concept: str
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    waits: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def frame(self, number: int) -> None:
        place = 0.5 + 0.25 * math.cos(0.37 * number), 0.5 + 0.25 * math.sin(0.37 * number)
        painting = self.base.paint(self.concept, Mask.disc(*place, 0.12 + 0.0005 * (number % 200)))
        data = {"session": self.name, "number": number, "painting": painting.to_json()}
        body = {"session_hash": self.name, "component_id": self.component, "fn_name": "frame", "data": data}
        begun = time.perf_counter()
        try:
            answer = post(f"{self.url}gradio_api/component_server", body)
        except OSError as error:
            self.errors.append(str(error))
            return
        if "image" in answer:
            self.waits.append(time.perf_counter() - begun)
        else:
            self.errors.append(answer.get("error", "no picture"))

    def paint_until(self, end: float) -> None:
        number = 0
        while time.perf_counter() < end:
            self.frame(number)
            number += 1


def resident(pid: int) -> float:
    """MiB of memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return math.nan


def measure(url: str, pid: int, sessions: int, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    component = page_component(url)
    people = [
        Session(url, component, Painting(model=options.model, seed=seed), options.concept) for seed in range(sessions)
    ]
    for person in people:
        person.frame(-1)
        person.waits.clear()
    begun = time.perf_counter()
    threads = [threading.Thread(target=person.paint_until, args=(begun + seconds,)) for person in people]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 3)
    early = resident(pid)
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    frames = [len(person.waits) for person in people]
    waits = [wait for person in people for wait in person.waits]
    return {
        "sessions": sessions, "fps": sum(frames) / took, "fewest": min(frames), "mean": statistics.mean(frames),
        "wait_p50_ms": 1000 * statistics.median(waits), "errors": [e for person in people for e in person.errors],
        "memory_early_mib": early, "memory_late_mib": resident(pid),
    }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description="Many people painting at once.")
    found.add_argument("--model", default="storybook")
    found.add_argument("--backend", default="auto")
    found.add_argument("--concept", default="tree")
    found.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 16])
    found.add_argument("--seconds", type=float, default=60)
    found.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    return found


def main() -> int:
    options = parser().parse_args()
    rows = []
    with serving("--model", options.model, "--backend", options.backend) as (url, process):
        print(f"{'sessions':>8} {'fps':>6} {'fewest':>7} {'mean':>7} {'p50 ms':>7} {'errors':>7} {'MiB':>6} at end")
        for sessions in options.sessions:
            f = measure(url, process.pid, sessions, options.seconds, options)
            rows.append(f)
            print(
                f"{sessions:>8} {f['fps']:>6.1f} {f['fewest']:>7} {f['mean']:>7.1f} {f['wait_p50_ms']:>7.0f} "
                f"{len(f['errors']):>7} {f['memory_early_mib']:>6.0f} {f['memory_late_mib']:>7.0f}", flush=True,
            )  # fmt: skip
            for error in dict.fromkeys(f["errors"]):
                print(f"         {error}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
