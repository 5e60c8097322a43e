from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canvas import FeaturebrushError, History, Painting

commands = st.lists(st.one_of(st.integers(0, 5), st.sampled_from(["undo", "redo"])), max_size=30)


def played(steps: list[int | str], limit: int = 100) -> History:
    history = History(Painting(seed=99), limit=limit)
    for step in steps:
        if isinstance(step, int):
            history = history.push(Painting(seed=step))
        else:
            history = history.undo() if step == "undo" else history.redo()
    return history


@given(commands, st.integers(6, 50))
def test_undo_after_a_new_painting_is_the_identity(steps: list[int | str], seed: int) -> None:
    history = played(steps)
    assert history.push(Painting(seed=seed)).undo().current == history.current
    assert history.push(Painting(seed=seed)).undo().past == history.past


@given(commands)
def test_redo_after_undo_is_the_identity(steps: list[int | str]) -> None:
    history = played(steps)
    assert history.undo().redo() == history or not history.can_undo
    assert history.redo().undo() == history or not history.can_redo


@given(commands, st.integers(1, 4))
def test_history_is_bounded(steps: list[int | str], limit: int) -> None:
    history = played(steps, limit)
    assert len(history.past) <= limit
    assert history.can_undo == bool(history.past)
    assert history.can_redo == bool(history.future)


@given(commands)
def test_an_equal_painting_is_no_step(steps: list[int | str]) -> None:
    history = played(steps)
    assert history.push(history.current) is history


def test_a_new_painting_forgets_what_was_undone() -> None:
    history = played([1, 2, "undo", 3])
    assert not history.can_redo
    assert [p.seed for p in history.past] == [99, 1]


def test_both_ends_are_safe() -> None:
    history = History(Painting())
    assert history.undo() is history
    assert history.redo() is history


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(FeaturebrushError, match="limit .*0"):
        History(Painting(), limit=0)
    with pytest.raises(FeaturebrushError, match="str"):
        History("sky")  # pyright: ignore[reportArgumentType]
