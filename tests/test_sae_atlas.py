"""Examples, neighbours, positions and the map: against slow definitions, on codes whose meaning is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file
from test_sae_metrics import identity_sae

from sae import FeaturebrushError
from sae.atlas_table import (
    COLUMNS,
    ICONS_A_ROW,
    SHEET_FILE,
    TABLE_FILE,
    AtlasTable,
    BuiltAtlas,
    build_atlas,
    icon_of,
    icon_sheet,
)
from sae.examples import HEATMAP, ICON, Examples
from sae.neighbours import CoActivity, map_of, nearest_by_direction

seeds = st.integers(0, 10_000)
GRID = 8


@pytest.fixture(autouse=True)
def _no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map is found by PCA, whatever is installed."""
    monkeypatch.setitem(sys.modules, "umap", None)


def activity(images: int, features: int, seed: int = 0) -> torch.Tensor:
    """``[images, 8, 8, features]`` ≥ 0, a third of it above 0; the last feature is silent."""
    u = torch.randn(images, GRID, GRID, features, generator=torch.Generator().manual_seed(seed)) - 0.5
    u[..., -1] = -1
    return u


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5), examples=st.integers(1, 4), seed=seeds)
def test_examples_are_the_pictures_of_the_highest_peaks(sizes: list[int], examples: int, seed: int) -> None:
    u = activity(sum(sizes), 4, seed)
    seen = Examples(identity_sae(4), examples, keep_peaks=True)
    for part in u.split(sizes):
        seen.add(part)
    codes = u.relu()
    peaks, place = codes.flatten(1, 2).max(1)
    torch.testing.assert_close(seen.all_peaks, peaks.half())
    for f in range(4):
        order = [i for i in peaks[:, f].argsort(descending=True).tolist() if peaks[i, f] > 0][:examples]
        n = len(order)
        assert seen.image[:n, f].tolist() == order and set(seen.image[n:, f].tolist()) <= {-1}
        assert seen.place[:n, f].tolist() == place[order, f].tolist()
        torch.testing.assert_close(seen.peaks[:n, f], peaks[order, f])
        for rank, image in enumerate(order):
            heat = (255 * codes[image, :, :, f] / peaks[image, f]).round().to(torch.uint8)
            twice = heat.repeat_interleave(2, 0).repeat_interleave(2, 1)
            assert torch.equal(seen.heatmaps[rank, f], twice)
        assert not seen.heatmaps[n:, f].any()


def test_portions_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    u, pictures = activity(7, 5), torch.rand(7, 3, 32, 32) * 2 - 1
    at_once = build_atlas(identity_sae(5), [(u, pictures)])
    monkeypatch.setattr("sae.metrics.CHUNK_CODES", 2 * GRID * GRID * 5)
    in_parts = build_atlas(identity_sae(5), zip(u.split(3), pictures.split(3), strict=True))
    for name in COLUMNS:
        assert np.allclose(at_once.table.columns[name], in_parts.table.columns[name]), name
    assert at_once.sheet is not None and in_parts.sheet is not None
    assert at_once.sheet.tobytes() == in_parts.sheet.tobytes()


def test_features_of_a_place_are_told_from_features_of_things() -> None:
    g = torch.Generator().manual_seed(0)
    u = torch.zeros(200, GRID, GRID, 4)
    u[:, :2, :, 0] = 1  # always the upper edge
    u[..., 1] = (torch.rand(200, GRID, GRID, generator=g) < 0.1).float()  # anywhere
    u[..., 2] = 1  # everywhere
    seen = Examples(identity_sae(4))
    seen.add(u)
    positional = seen.positional()
    assert positional[0].item() == pytest.approx(1) and positional[1].item() < 0.05
    assert positional[2:].tolist() == [0, 0]
    card = build_atlas(identity_sae(4), [(u, None)]).table[0]
    assert card.is_positional and card.icon is None


def test_icons_are_cut_around_the_peak() -> None:
    u, pictures = torch.full((2, GRID, GRID, 3), -1.0), torch.full((2, 3, 64, 64), -1.0)
    u[0, 1, 1, 0] = 1.0  # at the upper left of picture 0, which is red there
    u[1, 6, 6, 1] = 1.0  # at the lower right of picture 1, which is green there
    pictures[0, 0, :40, :40] = 1
    pictures[1, 1, 24:, 24:] = 1
    built = build_atlas(identity_sae(3), [(u, pictures)])
    assert built.sheet is not None and [built.table[f].icon for f in range(3)] == [0, 1, None]
    red, green = (np.asarray(icon_of(built.sheet, n)) for n in (0, 1))
    assert red.shape == (ICON, ICON, 3)
    assert (red == [255, 0, 0]).all() and (green == [0, 255, 0]).all()
    with pytest.raises(FeaturebrushError, match="no icon 2"):
        icon_of(built.sheet, 2)


def test_sheets_are_filled_row_by_row() -> None:
    icons = torch.arange(ICONS_A_ROW + 2, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, ICON, ICON)
    sheet = icon_sheet(icons)
    assert sheet.size == (ICONS_A_ROW * ICON, 2 * ICON)
    for n in (0, 5, ICONS_A_ROW, ICONS_A_ROW + 1):
        assert (np.asarray(icon_of(sheet, n)) == n).all()


def test_an_icon_goes_with_the_first_example() -> None:
    u = torch.full((2, GRID, GRID, 1), -1.0)
    u[0, 0, 0, 0], u[1, 0, 0, 0] = 1.0, 2.0
    seen = Examples(identity_sae(1))
    seen.add(u[:1], torch.ones(1, 3, 32, 32))
    assert seen.has_icon[0]
    seen.add(u[1:])
    assert not seen.has_icon[0] and seen.image[:2, 0].tolist() == [1, 0]


@given(n=st.integers(1, 8), k=st.integers(1, 9), seed=seeds)
def test_neighbours_by_direction_are_those_of_greatest_cosine(n: int, k: int, seed: int) -> None:
    rows = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    near = nearest_by_direction(rows, k)
    cosines = torch.cosine_similarity(rows[:, None], rows[None], dim=2)
    assert near.index.shape == near.closeness.shape == (n, min(k, n - 1))
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: -cosines[i, j].item())
        assert near.index[i].tolist() == others[:k]
        torch.testing.assert_close(near.closeness[i], cosines[i, near.index[i]])


@given(n=st.integers(1, 40), f=st.integers(2, 6), seed=seeds)
def test_neighbours_by_activity_are_those_of_greatest_overlap(n: int, f: int, seed: int) -> None:
    codes = torch.rand(n, f, generator=torch.Generator().manual_seed(seed)) - 0.6
    on = codes > 0
    together = CoActivity(f)
    for part in codes.relu().split(7):
        together.add(part)
    near = together.nearest(f)
    for i in range(f):
        overlap = [
            ((on[:, i] & on[:, j]).sum() / (on[:, i] | on[:, j]).sum().clamp(min=1)).item() if j != i else 0.0
            for j in range(f)
        ]
        assert near.closeness[i].tolist() == pytest.approx(sorted(overlap, reverse=True)[: f - 1])
        for j, value in zip(near.index[i].tolist(), near.closeness[i].tolist(), strict=True):
            assert (j == -1 and value == 0) or overlap[j] == pytest.approx(value)


def test_blocks_of_pairs_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = (torch.rand(200, 9, generator=torch.Generator().manual_seed(0)) - 0.6).relu()
    whole = CoActivity(9)
    whole.add(codes)
    expected, directions = whole.nearest(3), nearest_by_direction(codes.T, 3)
    monkeypatch.setattr("sae.neighbours.BLOCK_CELLS", 20)
    assert torch.equal(whole.nearest(3).index, expected.index)
    assert torch.equal(nearest_by_direction(codes.T, 3).index, directions.index)


def test_a_sample_of_positions_is_enough_and_bounded() -> None:
    g = torch.Generator().manual_seed(0)
    together = CoActivity(3, entries=2000)
    for _ in range(20):
        first = torch.rand(500, generator=g) < 0.4
        half = first & (torch.rand(500, generator=g) < 0.5)
        together.add(torch.stack([first, half, ~first], dim=1).float())
    near = together.nearest(2)
    assert near.index[0].tolist() == [1, -1] and near.closeness[0, 0].item() == pytest.approx(0.5, abs=0.08)
    assert sum(map(len, together._rows)) <= 2000


def test_silent_features_have_no_company() -> None:
    near = CoActivity(4).nearest(2)
    assert near.index.tolist() == [[-1, -1]] * 4 and not near.closeness.any()
    with pytest.raises(FeaturebrushError, match=r"\[n, 4\]"):
        CoActivity(4).add(torch.ones(2, 3))


def test_the_map_spreads_features_by_direction() -> None:
    g = torch.Generator().manual_seed(0)
    clusters = torch.eye(3)[torch.arange(30) % 3] + 0.05 * torch.randn(30, 3, generator=g)
    xy, kind = map_of(clusters)
    assert kind == "pca" and xy.shape == (30, 2) and xy.dtype == np.float32
    assert xy.min() == 0 and xy.max() == 1
    centres = np.stack([xy[i::3].mean(0) for i in range(3)])
    spread = max(xy[i::3].std(0).max() for i in range(3))
    assert min(np.linalg.norm(centres[i] - centres[i - 1]) for i in range(3)) > 2 * spread
    again, _ = map_of(clusters)
    assert (xy == again).all()
    assert map_of(torch.ones(1, 4))[0].tolist() == [[0.5, 0.5]]


def test_umap_makes_the_map_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    class FakeMapper:
        def __init__(self, **options: Any):
            asked.update(options)

        def fit_transform(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, :2] * 10

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=FakeMapper))
    xy, kind = map_of(torch.randn(10, 3))
    assert kind == "umap" and asked["metric"] == "cosine" and asked["n_neighbors"] == 9 and asked["random_state"] == 0
    assert xy.min() == 0 and xy.max() == 1
    assert map_of(torch.randn(3, 3))[1] == "pca", "too few for a graph"


@pytest.fixture
def built() -> BuiltAtlas:
    return build_atlas(identity_sae(5), [(activity(6, 5), torch.rand(6, 3, 32, 32))], examples=3)


def test_the_table_comes_back_as_it_was(built: BuiltAtlas, tmp_path: Path) -> None:
    built.save(tmp_path)
    table = AtlasTable.load(tmp_path)
    assert (table.block, table.grid, table.images, table.map_kind) == ("", (GRID, GRID), 6, "pca")
    for name in COLUMNS:
        assert np.array_equal(table.columns[name], built.table.columns[name])
    card = table[1]
    assert len(table) == 5 and len(card.examples) == 3 and card.examples[0].heatmap.shape == (HEATMAP, HEATMAP)
    best = card.examples[0]
    assert best.peak == pytest.approx(activity(6, 5)[best.image, best.row, best.column, 1].item())
    assert best.peak >= card.examples[1].peak and best.heatmap[2 * best.row, 2 * best.column] == 255
    assert len(card.alike) == 4 and {n.feature for n in card.together} <= {0, 2, 3}
    assert table[4].examples == () and table[4].icon is None and table[4].together == ()
    with Image.open(tmp_path / SHEET_FILE) as sheet:
        assert sheet.size == (4 * ICON, ICON)
    with pytest.raises(FeaturebrushError, match="0 to 4"):
        table[5]


def rewritten(folder: Path, change: Any) -> None:
    """Save the table in ``folder`` again with its columns or header changed by ``change(columns, header)``."""
    path = folder / TABLE_FILE
    columns = load_file(path)
    header = {
        "format": "featurebrush-atlas-table",
        "version": 1,
        "block": "",
        "grid": [8, 8],
        "images": 6,
        "map": "pca",
    }
    change(columns, header)
    save_file(columns, path, {"featurebrush": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda columns, header: columns.pop("xy"), "'xy' is missing"),
        (lambda columns, header: columns.update(icon=columns["icon"][:2]), "'icon'.*F = 5"),
        (lambda columns, header: columns.update(icon=columns["icon"].astype(np.int64)), "int64"),
        (lambda columns, header: columns.update(xy=columns["xy"][:, 0].copy()), "'xy'"),
        (lambda columns, header: header.update(version=9), "version 1"),
        (lambda columns, header: header.update(grid=[8]), "grid"),
        (lambda columns, header: header.pop("images"), "images"),
    ],
)
def test_damaged_tables_are_refused(built: BuiltAtlas, tmp_path: Path, change: Any, says: str) -> None:
    built.save(tmp_path)
    rewritten(tmp_path, change)
    with pytest.raises(FeaturebrushError, match=f"(?s){says}"):
        AtlasTable.load(tmp_path)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeaturebrushError, match=r"has no atlas\.safetensors"):
        AtlasTable.load(tmp_path)
    (tmp_path / TABLE_FILE).write_bytes(b"no table")
    with pytest.raises(FeaturebrushError, match="cannot be read"):
        AtlasTable.load(tmp_path)
    save_file({"x": np.zeros(1)}, tmp_path / TABLE_FILE)
    with pytest.raises(FeaturebrushError, match="header"):
        AtlasTable.load(tmp_path)


def test_pictures_that_do_not_fit_are_refused() -> None:
    seen = Examples(identity_sae(2))
    seen.add(activity(1, 2))
    for u, pictures in (
        (activity(1, 2)[:, :4], None),
        (activity(1, 2)[0], None),
        (activity(2, 2), torch.zeros(1, 3, 8, 8)),
    ):
        with pytest.raises(FeaturebrushError, match="shape"):
            seen.add(u, pictures)
    with pytest.raises(FeaturebrushError, match="keep_peaks"):
        _ = seen.all_peaks
    with pytest.raises(FeaturebrushError, match="at least one"):
        build_atlas(identity_sae(2), [])
    with pytest.raises(FeaturebrushError, match="examples"):
        Examples(identity_sae(2), 0)
