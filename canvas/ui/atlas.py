"""What goes to the browser about features: their columns as packed numbers, icons as the atlas' own sheet.

A model may have tens of thousands of features: no entry of its own for any of them, and what all have in one array.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from canvas.concepts import Feature
from canvas.feature_map import FeatureMap
from canvas.inspection import SeenFeature


class AtlasLike(Protocol):
    """What is needed of a ``canvas.painter.Painter``."""

    @property
    def blocks(self) -> tuple[str, ...]: ...

    def features(self, block: str) -> tuple[Feature, ...]: ...

    def feature_map(self, block: str) -> FeatureMap: ...


def atlas(painter: AtlasLike) -> dict[str, Any]:
    """``{blocks}``, each with its labels and, for all of its features in order, as base64 of little-endian numbers:

    ``label`` (uint16, the label's place in ``labels``), ``score`` (uint8, 255 is 1), ``xy`` (uint16 pairs, 65535 is 1)
    and ``icon`` (int32, the icon's number in the block's sheet, or −1).
    """
    return {"blocks": [_block(name, painter.features(name), painter.feature_map(name)) for name in painter.blocks]}


def icons(painter: AtlasLike, block: str) -> dict[str, str]:
    """``{icons}``: the sheet of a block as a ``data:`` URL, or "" if it has none."""
    sheet = painter.feature_map(block).sheet
    if sheet is None:
        return {"icons": ""}
    kind = sheet.suffix.removeprefix(".")
    return {"icons": f"data:image/{kind};base64,{_packed(sheet.read_bytes())}"}


def seen(found: Mapping[str, Sequence[SeenFeature]]) -> dict[str, Any]:
    """``{seen}``: a list of ``{block, index, activation, heatmap}``, the heatmap as 16×16 bytes in base64."""
    return {
        "seen": [
            {
                "block": feature.block,
                "index": feature.index,
                "activation": round(feature.activation, 2),
                "heatmap": _packed(feature.heatmap.tobytes()),
            }
            for features in found.values()
            for feature in features
        ]
    }


def _block(name: str, features: Sequence[Feature], places: FeatureMap) -> dict[str, Any]:
    labels = sorted({feature.label for feature in features})
    number = {label: i for i, label in enumerate(labels)}
    score = np.array([feature.score for feature in features])
    return {
        "block": name,
        "count": len(features),
        "labels": labels,
        "label": _packed(np.array([number[feature.label] for feature in features], "<u2").tobytes()),
        "score": _packed((255 * score.clip(0, 1)).round().astype("u1").tobytes()),
        "xy": _packed((65535 * places.xy.clip(0, 1)).round().astype("<u2").tobytes()),
        "icon": _packed(places.icon.astype("<i4").tobytes()),
        "icon_size": places.icon_size,
        "icons_a_row": places.icons_a_row,
    }


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
