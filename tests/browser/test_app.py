"""``python app.py`` itself, with a tiny real model: every part of the product at once, only small."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]


def test_the_app_serves_a_model_folder_and_a_stroke_changes_its_picture(
    serve: Callable[..., Any], open_page: Callable[..., Any], model_folder: Path
) -> None:
    easel = open_page(serve("app.py", "--model", str(model_folder)).url)
    before = easel.pixels()
    tiles = easel.page.eval_on_selector_all(".fb-tile", "tiles => tiles.map(tile => tile.dataset.concept)")
    assert tiles == ["castle", "wave", "dusk"]
    easel.pick("castle")
    easel.stroke((0.3, 0.3), (0.6, 0.5))
    easel.wait()
    assert easel.layers()[0]["brush"] == {"concept": "castle"}
    assert np.abs(easel.pixels() - before).max() > 0


def test_an_unknown_model_is_told_in_one_line() -> None:
    command = [sys.executable, "app.py", "--model", "storybok"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "storybook" in done.stderr and "Traceback" not in done.stderr
