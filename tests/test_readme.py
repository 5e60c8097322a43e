"""The README keeps its word: its commands are CI's, its example runs as printed, its header suits a Space."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODEL = ROOT / "assets" / "storybook" / "model_index.json"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_ci_runs_the_test_command():
    (command,) = [line for block in blocks("sh") for line in block.splitlines() if "pytest" in line]
    script = (ROOT / ".ci" / "run").read_text()
    for part in command.split("&&"):
        words = part.split()
        assert re.search(r"\s+(-q\s+)?".join(map(re.escape, words)), script), part


def test_the_first_command_names_files_that_exist():
    command = blocks("sh")[0]
    for name in re.findall(r"[\w-]+\.(?:txt|py)", command):
        assert (ROOT / name).is_file()


@pytest.mark.skipif(not MODEL.exists(), reason="needs the trained model in assets/storybook")
def test_the_example_runs_as_printed(tmp_path):
    (example,) = blocks("python")
    run = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    with Image.open(tmp_path / "castle.png") as image:
        assert image.size == (256, 256)


def test_the_header_is_a_gradio_spaces():
    header = re.match(r"---\n(.*?)\n---\n", README, re.S)
    assert header
    fields = dict(line.split(": ", 1) for line in header.group(1).splitlines())
    assert fields["sdk"] == "gradio"
    assert re.fullmatch(r"\d+\.\d+\.\d+", fields["sdk_version"])
    assert (ROOT / fields["app_file"]).is_file()
    assert len(fields["short_description"]) <= 60
    assert fields["colorFrom"] in {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def test_pictures_and_documents_that_it_names_exist():
    for name in re.findall(r"\((docs/[^)]+)\)|`(docs/[\w/.-]+\.md)`", README):
        path = ROOT / (name[0] or name[1])
        assert path.is_file(), path
