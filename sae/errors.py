"""The one error class that means: show this to the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FeaturebrushError(ValueError):
    """Something the caller gave cannot be used. The message names what was received and what would be accepted."""


def unknown(kind: str, received: object, known: Iterable[str]) -> FeaturebrushError:
    """An error for a name that is not among the known ones, with the nearest of them.

    Parameters: ``kind`` is the noun ("concept", "block", ...), ``known`` every name that would be accepted.
    """
    names = list(known)
    near = difflib.get_close_matches(str(received), names, n=3, cutoff=0.5)
    shown = near or names[:8]
    lead = "did you mean" if near else "known are"
    more = "" if near or len(names) <= 8 else f" and {len(names) - 8} more"
    return FeaturebrushError(f"unknown {kind} {received!r}: {lead} {', '.join(map(repr, shown))}{more}")
