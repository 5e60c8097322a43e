"""Undo and redo: an immutable stack of paintings, outside of every tool."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from canvas.painting import Painting
from sae.errors import FeaturebrushError

LAYER_BYTES = 512


def weight(painting: Painting, beside: Painting) -> int:
    """About how many bytes ``painting`` takes beside ``beside``, with which it shares the masks that are equal."""
    own = {layer.mask.data for layer in painting.layers} - {layer.mask.data for layer in beside.layers}
    return LAYER_BYTES * (1 + len(painting.layers)) + len(painting.prompt) + sum(map(len, own))


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
    limit: int = 128 * 2**20
    """The most bytes that the past may take, by ``weight``; older steps are forgotten. The newest never is."""
    _taken: int = field(default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1:
            raise FeaturebrushError(f"a history's limit is a whole number of bytes from 1, not {self.limit!r}")
        if not isinstance(self.current, Painting):
            raise FeaturebrushError(f"a history holds paintings, not {type(self.current).__name__}")
        if not self._taken:
            steps = (*self.past, self.current)
            object.__setattr__(self, "_taken", sum(map(weight, steps, steps[1:])))

    def push(self, p: Painting) -> History:
        """``p`` becomes the current painting and what was undone is forgotten. An equal painting is no step."""
        if p == self.current:
            return self
        return self._advanced(p, ())

    def undo(self) -> History:
        """One step back; at the oldest painting, the same history."""
        if not self.past:
            return self
        last = self.past[-1]
        taken = self._taken - weight(last, self.current)
        return replace(self, current=last, past=self.past[:-1], future=(self.current, *self.future), _taken=taken)

    def redo(self) -> History:
        """One step forward again; where nothing was undone, the same history."""
        if not self.future:
            return self
        return self._advanced(self.future[0], self.future[1:])

    def _advanced(self, p: Painting, future: tuple[Painting, ...]) -> History:
        steps = (*self.past, self.current, p)
        taken = self._taken + weight(self.current, p)
        first = 0
        while taken > self.limit and first < len(self.past):
            taken -= weight(steps[first], steps[first + 1])
            first += 1
        return replace(self, current=p, past=steps[first:-1], future=future, _taken=taken)

    @property
    def can_undo(self) -> bool:
        """Whether ``undo`` leads to another painting."""
        return bool(self.past)

    @property
    def can_redo(self) -> bool:
        """Whether ``redo`` leads to another painting."""
        return bool(self.future)
