"""One model, many people: renders paintings one at a time, fairly, and only the newest of each person.

Pure Python: knows neither gradio nor torch. A single thread of its own owns the model (a thread per request would give
torch a pool of workers for each), takes waiting paintings in turn, one place in the queue per session, and a painting
that arrives while an older one of the same session is waiting takes over its place.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, NamedTuple


class Frame(NamedTuple):
    """A rendered painting."""

    image: Any
    """What the render function returned; a ``PIL.Image``."""
    ms: float
    """Milliseconds that rendering took, 0 when the picture was remembered."""


class _Job(NamedTuple):
    painting: Hashable
    answer: Future[Frame | None]


class Studio:
    """Answers each painting with its frame, or with ``None`` where a newer painting of the same session overtook it.

    Parameters: ``render`` turns a painting into an image and is only ever called from one thread; ``remember`` is how
    many pictures are kept, so that undo, redo and a hidden layer come back at once.
    """

    def __init__(self, render: Callable[[Any], Any], remember: int = 48) -> None:
        self._render = render
        self._remember = remember
        self._known: OrderedDict[Hashable, Any] = OrderedDict()
        self._waiting: OrderedDict[str, _Job] = OrderedDict()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._served: str | None = None  # the session whose picture is being made
        self._closed = False

    def submit(self, session: str, painting: Hashable) -> Future[Frame | None]:
        """Queue ``painting`` for ``session``; an older one of the same session that still waits is dropped."""
        answer: Future[Frame | None] = Future()
        with self._change:
            if self._closed:
                raise RuntimeError("the studio is closed")
            if painting in self._known:
                self._drop(self._waiting.pop(session, None))
                self._known.move_to_end(painting)
                answer.set_result(Frame(self._known[painting], 0.0))
                return answer
            self._drop(self._waiting.get(session))
            self._waiting[session] = _Job(painting, answer)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="featurebrush-studio", daemon=True)
                self._thread.start()
            self._change.notify()
        return answer

    def frame(self, session: str, painting: Hashable) -> Frame | None:
        """Render ``painting`` and wait for it; ``None`` if a newer painting of ``session`` took its place."""
        return self.submit(session, painting).result()

    def always(self, painting: Hashable) -> Frame:
        """Render ``painting`` and wait for it, in a place of its own that nothing overtakes."""
        frame = self.frame(uuid.uuid4().hex, painting)
        if frame is None:
            raise RuntimeError("the studio is closed")
        return frame

    def ahead(self, session: str) -> int:
        """How many others' pictures are made before the one that ``session`` waits for; 0 if it waits for none."""
        with self._change:
            if session not in self._waiting:
                return 0
            before = list(self._waiting).index(session)
            return before + (self._served not in (None, session))

    def close(self) -> None:
        """Drop what waits and end the thread after the picture it works on."""
        with self._change:
            self._closed = True
            for job in self._waiting.values():
                self._drop(job)
            self._waiting.clear()
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()

    @staticmethod
    def _drop(job: _Job | None) -> None:
        if job is not None:
            job.answer.set_result(None)

    def _work(self) -> None:
        while True:
            with self._change:
                self._served = None
                self._change.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._served, job = self._waiting.popitem(last=False)
                if job.painting in self._known:  # another session asked for the same one meanwhile
                    job.answer.set_result(Frame(self._known[job.painting], 0.0))
                    continue
            started = time.perf_counter()
            try:
                image = self._render(job.painting)
            except BaseException as error:  # handed to the caller, who waits in another thread
                job.answer.set_exception(error)
                continue
            frame = Frame(image, 1000 * (time.perf_counter() - started))
            with self._change:
                self._known[job.painting] = image
                while len(self._known) > self._remember:
                    self._known.popitem(last=False)
            job.answer.set_result(frame)
