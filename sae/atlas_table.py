"""The large part of an atlas: examples, neighbours and the map of every feature, in one table of arrays.

Beside ``atlas.json`` (labels and statistics: `sae.atlas.Atlas`) a dictionary's folder may hold ``atlas.safetensors``,
columns by their names in `COLUMNS` with a JSON header, and ``atlas.webp``, a sheet of icons. No fact is in two files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from sae.errors import FeaturebrushError
from sae.examples import HEATMAP, ICON, Examples
from sae.files import write_atomically
from sae.model import SAE
from sae.neighbours import NONE, map_of, nearest_by_direction

FORMAT = "featurebrush-atlas-table"
VERSION = 1
TABLE_FILE = "atlas.safetensors"
SHEET_FILE = "atlas.webp"
ICONS_A_ROW = 128
"""In the sheet, which is then 6144 pixels wide; webp holds 16,383 pixels of height."""
MOST_ICONS = ICONS_A_ROW * (16_383 // ICON)
NEIGHBOURS = 8
POSITIONAL = 0.75
"""A feature is positional if where it stands in the picture explains this share of its variance or more."""

COLUMNS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "image": ("int32", ("F", "E")),
    "peak": ("float32", ("F", "E")),
    "place": ("int16", ("F", "E", 2)),
    "heatmap": ("uint8", ("F", "E", HEATMAP, HEATMAP)),
    "positional": ("float32", ("F",)),
    "alike": ("int32", ("F", "K")),
    "cosine": ("float32", ("F", "K")),
    "together": ("int32", ("F", "K")),
    "jaccard": ("float32", ("F", "K")),
    "xy": ("float32", ("F", 2)),
    "icon": ("int32", ("F",)),
}
"""Name -> dtype and shape, for F features, E examples and K neighbours. In ``image``, ``alike``, ``together`` and
``icon``, −1 stands for none. ``place`` is row and column on the block's grid."""


@dataclass(frozen=True)
class Example:
    """A picture in which a feature is most active."""

    image: int
    """Number of the picture, by the order in which they were seen."""
    peak: float
    """The feature's highest code there."""
    row: int
    column: int
    """Where, on the block's grid."""
    heatmap: np.ndarray
    """The codes, uint8 ``[16, 16]``, 255 at the highest."""


@dataclass(frozen=True)
class Neighbour:
    """A feature near another."""

    feature: int
    closeness: float
    """Cosine of the directions, or Jaccard index of the positions where they are active."""


@dataclass(frozen=True)
class FeatureCard:
    """What the table knows about one feature."""

    index: int
    examples: tuple[Example, ...]
    """The strongest first."""
    positional: float
    """Share of its variance that its place in the picture explains, 0..1."""
    alike: tuple[Neighbour, ...]
    """By direction, the nearest first."""
    together: tuple[Neighbour, ...]
    """By being active at the same positions."""
    x: float
    y: float
    """On the map, 0..1."""
    icon: int | None
    """Its place in the sheet."""

    @property
    def is_positional(self) -> bool:
        """Whether it says where rather than what."""
        return self.positional >= POSITIONAL


@dataclass(frozen=True, eq=False)
class AtlasTable:
    """Columns over all features of one SAE. A sequence of cards: ``len(table)``, ``table[3]``."""

    block: str
    grid: tuple[int, int]
    """Height and width of the block's grid."""
    images: int
    """How many pictures the examples were taken from."""
    map_kind: str
    """How ``xy`` was found: ``umap`` or ``pca``; see `sae.neighbours.map_of`."""
    columns: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, (dtype, shape) in COLUMNS.items():
            column = self.columns.get(name)
            if column is None:
                raise FeaturebrushError(f"the column {name!r} is missing: expected {', '.join(COLUMNS)}")
            expected = [sizes.setdefault(s, n) if isinstance(s, str) else s for s, n in zip(shape, column.shape)]  # noqa: B905
            if column.dtype != dtype or list(column.shape) != expected or len(shape) != column.ndim:
                raise FeaturebrushError(
                    f"the column {name!r} is {column.dtype} {list(column.shape)}: expected {dtype} {list(shape)}, "
                    f"with {', '.join(f'{s} = {n}' for s, n in sizes.items())}"
                )

    def __len__(self) -> int:
        return len(self.columns["positional"])

    def __getitem__(self, index: int) -> FeatureCard:
        if not 0 <= index < len(self):
            raise FeaturebrushError(f"there is no feature {index} at {self.block}: give 0 to {len(self) - 1}")
        at = {name: column[index] for name, column in self.columns.items()}
        examples = zip(at["image"], at["peak"], at["place"], at["heatmap"], strict=True)
        icon = int(at["icon"])
        return FeatureCard(
            index=index,
            examples=tuple(Example(int(i), float(p), int(s[0]), int(s[1]), h) for i, p, s, h in examples if i != NONE),
            positional=float(at["positional"]),
            alike=_neighbours(at["alike"], at["cosine"]),
            together=_neighbours(at["together"], at["jaccard"]),
            x=float(at["xy"][0]),
            y=float(at["xy"][1]),
            icon=None if icon == NONE else icon,
        )

    def save(self, folder: str | Path) -> None:
        """Write ``atlas.safetensors`` into ``folder``, which is made if it is not there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "block": self.block,
            "grid": list(self.grid),
            "images": self.images,
            "map": self.map_kind,
        }
        metadata = {"featurebrush": json.dumps(header)}
        columns = {name: np.ascontiguousarray(self.columns[name]) for name in COLUMNS}
        write_atomically(folder / TABLE_FILE, lambda path: save_file(columns, path, metadata))

    @classmethod
    def load(cls, folder: str | Path) -> AtlasTable:
        """Read ``atlas.safetensors`` in ``folder``; `FeaturebrushError` if it is missing or damaged."""
        path = Path(folder) / TABLE_FILE
        if not path.is_file():
            raise FeaturebrushError(f"{path.parent} has no {path.name}")
        try:
            with safe_open(path, framework="numpy") as file:
                header = _header(file.metadata())
                columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError, ValueError) as error:
            raise FeaturebrushError(f"{path} cannot be read as an atlas: {error}") from error
        try:
            return cls(header["block"], header["grid"], header["images"], header["map"], columns)
        except FeaturebrushError as error:
            raise FeaturebrushError(f"{path}: {error}") from error


def _neighbours(index: np.ndarray, closeness: np.ndarray) -> tuple[Neighbour, ...]:
    return tuple(Neighbour(int(i), float(c)) for i, c in zip(index, closeness, strict=True) if i != NONE)


def _header(metadata: dict[str, str] | None) -> dict[str, Any]:
    """What the file says of itself; `ValueError` if it is not what `AtlasTable.save` writes."""
    header = json.loads((metadata or {}).get("featurebrush", "null"))
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
        raise ValueError(f"expected a header of format {FORMAT!r}, version {VERSION}")
    grid = header.get("grid")
    if not isinstance(grid, list) or len(grid) != 2 or not all(type(side) is int for side in grid):
        raise ValueError(f"the grid is [height, width], not {grid!r}")
    for name, kind in (("block", str), ("images", int), ("map", str)):
        if not isinstance(header.get(name), kind):
            raise ValueError(f"the header's {name!r} is {header.get(name)!r}")
    return {**header, "grid": (grid[0], grid[1])}


@dataclass(frozen=True, eq=False)
class BuiltAtlas:
    """A new table, and its icons."""

    table: AtlasTable
    sheet: Image.Image | None
    """The icons; None where no pictures were given."""
    examples: Examples
    """What was collected, with the peaks in every picture if they were to be kept."""

    def save(self, folder: str | Path) -> None:
        """Write ``atlas.safetensors`` and, if there are icons, ``atlas.webp`` into ``folder``."""
        self.table.save(folder)
        sheet = self.sheet
        if sheet is not None:
            path = Path(folder) / SHEET_FILE
            write_atomically(path, lambda beside: sheet.save(beside, "WEBP", quality=80, method=4))


def build_atlas(
    sae: SAE, batches: Iterable[tuple[Tensor, Tensor | None]], examples: int = 6, keep_peaks: bool = False
) -> BuiltAtlas:
    """Find the examples, neighbours and places on the map of all features of ``sae``, in one pass.

    Parameters: ``batches`` gives activations ``[B, H, W, d]`` and, for icons, the pictures ``[B, 3, h, w]`` in −1..1.
    Raises `FeaturebrushError` if there are none.
    """
    seen = Examples(sae, examples, keep_peaks)
    for activations, pictures in batches:
        seen.add(activations, pictures)
    if not seen.images:
        raise FeaturebrushError("there are no pictures to build an atlas from: give at least one")
    alike, together = nearest_by_direction(sae.W_dec, NEIGHBOURS), seen.together.nearest(NEIGHBOURS)
    xy, map_kind = map_of(sae.W_dec)
    drawn = seen.has_icon.nonzero().squeeze(1)
    icon = torch.full((sae.cfg.n_features,), NONE)
    icon[drawn] = torch.arange(len(drawn))
    place = torch.stack([seen.place // seen.grid[1], seen.place % seen.grid[1]], dim=-1)
    found = {
        "image": seen.image.T,
        "peak": seen.peaks.T,
        "place": place.transpose(0, 1),
        "heatmap": seen.heatmaps.transpose(0, 1),
        "positional": seen.positional(),
        "alike": alike.index,
        "cosine": alike.closeness,
        "together": together.index,
        "jaccard": together.closeness,
        "icon": icon,
    }
    columns = {name: value.numpy().astype(COLUMNS[name][0]) for name, value in found.items()}
    table = AtlasTable(sae.cfg.block, seen.grid, seen.images, map_kind, {**columns, "xy": xy})
    return BuiltAtlas(table, icon_sheet(seen.icons[drawn]) if len(drawn) else None, seen)


def icon_sheet(icons: Tensor) -> Image.Image:
    """One picture of ``icons [n, 3, 48, 48]`` (uint8): icon i at column i % 128 and row i // 128."""
    pixels = icons.permute(0, 2, 3, 1).numpy()
    width = min(len(pixels), ICONS_A_ROW)
    sheet = np.zeros((-(-len(pixels) // ICONS_A_ROW) * ICON, width * ICON, 3), dtype=np.uint8)
    for i, icon in enumerate(pixels):
        row, column = divmod(i, ICONS_A_ROW)
        sheet[row * ICON : (row + 1) * ICON, column * ICON : (column + 1) * ICON] = icon
    return Image.fromarray(sheet)


def icon_of(sheet: Image.Image, icon: int) -> Image.Image:
    """The icon numbered ``icon`` of a sheet; `FeaturebrushError` if it has none of that number."""
    row, column = divmod(icon, ICONS_A_ROW)
    left, top = column * ICON, row * ICON
    if icon < 0 or left + ICON > sheet.width or top + ICON > sheet.height:
        raise FeaturebrushError(f"the sheet of {sheet.width}×{sheet.height} pixels has no icon {icon}")
    return sheet.crop((left, top, left + ICON, top + ICON))
