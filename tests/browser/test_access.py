"""Everybody can use it: axe-core on the page, light and dark, at a desk and on a phone, empty and painted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

axe = pytest.importorskip("axe_playwright_python.sync_playwright")

GRAVE = ("serious", "critical")


def found(page: Any) -> list[str]:
    """What axe-core finds grave: rule, help, and where."""
    violations = axe.Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes']][:5]}"
        for one in violations
        if one["impact"] in GRAVE
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_axe_finds_nothing_grave(fake: Any, open_page: Callable[..., Any], width: int, height: int, theme: str) -> None:
    easel = open_page(f"{fake.url}?__theme={theme}", width, height)
    assert found(easel.page) == []
    easel.pick("castle")
    easel.stroke((0.4, 0.5), (0.6, 0.6))
    easel.wait()
    easel.page.mouse.move(2, 2)
    easel.page.wait_for_timeout(800)  # what fades is half transparent on the way
    assert len(easel.layers()) == 1
    assert found(easel.page) == []


def test_axe_would_find_something(easel: Any) -> None:
    easel.page.evaluate("document.querySelector('.fb-easel').innerHTML += '<img src=\"data:,\"><button></button>'")
    assert any(line.startswith("button-name") for line in found(easel.page))
