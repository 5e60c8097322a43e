"""Undo and redo: an immutable stack of paintings, outside of every tool."""

from __future__ import annotations

from dataclasses import dataclass, replace

from canvas.painting import Painting
from sae.errors import FeaturebrushError


@dataclass(frozen=True, slots=True)
class History:
    """Paintings before, at and after the present one; a stroke is one step.

    Every method returns a new history, so a mark to come back to is simply a history that was kept.
    """

    current: Painting
    past: tuple[Painting, ...] = ()
    """Older paintings, the oldest first."""
    future: tuple[Painting, ...] = ()
    """Paintings that were undone, the next one to redo first."""
    limit: int = 100
    """The most steps that can be undone; older ones are forgotten."""

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1:
            raise FeaturebrushError(f"a history's limit is a whole number from 1, not {self.limit!r}")
        if not isinstance(self.current, Painting):
            raise FeaturebrushError(f"a history holds paintings, not {type(self.current).__name__}")

    def push(self, p: Painting) -> History:
        """``p`` becomes the current painting and what was undone is forgotten. An equal painting is no step."""
        if p == self.current:
            return self
        return replace(self, current=p, past=(*self.past, self.current)[-self.limit :], future=())

    def undo(self) -> History:
        """One step back; at the oldest painting, the same history."""
        if not self.past:
            return self
        return replace(self, current=self.past[-1], past=self.past[:-1], future=(self.current, *self.future))

    def redo(self) -> History:
        """One step forward again; where nothing was undone, the same history."""
        if not self.future:
            return self
        return replace(self, current=self.future[0], past=(*self.past, self.current), future=self.future[1:])

    @property
    def can_undo(self) -> bool:
        """Whether ``undo`` leads to another painting."""
        return bool(self.past)

    @property
    def can_redo(self) -> bool:
        """Whether ``redo`` leads to another painting."""
        return bool(self.future)
