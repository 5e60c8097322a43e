"""Shards: what is written comes back, each vector once an epoch, mixed, resumable, in bounded memory."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from sae import FeaturebrushError, ShardReader, ShardWriter
from sae import shards as shards_module
from sae.manifest import BlockShape, Manifest

A, B = "down.1.0", "up.0.1"
PER_IMAGE = 6


def make_manifest(**changes) -> Manifest:
    base = Manifest(
        model="tiny",
        blocks={A: BlockShape(3, (2, 3)), B: BlockShape(2, (2, 3))},
        site="update",
        dtype="float32",
        scheduler={"class": "DDIMScheduler", "config": "0123456789ab"},
        steps=4,
        levels=(0, 2),
        guidance=1.0,
        size=32,
        prompts="prompts.txt sha256:0123",
        seed=0,
        share=1.0,
        images_per_shard=4,
    )
    return replace(base, **changes)


def rows_of(images: range, per_image: int = PER_IMAGE) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Vectors that say which they are: the first channel counts all vectors of all images."""
    number = torch.arange(images.start * per_image, images.stop * per_image).float()
    vectors = {A: torch.stack([number, -number, number % 7], dim=1), B: torch.stack([number, number + 0.5], dim=1)}
    at = torch.zeros(len(number), 5, dtype=torch.int32)
    at[:, 0] = (number // per_image).int()
    at[:, 3] = (number % per_image).int()
    return vectors, at


def write(folder: Path, images: int, manifest: Manifest | None = None, per_image: int = PER_IMAGE) -> ShardWriter:
    writer = ShardWriter(folder, manifest or make_manifest())
    for part in writer.missing(images):
        writer.write(part, *rows_of(part, per_image))
    return writer


def numbers(batches) -> list[int]:
    return [int(n) for batch in batches for n in batch[:, 0].tolist()]


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    writer = write(tmp_path, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        *(f"shard-0000{k}.safetensors" for k in range(3)),
    ]
    reader = ShardReader(tmp_path)
    assert reader.blocks == (A, B) and reader.count == writer.count == 60
    assert (reader.width(A), reader.width(B)) == (3, 2)
    assert reader.manifest == make_manifest()
    expected, expected_at = rows_of(range(10))
    for block in (A, B):
        stored, at = (torch.cat(parts) for parts in zip(*reader.stored(block), strict=True))
        assert torch.equal(stored, expected[block]) and torch.equal(at, expected_at) and at.dtype == torch.int32
    said = json.loads((tmp_path / "manifest.json").read_text())
    assert said["format"] == "featurebrush-activations" and said["version"] == 1
    assert said["blocks"][A] == {"width": 3, "grid": [2, 3]}


def test_half_precision_is_stored_and_float32_comes_out(tmp_path: Path) -> None:
    write(tmp_path, 4, make_manifest(dtype="float16"))
    assert load_file(tmp_path / "shard-00000.safetensors")[A].dtype == torch.float16
    batch = next(ShardReader(tmp_path).batches(A, 5, seed=0))
    assert batch.dtype == torch.float32 and batch.shape == (5, 3)
    vectors, at = rows_of(range(4))
    vectors[A][3, 1] = 1e6
    writer = ShardWriter(tmp_path / "wide", make_manifest(dtype="float16"))
    with pytest.raises(FeaturebrushError, match=r"down\.1\.0 .*float16"):
        writer.write(range(4), vectors, at)


shapes = st.tuples(
    st.integers(1, 14),  # images
    st.integers(1, 5),  # images per shard
    st.integers(1, 7),  # vectors per image
    st.integers(1, 40),  # batch
    st.integers(1, 50),  # pool
    st.integers(1, 9),  # run
    st.integers(0, 3),  # seed
)


@settings(max_examples=60)
@given(shapes, st.integers(1, 3))
def test_every_vector_comes_out_once_an_epoch(shape: tuple[int, ...], epochs: int) -> None:
    images, per_shard, per_image, batch, pool, run, seed = shape
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), images, make_manifest(images_per_shard=per_shard), per_image)
        reader = ShardReader(folder)
        count = reader.count
        assert count == images * per_image
        got = list(reader.batches(B, batch, seed, epochs=epochs, pool=pool, run=run))
        assert all(part.shape == (batch, 2) for part in got[:-1]) and 0 < len(got[-1]) <= batch
        assert all(torch.equal(part[:, 0] + 0.5, part[:, 1]) for part in got)
        order = numbers(got)
        for epoch in range(epochs):
            assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))
        assert len(order) == epochs * count


@settings(max_examples=60)
@given(shapes, st.integers(0, 12), st.sampled_from([None, 1, 2]))
def test_starting_later_is_dropping_batches(shape: tuple[int, ...], start: int, epochs: int | None) -> None:
    images, per_shard, per_image, batch, pool, run, seed = shape
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), images, make_manifest(images_per_shard=per_shard), per_image)
        reader = ShardReader(folder)
        options = {"epochs": epochs, "pool": pool, "run": run}
        whole = list(islice(reader.batches(A, batch, seed, **options), start + 5))
        later = list(islice(reader.batches(A, batch, seed, start=start, **options), 5))
        assert len(later) == max(0, len(whole) - start)
        assert all(torch.equal(a, b) for a, b in zip(whole[start:], later, strict=True))


def test_the_order_is_the_seeds_and_changes_with_the_epoch(tmp_path: Path) -> None:
    write(tmp_path, 32)
    reader = ShardReader(tmp_path)

    def order(seed: int) -> list[int]:
        return numbers(reader.batches(A, 16, seed, epochs=2, pool=64, run=4))

    assert order(0) == order(0) != order(1)
    assert order(0)[:192] != order(0)[192:]


def test_shuffling_mixes_the_shards(tmp_path: Path) -> None:
    write(tmp_path, 8, make_manifest(images_per_shard=1), per_image=256)
    batches = list(ShardReader(tmp_path).batches(A, 128, seed=0, epochs=1, pool=512, run=32))
    for batch in batches:
        per_shard = torch.bincount(batch[:, 0].long() // 256, minlength=8)
        assert (per_shard > 0).sum() >= 4 and per_shard.max() < 96
    neighbours = torch.tensor(numbers(batches)).diff().abs() == 1
    assert neighbours.float().mean() < 0.05


class Watched(ShardReader):
    """A reader that notes what it reads."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pools: list[int] = []
        self.buffers: set[tuple[int, ...]] = set()

    def _fill(self, buffer, block, order, begin, end) -> None:
        self.pools.append(end - begin)
        self.buffers.add((buffer.data_ptr(), *buffer.shape))
        super()._fill(buffer, block, order, begin, end)


def test_memory_is_bounded_by_the_pool(tmp_path: Path) -> None:
    write(tmp_path, 40, make_manifest(images_per_shard=3))
    reader = Watched(tmp_path)
    assert len(numbers(reader.batches(A, 7, seed=0, epochs=3, pool=50, run=8))) == 720
    assert len(reader.buffers) == 1 and next(iter(reader.buffers))[1:] == (50, 3)
    assert max(reader.pools) == 50 and sum(reader.pools) == 720
    assert shards_module.POOL == 2**18 and shards_module.RUN == 1024


def test_a_later_start_reads_nothing_of_the_pools_before(tmp_path: Path) -> None:
    write(tmp_path, 40)
    reader = Watched(tmp_path)
    # 240 vectors an epoch, in pools of 50: batch 33 begins at vector 330, which is the 90th of the second epoch.
    next(reader.batches(A, 10, seed=0, start=33, pool=50))
    assert reader.pools == [50]
    assert list(reader.batches(A, 10, seed=0, start=24, epochs=1, pool=50)) == [] and reader.pools == [50]


def test_a_harvest_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "whole", 10)
    writer = ShardWriter(tmp_path / "killed", make_manifest())
    first, second, _ = writer.missing(10)
    writer.write(first, *rows_of(first))

    def killed(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            writer.write(second, *rows_of(second))
    (tmp_path / "killed" / ".shard-00001.safetensors.x1y2").write_bytes(b"half a shard")
    assert ShardReader(tmp_path / "killed").count == 24

    again = ShardWriter(tmp_path / "killed", make_manifest())
    assert again.count == 24 and list(again.missing(10)) == [range(4, 8), range(8, 10)]
    write(tmp_path / "killed", 10)
    assert list(again.missing(4)) == []
    same_files(tmp_path / "whole", tmp_path / "killed")


def same_files(one: Path, other: Path) -> None:
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())
    for path in one.glob("*.safetensors"):
        mine, theirs = load_file(path), load_file(other / path.name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine)


def test_a_finished_harvest_can_grow(tmp_path: Path) -> None:
    write(tmp_path / "once", 10)
    for images in (3, 6, 10):
        write(tmp_path / "grown", images)
        assert ShardReader(tmp_path / "grown").count == images * PER_IMAGE
    same_files(tmp_path / "once", tmp_path / "grown")
    assert list(ShardWriter(tmp_path / "grown", make_manifest()).missing(7)) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 5}, "seed 0, not 5"),
        ({"model": "other"}, "model 'tiny', not 'other'"),
        ({"dtype": "float16"}, "dtype 'float32', not 'float16'"),
        ({"levels": (0, 1)}, r"levels \[0, 2\], not \[0, 1\]"),
        ({"scheduler": {"class": "DDIMScheduler", "config": "ffff"}}, "ffff"),
        ({"site": "output", "guidance": 3.0}, "site 'update', not 'output'; guidance 1.0, not 3.0"),
        ({"blocks": {A: BlockShape(3, (2, 3))}}, "blocks"),
    ],
)
def test_another_manifest_is_refused(tmp_path: Path, changes: dict, says: str) -> None:
    write(tmp_path, 4)
    with pytest.raises(FeaturebrushError, match=says):
        ShardWriter(tmp_path, make_manifest(**changes))
    assert ShardReader(tmp_path).manifest == make_manifest()


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    write(tmp_path, 12)
    shard = tmp_path / "shard-00001.safetensors"
    content = shard.read_bytes()
    reader = ShardReader(tmp_path)
    for damaged in (content[:-10], b"", b"\xff" * 99):
        shard.write_bytes(damaged)
        with pytest.raises(FeaturebrushError, match="shard-00001.safetensors is damaged"):
            ShardReader(tmp_path)
        with pytest.raises(FeaturebrushError, match="shard-00001"):
            list(reader.batches(A, 72, seed=0, epochs=1))
    shard.unlink()
    with pytest.raises(FeaturebrushError, match="shard-00001.safetensors is missing"):
        ShardReader(tmp_path)
    with pytest.raises(FeaturebrushError, match="shard-00001.safetensors is missing"):
        list(reader.batches(A, 72, seed=0, epochs=1))

    shard.write_bytes(content[:-10])
    assert list(ShardWriter(tmp_path, make_manifest()).missing(12)) == [range(4, 8)]
    write(tmp_path, 12)
    assert shard.read_bytes() == content and ShardReader(tmp_path).count == 72


def test_shards_that_are_not_the_manifests_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", 4)
    write(tmp_path / "b", 4, make_manifest(dtype="float16"))
    (tmp_path / "a" / "shard-00000.safetensors").replace(tmp_path / "b" / "shard-00000.safetensors")
    with pytest.raises(FeaturebrushError, match="F32.*expected F16"):
        ShardReader(tmp_path / "b")
    with pytest.raises(FeaturebrushError, match="no shards yet"):
        ShardReader(tmp_path / "a")
    (tmp_path / "b" / "manifest.json").unlink()
    with pytest.raises(FeaturebrushError, match="no manifest.json"):
        ShardReader(tmp_path / "b")
    with pytest.raises(FeaturebrushError, match="shards but no manifest.json"):
        ShardWriter(tmp_path / "b", make_manifest())
    with pytest.raises(FeaturebrushError, match="no folder"):
        ShardReader(tmp_path / "c")


@pytest.mark.parametrize("key", ["blocks", "levels", "site", "dtype", "images_per_shard"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, key: str) -> None:
    write(tmp_path, 4)
    path = tmp_path / "manifest.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, key: None}))
    with pytest.raises(FeaturebrushError, match=r"manifest\.json"):
        ShardReader(tmp_path)
    del said[key]
    path.write_text(json.dumps(said))
    with pytest.raises(FeaturebrushError, match=key):
        ShardReader(tmp_path)


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    writer = write(tmp_path, 4)
    reader = ShardReader(tmp_path)
    with pytest.raises(FeaturebrushError, match=r"did you mean 'up\.0\.1'"):
        reader.batches("up.0.2", 4, seed=0)
    for options in ({"batch": 0}, {"start": -1}, {"pool": 0}, {"run": 0}, {"epochs": 0}):
        with pytest.raises(FeaturebrushError, match=next(iter(options))):
            reader.batches(A, **{"batch": 4, "seed": 0, **options})
    vectors, at = rows_of(range(4))
    with pytest.raises(FeaturebrushError, match="no shard of 4 images"):
        writer.write(range(2, 6), vectors, at)
    with pytest.raises(FeaturebrushError, match="expected down.1.0, up.0.1"):
        writer.write(range(4), {A: vectors[A]}, at)
    with pytest.raises(FeaturebrushError, match=r"up\.0\.1 has the shape \[24, 3\]"):
        writer.write(range(4), {A: vectors[A], B: vectors[A]}, at)
    with pytest.raises(FeaturebrushError, match="down.1.0 16×16, mid.0 8×8"):
        make_manifest(blocks={A: BlockShape(3, (16, 16)), "mid.0": BlockShape(3, (8, 8))})
