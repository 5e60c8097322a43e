"""Painting with the features of a diffusion model: values to describe a picture, and a Painter that makes it.

Importing this package loads no torch; ``Painter`` is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from canvas.files import load, save
from canvas.history import History
from canvas.masks import Mask
from canvas.painting import Brush, Layer, Painting
from sae.errors import FeaturebrushError

if TYPE_CHECKING:
    from canvas.painter import Painter

__all__ = ["Brush", "FeaturebrushError", "History", "Layer", "Mask", "Painter", "Painting", "load", "save"]


def __getattr__(name: str) -> Any:
    if name == "Painter":
        from canvas.painter import Painter

        return Painter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
