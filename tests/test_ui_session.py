"""The studio: one painting at a time, the newest of each session, nobody blocked by somebody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from canvas.ui.session import Frame, Studio
from sae.errors import FeaturebrushError


class Slow:
    """A render function that waits until it is let go, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.started = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)

    def __call__(self, painting: str) -> str:
        self.asked.append(painting)
        self.threads.add(threading.get_ident())
        self.started.release()
        assert self.let_go.acquire(timeout=30)
        if painting.startswith("bad"):
            raise FeaturebrushError(f"cannot paint {painting}")
        return painting.upper()


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def studio(slow: Slow) -> Iterator[Studio]:
    studio = Studio(slow)
    yield studio
    for _ in range(100):
        slow.let_go.release()
    studio.close()


def image(answer: Future[Frame | None]) -> str | None:
    frame = answer.result(timeout=30)
    return None if frame is None else frame.image


def test_a_painting_becomes_its_picture(studio: Studio, slow: Slow) -> None:
    slow.let_go.release()
    frame = studio.frame("a", "moon")
    assert frame is not None and frame.image == "MOON" and frame.ms > 0


def test_the_newest_of_a_session_wins_and_the_last_is_never_dropped(studio: Studio, slow: Slow) -> None:
    first = studio.submit("a", "1")
    assert slow.started.acquire(timeout=30)
    waiting = [studio.submit("a", str(n)) for n in range(2, 7)]
    for _ in range(2):
        slow.let_go.release()
    assert image(first) == "1"
    assert [image(answer) for answer in waiting] == [None, None, None, None, "6"]
    assert slow.asked == ["1", "6"]


def test_a_busy_session_does_not_push_others_back(studio: Studio, slow: Slow) -> None:
    answers = [studio.submit("busy", "b0")]
    assert slow.started.acquire(timeout=30)
    answers.append(studio.submit("busy", "b1"))
    answers.append(studio.submit("other", "o"))
    answers += [studio.submit("busy", f"b{n}") for n in range(2, 5)]
    for _ in range(3):
        slow.let_go.release()
    assert [image(answer) for answer in answers] == ["B0", None, "O", None, None, "B4"]
    assert slow.asked == ["b0", "b4", "o"], "an overtaken painting's place stays the session's"


def test_one_thread_owns_the_model(studio: Studio, slow: Slow) -> None:
    for _ in range(8):
        slow.let_go.release()
    threads = [threading.Thread(target=studio.frame, args=(f"s{n}", f"p{n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(slow.threads) == 1 and sorted(slow.asked) == [f"p{n}" for n in range(8)]


def test_an_error_reaches_the_one_who_asked_and_nobody_else(studio: Studio, slow: Slow) -> None:
    bad, good = studio.submit("a", "bad"), studio.submit("b", "good")
    for _ in range(2):
        slow.let_go.release()
    with pytest.raises(FeaturebrushError, match="cannot paint bad"):
        bad.result(timeout=30)
    assert image(good) == "GOOD"


def test_a_picture_is_remembered_for_undo(studio: Studio, slow: Slow) -> None:
    for _ in range(2):
        slow.let_go.release()
    studio.frame("a", "1")
    studio.frame("a", "2")
    assert studio.frame("a", "1") == Frame("1", 0.0)
    assert slow.asked == ["1", "2"]


def test_a_remembered_picture_still_drops_the_older_painting(studio: Studio, slow: Slow) -> None:
    slow.let_go.release()
    studio.frame("a", "known")
    slow.started.acquire()
    other = studio.submit("b", "long")
    assert slow.started.acquire(timeout=30)
    older = studio.submit("a", "older")
    assert image(studio.submit("a", "known")) == "KNOWN" and image(older) is None
    slow.let_go.release()
    assert image(other) == "LONG"


def test_no_more_pictures_than_asked_for_are_remembered() -> None:
    asked: list[int] = []
    studio = Studio(lambda painting: asked.append(painting) or painting, remember=2)
    for painting in (1, 2, 3, 1):
        studio.frame("a", painting)
    assert asked == [1, 2, 3, 1]
    studio.close()


def test_always_is_overtaken_by_nothing(studio: Studio, slow: Slow) -> None:
    results: list[Frame] = []
    threads = [threading.Thread(target=lambda n=n: results.append(studio.always(f"p{n}"))) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        slow.let_go.release()
    for thread in threads:
        thread.join(30)
    assert sorted(frame.image for frame in results) == ["P0", "P1", "P2", "P3"]


def test_it_says_how_many_others_are_ahead(studio: Studio, slow: Slow) -> None:
    assert studio.ahead("a") == 0
    answers = [studio.submit("a", "1")]
    assert slow.started.acquire(timeout=30)
    answers += [studio.submit(session, session) for session in "bc"]
    answers.append(studio.submit("a", "2"))
    assert [studio.ahead(session) for session in "abcz"] == [2, 1, 2, 0], "its own picture is nobody else's"
    slow.let_go.release()
    assert slow.started.acquire(timeout=30)
    assert [studio.ahead(session) for session in "abc"] == [2, 0, 1]
    for _ in range(3):
        slow.let_go.release()
    assert [image(answer) for answer in answers] == ["1", "B", "C", "2"]
    assert studio.ahead("c") == 0


def test_closing_lets_everybody_go(slow: Slow) -> None:
    studio = Studio(slow)
    running = studio.submit("a", "1")
    assert slow.started.acquire(timeout=30)
    waiting = studio.submit("b", "2")
    closer = threading.Thread(target=studio.close)
    closer.start()
    assert image(waiting) is None
    slow.let_go.release()
    closer.join(30)
    assert image(running) == "1"
    with pytest.raises(RuntimeError, match="closed"):
        studio.submit("a", "3")
