"""How much memory ``python -m sae train`` takes on far more vectors than fit into it.

    python benchmarks/sae_memory.py

Writes 20 million synthetic vectors of width 128 as shards (5.5 GB, into a temporary folder or ``--data DIR``, where
they are kept and not written again), trains once through them in a process of its own, with checkpoints, and says what
that process's resident memory came to at most. It must stay below 2 GiB.

Shards are read by mapping them, and pages of a mapped file count as resident although the system may take them back at
any time: the anonymous part is given as well. This process imports no torch, and the shards are written by another, as
the system's own figure for a process (``ru_maxrss``) is never below what its parent had at its start.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BLOCK = "mid.0"
GRID = 64
POSITIONS = GRID * GRID
"""Vectors of one picture."""
SHARD_BYTES = 2**27
"""As `sae.harvest.SHARD_BYTES`."""
LIMIT_MIB = 2048
PAUSE = 0.2
"""Seconds between two looks at the process."""


def write_shards(folder: Path, width: int, images: int, seed: int) -> None:
    """Write what ``folder`` lacks of the shards of ``images`` pictures, one shard in memory at a time."""
    sys.path.insert(0, str(ROOT))
    import torch
    from sae_training import sparse_vectors, true_directions

    from sae.manifest import BlockShape, Manifest
    from sae.shards import ShardWriter, seeded

    manifest = Manifest(
        model="synthetic",
        blocks={BLOCK: BlockShape(width, (GRID, GRID))},
        site="update",
        dtype="float16",
        scheduler={"class": "none", "config": ""},
        steps=1,
        levels=(0,),
        guidance=1.0,
        size=8 * GRID,
        prompts="synthetic",
        seed=seed,
        share=1.0,
        images_per_shard=max(1, SHARD_BYTES // (2 * width * POSITIONS)),
    )
    directions = true_directions(width, seed)
    place = torch.arange(POSITIONS, dtype=torch.int32)
    writer = ShardWriter(folder, manifest)
    for part in writer.missing(images):
        vectors = torch.empty(len(part) * POSITIONS, width, dtype=torch.float16)
        at = torch.zeros(len(part) * POSITIONS, 5, dtype=torch.int32)
        for i, image in enumerate(part):
            rows = slice(i * POSITIONS, (i + 1) * POSITIONS)
            vectors[rows] = sparse_vectors(directions, POSITIONS, seeded("vectors", seed, image)).half()
            at[rows, 0] = image
            at[rows, 2], at[rows, 3] = place // GRID, place % GRID
        writer.write(part, {BLOCK: vectors}, at)
        print(f"wrote {part.stop} of {images} pictures", end="\r", flush=True)
    print()


class Peak(NamedTuple):
    """The most that a process had, in MiB; 0 where the system does not say."""

    resident: float
    """As the system counted it at the end (``ru_maxrss``)."""
    high_water: float
    """As last seen while it ran (``VmHWM``)."""
    anonymous: float
    """Without the pages of files (``RssAnon``), of the moments looked at."""
    files: float
    """Pages of files (``RssFile``), of the moments looked at."""


class Run(NamedTuple):
    """A command that has ended."""

    code: int
    seconds: float
    peak: Peak


def status_mib(pid: int) -> dict[str, float]:
    """The sizes in ``/proc/PID/status``, in MiB; none where there is no such file."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(size) / 1024 for name, size, _ in words}


def watched(command: list[str], log: Path) -> Run:
    """Run ``command`` from the repository's root, its output going to ``log``, and watch its memory."""
    most = dict.fromkeys(("VmHWM", "RssAnon", "RssFile"), 0.0)
    begun = time.perf_counter()
    with log.open("w", encoding="utf-8") as sink:
        child = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT)
        ended = False
        try:
            while not ended:
                seen = status_mib(child.pid)
                most = {name: max(value, seen.get(name, 0.0)) for name, value in most.items()}
                time.sleep(PAUSE)
                pid, status, usage = os.wait4(child.pid, os.WNOHANG)
                ended = pid != 0
        finally:
            if not ended:
                child.kill()
                child.wait()
    child.returncode = os.waitstatus_to_exitcode(status)
    # Linux gives ru_maxrss in KiB, macOS in bytes.
    resident = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    peak = Peak(resident, most["VmHWM"], most["RssAnon"], most["RssFile"])
    return Run(child.returncode, time.perf_counter() - begun, peak)


def size(text: str) -> int:
    """A number as in 20000000, 20M or 500k."""
    factor = {"k": 10**3, "M": 10**6}.get(text[-1:], 1)
    number = float(text[:-1] if factor > 1 else text)
    if number * factor < 1:
        raise ValueError(text)
    return int(number * factor)


def measure(options: argparse.Namespace, data: Path, work: Path) -> int:
    """Write the shards into ``data``, train, and print what it took."""
    images = -(-options.vectors // POSITIONS)
    vectors = images * POSITIONS
    steps = options.steps or -(-vectors // options.batch)
    writing = multiprocessing.get_context("spawn").Process(
        target=write_shards, args=(data, options.width, images, options.seed)
    )
    writing.start()
    writing.join()
    if writing.exitcode:
        print("the shards could not be written", file=sys.stderr)
        return 1

    log, out = work / "train.log", work / "out"
    run = watched(
        [
            sys.executable, "-m", "sae", "train", str(data), "--block", BLOCK, "--out", str(out),
            "--features", str(options.features), "--k", str(options.k), "--batch", str(options.batch),
            "--steps", str(steps), "--checkpoint-every", str(options.checkpoint_every), "--device", "cpu",
        ],
        log,
    )  # fmt: skip
    if run.code:
        print(log.read_text(encoding="utf-8", errors="replace")[-2000:], file=sys.stderr)
        print(f"training ended with {run.code}", file=sys.stderr)
        return 1
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    reports = [json.loads(line) for line in lines]
    trained = reports[-1]["vectors"]
    peak = run.peak
    most = max(peak.resident, peak.high_water)
    print(f"{vectors:,} vectors of width {options.width} on disk; F {options.features}, k {options.k}")
    print(f"{steps} steps of {options.batch}: {trained:,} vectors, {trained / vectors:.2f} times through")
    print(
        f"{trained / run.seconds:,.0f} vectors/s over the whole command, checkpoints included; "
        f"{statistics.median(report['vectors_per_second'] for report in reports):,.0f} between two reports"
    )
    print(f"ru_maxrss {peak.resident:,.0f} MiB, VmHWM {peak.high_water:,.0f} MiB")
    print(f"of it anonymous at most {peak.anonymous:,.0f} MiB, pages of files at most {peak.files:,.0f} MiB")
    print(f"{'YES' if most < LIMIT_MIB else 'NO'}: the peak of {most:,.0f} MiB against the limit of {LIMIT_MIB} MiB")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Peak memory of `python -m sae train` on large data.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where to keep the shards; else they are removed")
    parser.add_argument("--vectors", type=size, default=size("20M"), help="rounded up to whole pictures of 4096")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, help="by default once through all vectors")
    parser.add_argument("--checkpoint-every", type=int, default=500, metavar="STEPS")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with TemporaryDirectory() as work:
        # The command runs from another folder.
        data = (options.data or Path(work) / "shards").resolve()
        return measure(options, data, Path(work))


if __name__ == "__main__":
    sys.exit(main())
