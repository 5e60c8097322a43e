"""Activations on disk: shards of safetensors with a manifest, written so that a harvest can go on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae.errors import FeaturebrushError, unknown
from sae.files import write_atomically, write_json
from sae.manifest import MANIFEST_FILE, Manifest

AT = "at"
"""The tensor beside the blocks' that says where each vector was: (image, step, y, x, branch)."""
POOL = 2**18
"""Vectors mixed at a time."""
RUN = 1024
"""Vectors that are read in one piece."""
_DTYPES = {"float16": (torch.float16, "F16"), "float32": (torch.float32, "F32")}


def seeded(*numbers: object) -> torch.Generator:
    """A generator for ``numbers`` alone: what it draws depends on nothing that was drawn before."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


class _Shard(NamedTuple):
    path: Path
    rows: int
    images: int


def _path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.safetensors"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FeaturebrushError(f"the shard {path} is missing: harvest again into its folder to fill the gap")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise FeaturebrushError(f"the shard {path} is damaged ({error}): harvest again to replace it") from error


def _inspected(path: Path, manifest: Manifest) -> _Shard:
    """What is in a shard, by its header alone; `FeaturebrushError` if that is not what the manifest says."""
    code = _DTYPES[manifest.dtype][1]
    with _opened(path) as file:
        if set(file.keys()) != {*manifest.blocks, AT}:
            found = ", ".join(sorted(file.keys()))
            raise FeaturebrushError(f"the shard {path} holds {found}: expected {', '.join([*manifest.blocks, AT])}")
        rows = int(file.get_slice(AT).get_shape()[0])
        expected = {name: ([rows, shape.width], code) for name, shape in manifest.blocks.items()}
        for name, (shape, dtype) in {**expected, AT: ([rows, 5], "I32")}.items():
            part = file.get_slice(name)
            if list(part.get_shape()) != shape or str(part.get_dtype()) != dtype:
                found = f"{part.get_dtype()} {list(part.get_shape())}"
                raise FeaturebrushError(f"the shard {path}: {name} is {found}, expected {dtype} {shape}")
        images = (file.metadata() or {}).get("images", "")
    if not images.isdecimal() or rows == 0:
        raise FeaturebrushError(f"the shard {path} does not say how many images it is of, or is empty")
    return _Shard(path, rows, int(images))


class ShardWriter:
    """Writes shards into a folder: ``shard-00000.safetensors`` … each of ``manifest.images_per_shard`` images.

    Shard k holds the images from ``k · images_per_shard`` on; the last may hold fewer. A shard is there whole or not
    at all, so an interrupted harvest goes on with `missing`.

    Raises `FeaturebrushError` if the folder was begun with another manifest, naming what differs.
    """

    def __init__(self, folder: str | Path, manifest: Manifest) -> None:
        self.folder = Path(folder)
        self.manifest = manifest
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / MANIFEST_FILE
        if path.exists():
            _refuse_another(self.folder, Manifest.read(self.folder), manifest)
        elif any(self.folder.glob("shard-*.safetensors")):
            raise FeaturebrushError(f"{self.folder} has shards but no {MANIFEST_FILE}: give another folder")
        else:
            write_json(path, manifest.to_dict())
        for stray in self.folder.glob(".shard-*.safetensors.*"):
            # A harvest that was killed while it wrote left it.
            stray.unlink()
        self._shards: dict[int, _Shard] = {}
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            index = _index(path)
            try:
                self._shards[index] = _inspected(path, manifest)
            except FeaturebrushError:
                # Damaged: it counts as missing, and is written again.
                continue

    @property
    def count(self) -> int:
        """Vectors of each block written so far."""
        return sum(shard.rows for shard in self._shards.values())

    def missing(self, images: int) -> Iterator[range]:
        """The images of each shard that is still to be written so that the first ``images`` images are there."""
        per_shard = self.manifest.images_per_shard
        for index, first in enumerate(range(0, images, per_shard)):
            wanted = range(first, min(first + per_shard, images))
            if index not in self._shards or self._shards[index].images < len(wanted):
                yield wanted

    def write(self, images: range, vectors: Mapping[str, Tensor], at: Tensor) -> None:
        """Write the shard of ``images``, one of the ranges of `missing`.

        ``vectors`` has, for each block of the manifest, ``[n, d]``; ``at [n, 5]`` says where each vector was.
        """
        index, off = divmod(images.start, self.manifest.images_per_shard)
        if off or not 0 < len(images) <= self.manifest.images_per_shard:
            raise FeaturebrushError(f"{images} is no shard of {self.manifest.images_per_shard} images each")
        blocks = self.manifest.blocks
        if set(vectors) != set(blocks):
            raise FeaturebrushError(f"vectors of {', '.join(vectors)} given: expected {', '.join(blocks)}")
        widths = {AT: 5} | {name: shape.width for name, shape in blocks.items()}
        for name, value in {AT: at, **vectors}.items():
            if len(at) == 0 or list(value.shape) != [len(at), widths[name]]:
                raise FeaturebrushError(
                    f"{name} has the shape {list(value.shape)}: expected [n, {widths[name]}], n > 0"
                )
        dtype = _DTYPES[self.manifest.dtype][0]
        tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in vectors.items()}
        for name, value in tensors.items():
            if not torch.isfinite(value).all():
                raise FeaturebrushError(
                    f"{name} has values that {self.manifest.dtype} cannot hold: only float32 holds all"
                )
        tensors[AT] = at.to("cpu", torch.int32).contiguous()
        path = _path(self.folder, index)
        metadata = {"images": str(len(images))}
        write_atomically(path, lambda beside: save_file(tensors, beside, metadata=metadata))
        self._shards[index] = _Shard(path, len(at), len(images))


def _index(path: Path) -> int:
    number = path.stem.removeprefix("shard-")
    if not number.isdecimal():
        raise FeaturebrushError(f"{path} is not named as a shard is: expected shard-00000.safetensors and so on")
    return int(number)


def _refuse_another(folder: Path, there: Manifest, given: Manifest) -> None:
    old, new = there.to_dict(), given.to_dict()
    differing = [f"{name} {old[name]!r}, not {new[name]!r}" for name in old if old[name] != new[name]]
    if differing:
        raise FeaturebrushError(
            f"{folder} was begun with {'; '.join(differing)}: go on with the same settings, or give another folder"
        )


class ShardReader:
    """Reads the shards of a folder back, in memory that does not grow with them.

    Raises `FeaturebrushError` if there are none, or one is missing or damaged, naming it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FeaturebrushError(f"there is no folder {folder}: give one that `python -m sae harvest` wrote")
        self.manifest = Manifest.read(self.folder)
        found = {_index(path) for path in self.folder.glob("shard-*.safetensors")}
        if not found:
            raise FeaturebrushError(f"{self.folder} has no shards yet: let `python -m sae harvest` write some")
        self._shards = [_inspected(_path(self.folder, index), self.manifest) for index in range(max(found) + 1)]

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks whose vectors are there."""
        return tuple(self.manifest.blocks)

    @property
    def count(self) -> int:
        """Vectors of each block."""
        return sum(shard.rows for shard in self._shards)

    def width(self, block: str) -> int:
        """Width d of the vectors of ``block``."""
        if block not in self.manifest.blocks:
            raise unknown("block", block, self.manifest.blocks)
        return self.manifest.blocks[block].width

    def stored(self, block: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Shard by shard, as they were written: vectors ``[n, d]`` float32, and ``at [n, 5]`` int32 of each.

        The columns of ``at`` are (image, step, y, x, branch); branch is 1 for the unconditional half under guidance,
        else 0.
        """
        self.width(block)
        for shard in self._shards:
            with _opened(shard.path) as file:
                vectors, at = file.get_tensor(block).to(torch.float32, copy=True), file.get_tensor(AT).clone()
            yield vectors, at

    def batches(
        self,
        block: str,
        batch: int,
        seed: int,
        start: int = 0,
        epochs: int | None = None,
        pool: int = POOL,
        run: int = RUN,
    ) -> Iterator[Tensor]:
        """Training batches ``[batch, d]``, float32, in an order that is mixed across the shards and fixed by ``seed``.

        In each epoch, runs of ``run`` neighbouring vectors of all shards are put in a random order; what follows one
        another is cut into pools of ``pool`` vectors, and each pool is mixed. Every ``reader.count`` vectors that come
        out hold each vector once. Only the last batch may be smaller, and there is one only if ``epochs`` is given.

        ``start`` leaves out that many batches, without reading the pools before: what comes is what would have come.
        At most ``pool`` vectors are held, and one batch.
        """
        width = self.width(block)
        least = {"batch": (batch, 1), "start": (start, 0), "pool": (pool, 1), "run": (run, 1)}
        if epochs is not None:
            least["epochs"] = (epochs, 1)
        for name, (value, bound) in least.items():
            if type(value) is not int or value < bound:
                raise FeaturebrushError(f"{name} must be a whole number of at least {bound}, not {value!r}")
        return self._cut(block, width, batch, seed, start * batch, epochs, pool, run)

    def _cut(
        self, block: str, width: int, batch: int, seed: int, first: int, epochs: int | None, pool: int, run: int
    ) -> Iterator[Tensor]:
        """`batches` from the vector ``first`` of all epochs on."""
        buffer = torch.empty(min(pool, self.count), width)
        waiting: list[Tensor] = []
        held = 0
        epoch, skipped = divmod(first, self.count)
        while epochs is None or epoch < epochs:
            order = _Order.of(self._shards, run, seed, epoch)
            for number in range(skipped // pool, -(-self.count // pool)):
                begin, end = number * pool, min((number + 1) * pool, self.count)
                self._fill(buffer, block, order, begin, end)
                mixed = torch.randperm(end - begin, generator=seeded("pool", seed, epoch, number))
                place = max(0, skipped - begin)
                while place < len(mixed):
                    part = mixed[place : place + batch - held]
                    waiting.append(buffer[part])
                    place, held = place + len(part), held + len(part)
                    if held == batch:
                        yield torch.cat(waiting) if len(waiting) > 1 else waiting[0]
                        waiting, held = [], 0
            epoch, skipped = epoch + 1, 0
        if waiting:
            yield torch.cat(waiting)

    def _fill(self, buffer: Tensor, block: str, order: _Order, begin: int, end: int) -> None:
        """Put the vectors ``begin`` to ``end`` of an epoch's order into ``buffer``, opening each shard once."""
        by_shard: dict[int, list[tuple[int, int, int]]] = {}
        place = 0
        for shard, start, stop in order.pieces(begin, end):
            by_shard.setdefault(shard, []).append((start, stop, place))
            place += stop - start
        for shard, pieces in by_shard.items():
            with _opened(self._shards[shard].path) as file:
                stored = file.get_slice(block)
                for start, stop, place in pieces:
                    buffer[place : place + stop - start].copy_(stored[start:stop])


class _Order(NamedTuple):
    """The runs of one epoch, in its order: ``[R]`` each, int64."""

    shard: Tensor
    start: Tensor
    """First row in the shard."""
    end: Tensor
    """How many vectors of the epoch have come when the run is over."""

    @classmethod
    def of(cls, shards: list[_Shard], run: int, seed: int, epoch: int) -> _Order:
        starts = [torch.arange(0, shard.rows, run) for shard in shards]
        shard = torch.cat([torch.full_like(start, index) for index, start in enumerate(starts)])
        length = torch.cat([(s.rows - start).clamp(max=run) for s, start in zip(shards, starts, strict=True)])
        order = torch.randperm(len(shard), generator=seeded("runs", seed, epoch))
        return cls(shard[order], torch.cat(starts)[order], length[order].cumsum(0))

    def pieces(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """What the vectors ``begin`` to ``end`` of the epoch are: (shard, first row, row after the last)."""
        i = int(torch.searchsorted(self.end, begin, right=True))
        while begin < end:
            before = int(self.end[i - 1]) if i else 0
            count = min(int(self.end[i]), end) - begin
            first = int(self.start[i]) + begin - before
            yield int(self.shard[i]), first, first + count
            begin, i = begin + count, i + 1
