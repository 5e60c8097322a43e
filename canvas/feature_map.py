"""The map of a block's features: where each stands, and what it looks like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sae.atlas_table import ICONS_A_ROW, NONE, SHEET_FILE, TABLE_FILE, AtlasTable
from sae.errors import FeaturebrushError
from sae.examples import ICON


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Places and icons of all F features of a block."""

    xy: np.ndarray
    """float32 ``[F, 2]``, 0..1: features with directions alike are near each other."""
    icon: np.ndarray
    """int32 ``[F]``: each one's number in the sheet, row by row, or −1."""
    sheet: Path | None = None
    """The icons side by side in one picture; None if there are none."""
    icon_size: int = ICON
    """Pixels that an icon is wide and high."""
    icons_a_row: int = ICONS_A_ROW


def read_feature_map(folder: Path, n_features: int) -> FeatureMap:
    """The map in a dictionary's ``folder``; without one, the features in order, row by row, and no icons.

    Raises ``FeaturebrushError`` for a table that is damaged or of another number of features.
    """
    if not (folder / TABLE_FILE).is_file():
        side = max(1, int(np.ceil(np.sqrt(n_features))))
        row, column = np.divmod(np.arange(n_features), side)
        xy = np.stack([column, row], axis=1).astype(np.float32) / max(1, side - 1)
        return FeatureMap(xy, np.full(n_features, NONE, np.int32))
    table = AtlasTable.load(folder)
    if len(table) != n_features:
        path = folder / TABLE_FILE
        raise FeaturebrushError(f"{path} describes {len(table)} features, but the SAE has {n_features}")
    sheet = folder / SHEET_FILE
    return FeatureMap(table.columns["xy"], table.columns["icon"], sheet if sheet.is_file() else None)
