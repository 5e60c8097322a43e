"""Training on two processes is training on one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sae import load

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys
import torch
from sae.config import TrainConfig
from sae.processes import Accelerated
from sae.train import train
torch.set_num_threads(1)
folder, architecture, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
g = torch.Generator().manual_seed(0)
directions = torch.nn.functional.normalize(torch.randn(48, 24, generator=g), dim=1)
x = ((torch.rand(6000, 48, generator=g) < 0.06) * torch.rand(6000, 48, generator=g)) @ directions * 5 + 1
cfg = TrainConfig(64, 3, architecture, steps=60, batch=250, lr=3e-3, dead_after=3000, report_every=1)

def slowly(p):
    import time
    time.sleep(pause)

processes = Accelerated()
checkpoint = __import__("pathlib").Path(folder) / "checkpoint.pt" if pause else None
sae = train(x, cfg, slowly, checkpoint=checkpoint, checkpoint_every=5, processes=processes)
if processes.rank == 0:
    sae.save(folder)
"""


def command(processes: int, *arguments: str) -> list[str]:
    if processes == 1:
        return [sys.executable, *arguments]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes), "--num_machines", "1"]
    return [sys.executable, *launch, "--mixed_precision", "no", "--dynamo_backend", "no", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka", "jumprelu"])
def test_two_processes_train_the_weights_of_one(architecture: str, program: str, tmp_path: Path) -> None:
    found = {}
    for n in (1, 2):
        folder = tmp_path / str(n)
        subprocess.run(
            command(n, program, str(folder), architecture, "0"), env=environment(), check=True, timeout=300,
            capture_output=True,
        )  # fmt: skip
        found[n] = load(folder).tensors()
    for name, value in found[1].items():
        torch.testing.assert_close(found[2][name], value, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(program: str, tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    subprocess.run(command(1, program, str(unbroken), "batchtopk", "0"), env=environment(), check=True, timeout=300)
    broken.mkdir()
    running = subprocess.Popen(command(1, program, str(broken), "batchtopk", "0.1"), env=environment())
    deadline = time.monotonic() + 120
    while not (broken / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (broken / "cfg.json").exists(), "it was killed before it ended"
    subprocess.run(command(1, program, str(broken), "batchtopk", "0.001"), env=environment(), check=True, timeout=300)
    expected = load(unbroken).tensors()
    for name, value in load(broken).tensors().items():
        assert torch.equal(value, expected[name]), name
