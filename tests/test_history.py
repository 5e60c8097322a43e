from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canvas import FeaturebrushError, History, Mask, Painting
from canvas.history import weight

commands = st.lists(st.one_of(st.integers(0, 5), st.sampled_from(["undo", "redo"])), max_size=30)


def played(steps: list[int | str], limit: int = 2**20) -> History:
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


@given(commands, st.integers(1, 4000))
def test_history_is_bounded_by_bytes_and_the_newest_step_stays(steps: list[int | str], limit: int) -> None:
    history, unbounded = played(steps, limit), played(steps)
    kept = (*history.past, history.current)
    assert sum(map(weight, kept, kept[1:])) <= limit or len(history.past) == 1
    assert unbounded.past[len(unbounded.past) - len(history.past) :] == history.past or "undo" in steps
    assert history.can_undo == bool(history.past)
    assert history.can_redo == bool(history.future)


def test_masks_that_did_not_change_take_nothing() -> None:
    one = Painting().paint("castle", Mask.disc(0.5, 0.5, 0.2))
    two = one.paint("moon", Mask.disc(0.2, 0.2, 0.1))
    assert weight(one, two) < weight(two, one) and weight(one, two) < 2000
    assert weight(one, one.with_layer(0, mask=Mask.full())) > 128 * 128
    assert played([1, 2], limit=1).can_undo, "one step can always be undone"


def test_hundreds_of_strokes_can_be_undone() -> None:
    history = History(Painting())
    for i in range(400):
        history = history.push(Painting().paint("castle", Mask.disc(i / 400, 0.5, 0.1)))
    assert len(history.past) == 400


@given(commands)
def test_a_history_made_of_its_parts_is_the_same(steps: list[int | str]) -> None:
    history = played(steps, 3000)
    parts = History(history.current, history.past, history.future, history.limit)
    assert parts == history and parts.push(Painting(seed=7)) == history.push(Painting(seed=7))


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
