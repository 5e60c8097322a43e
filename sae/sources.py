"""Where pictures with a known content come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypeAlias, cast

from torch import Tensor

from sae.errors import FeaturebrushError, unknown

SOURCES = {"world": "canvas.storybook.scenes"}
"""Modules that are `Scenes`, by the names that users give. They are imported by name, when asked for, and by nothing
else in this package: docs/decisions.md says why."""


@dataclass(frozen=True)
class SceneBatch:
    """Some pictures and the truth about them."""

    images: Tensor
    """``[n, 3, h, w]`` float32, −1..1."""
    captions: list[str]
    """One for each; empty for a part of them, so that a model is also seen without words."""
    masks: Tensor
    """``[n, C, h, w]`` bool: which pixels show which concept."""


class Scenes(Protocol):
    """Numbered pictures: number i is the same whenever it is asked for, alone or among others."""

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names of the C concepts that the masks are of."""
        ...

    def batches(self, first: int, count: int, batch: int) -> Iterator[SceneBatch]:
        """The ``count`` pictures from number ``first`` on, ``batch`` at a time; the last batch may be smaller."""
        ...


Source: TypeAlias = Sequence[str] | Scenes
"""Prompts, taken in turn, or scenes."""


def open_scenes(name: str) -> Scenes:
    """The source of scenes called ``name``: one of `SOURCES`.

    Raises `FeaturebrushError` for another name, or if what the source needs is not installed.
    """
    if name not in SOURCES:
        raise unknown("source of scenes", name, SOURCES)
    try:
        return cast(Scenes, import_module(SOURCES[name]))
    except ImportError as error:
        raise FeaturebrushError(
            f"the scenes {name!r} cannot be drawn here ({error}): pip install -r requirements-dev.txt"
        ) from error


def open_source(name: str) -> tuple[Source, str]:
    """Scenes by their name, or the prompts in a file, one on each line; and what to call them in a record.

    Raises `FeaturebrushError` for what is neither.
    """
    if name in SOURCES:
        return open_scenes(name), name
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        scenes = " or ".join(map(repr, SOURCES))
        raise FeaturebrushError(
            f"{name!r} cannot be read ({error}): give a text file with a prompt on each line, or {scenes}"
        ) from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise FeaturebrushError(f"{name!r} has no prompts: write one on each line")
    return prompts, f"{path.name} sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
