"""What a folder of harvested activations says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from sae.errors import FeaturebrushError, unknown
from sae.files import read_json
from sae.model import BLOCK_NAME, Site

FORMAT = "featurebrush-activations"
VERSION = 1
MANIFEST_FILE = "manifest.json"

DType = Literal["float16", "float32"]


class BlockShape(NamedTuple):
    """What a block's activations look like at one position, and how many positions there are."""

    width: int
    """Channels d."""
    grid: tuple[int, int]
    """Height and width."""


@dataclass(frozen=True)
class Manifest:
    """What the shards of a folder hold and how they came about; two harvests with one manifest give one result."""

    model: str
    """Folder or hub id, as it was given."""
    blocks: Mapping[str, BlockShape]
    """By name; all of one grid, as ``at`` is one tensor for all of them."""
    site: Site
    dtype: DType
    """Of the vectors as they are stored."""
    scheduler: Mapping[str, str]
    """``{"class": its name, "config": a digest of its configuration}``."""
    steps: int
    """Of the sampler."""
    levels: tuple[int, ...]
    """The steps that were recorded; 0 is the noisiest."""
    guidance: float
    size: int
    """Height and width of the pictures in pixels."""
    prompts: str
    """Where the pictures come from: the name of a source of scenes, or a file's name with a digest of its text."""
    seed: int
    share: float
    """Share of the positions that was kept, chosen at random."""
    images_per_shard: int

    def __post_init__(self) -> None:
        if not self.blocks:
            raise FeaturebrushError("a manifest needs at least one block")
        for name, shape in self.blocks.items():
            if not BLOCK_NAME.fullmatch(name):
                raise FeaturebrushError(f"{name!r} is no block name: write 'down.i.j', 'mid.j' or 'up.i.j'")
            if min(shape.width, *shape.grid) < 1:
                raise FeaturebrushError(f"{name}: width and grid must be at least 1, not {shape.width}, {shape.grid}")
        one_grid(self.blocks)
        if self.site not in get_args(Site):
            raise unknown("site", self.site, get_args(Site))
        if self.dtype not in get_args(DType):
            raise unknown("dtype", self.dtype, get_args(DType))
        if self.images_per_shard < 1:
            raise FeaturebrushError(f"images_per_shard must be at least 1, not {self.images_per_shard!r}")

    def to_dict(self) -> dict[str, Any]:
        """The manifest as a JSON object."""
        blocks = {name: {"width": shape.width, "grid": list(shape.grid)} for name, shape in self.blocks.items()}
        rest = asdict(self) | {"blocks": blocks, "scheduler": dict(self.scheduler), "levels": list(self.levels)}
        return {"format": FORMAT, "version": VERSION, **rest}

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """The manifest of a folder of shards; `FeaturebrushError` if there is none, or it is damaged."""
        path = Path(folder) / MANIFEST_FILE
        data = read_json(path, FORMAT, VERSION)
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in data]
        if missing:
            raise FeaturebrushError(f"{path} has no {', '.join(missing)}: expected {', '.join(names)}")
        values = {name: data[name] for name in names}
        try:
            values["blocks"] = {
                name: BlockShape(int(shape["width"]), (int(shape["grid"][0]), int(shape["grid"][1])))
                for name, shape in data["blocks"].items()
            }
            values["levels"] = tuple(int(level) for level in data["levels"])
            return cls(**values)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise FeaturebrushError(f"{path} is damaged: {error}") from error


def one_grid(blocks: Mapping[str, BlockShape]) -> tuple[int, int]:
    """The grid that ``blocks`` share, or a `FeaturebrushError` that says which has which."""
    grids = {shape.grid for shape in blocks.values()}
    if len(grids) > 1:
        said = ", ".join(f"{name} {shape.grid[0]}×{shape.grid[1]}" for name, shape in blocks.items())
        raise FeaturebrushError(f"blocks harvested together must have one grid, not {said}: give each grid its own run")
    return grids.pop()
