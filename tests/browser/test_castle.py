"""The whole product: the app with its own model, a castle painted with the mouse, and where the picture changed.

With ``FEATUREBRUSH_SCREENSHOTS`` set to a folder, the README's picture of the page is written there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

MODEL = ROOT / "assets" / "storybook"


@pytest.mark.skipif(not (MODEL / "model_index.json").exists(), reason="needs the trained model in assets/storybook")
@pytest.mark.parametrize("concept", ["castle"])
def test_a_painted_castle_appears_where_it_was_painted(
    serve: Callable[..., Any], open_page: Callable[..., Any], concept: str
) -> None:
    easel = open_page(serve("app.py").url, 1440, 900)
    before = easel.pixels()
    asked = easel.page.evaluate("featurebrush.frames().asked")
    if not easel.page.is_visible(f'[data-concept="{concept}"]'):
        easel.page.click(".fb-fold")  # among the weak ones
    easel.pick(concept)
    easel.stroke((0.42, 0.62), (0.58, 0.62), (0.56, 0.5), (0.44, 0.5))
    easel.wait()
    assert easel.page.evaluate("featurebrush.frames().shown") > asked
    if folder := os.environ.get("FEATUREBRUSH_SCREENSHOTS"):
        easel.page.mouse.move(0, 0)
        easel.page.wait_for_timeout(1500)
        easel.page.screenshot(path=Path(folder) / "page.png")
    (layer,) = easel.layers()
    assert layer["brush"] == {"concept": concept}
    inside = np.kron(layer["mask"] > 127, np.ones((2, 2), bool))
    change = np.abs(easel.pixels() - before).mean(-1)
    assert change[inside].mean() >= 5 * change[~inside].mean()
    assert change[inside].mean() > 5, "something is there"
