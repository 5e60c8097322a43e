"""Waiting for others, undo and redo, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from canvas import Mask, Painting


def show(easel: Any, painting: Painting) -> None:
    """Opens ``painting``, without waiting for its picture."""
    easel.page.evaluate("(text) => featurebrush.load(text)", painting.to_json())


def test_who_waits_behind_others_is_told_how_many(fake: Any, open_page: Callable[..., Any]) -> None:
    first, second, third = (open_page(fake.url) for _ in range(3))
    before = third.pixels()
    for seed, easel in enumerate((first, second)):
        show(easel, Painting(seed=seed, prompt="slow"))
    show(third, Painting(seed=9).paint("castle", Mask.disc(0.5, 0.5, 0.3)))
    third.page.wait_for_selector(".fb-status[data-state=waiting]")
    assert "Waiting behind" in third.page.text_content(".fb-status")
    third.pick("moon")
    third.stroke((0.2, 0.2), (0.4, 0.2))
    assert len(third.layers()) == 2, "it can be painted on meanwhile"
    third.page.wait_for_selector(".fb-status[data-state=ready]")
    third.wait()
    assert np.abs(third.pixels() - before).mean() > 2
    assert "Waiting" not in third.page.text_content(".fb-status")


def test_more_than_two_hundred_steps_are_undone_one_by_one(easel: Any) -> None:
    seeds = easel.page.evaluate(
        """async () => {
            const field = document.querySelector("[data-set=seed]");
            for (let seed = 1000; seed < 1300; seed++) {
                field.value = seed;
                field.dispatchEvent(new Event("change"));
            }
            const seen = [];
            const undo = document.querySelector("[data-do=undo]");
            for (; !undo.disabled; undo.click()) seen.push(featurebrush.painting().seed);
            return seen;
        }"""
    )
    assert seeds == [str(seed) for seed in range(1299, 999, -1)]
    easel.wait()
