"""Which features are where in a picture: `Painter.inspect`, the map of features, and what of both the browser gets."""

from __future__ import annotations

import base64
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import BLOCKS, N_FEATURES

from canvas import Brush, FeaturebrushError, Mask, Painter, Painting
from canvas.concepts import read_concepts
from canvas.feature_map import read_feature_map
from canvas.inspection import Inspection
from canvas.ui import atlas
from sae.activations import block_module
from sae.atlas_table import build_atlas
from tests.browser.fake import FakePainter

DISC = Mask.disc(0.25, 0.25, 0.2)


def test_the_strongest_features_come_first_at_every_block(painter) -> None:
    found = painter.inspect(Painting(seed=3), 0.3, 0.6, most=4)
    assert tuple(found) == BLOCKS
    for block, features in found.items():
        assert 1 <= len(features) <= 4
        activations = [feature.activation for feature in features]
        assert activations == sorted(activations, reverse=True) and activations[-1] > 0
        for feature in features:
            assert (feature.block, feature.label) == (block, f"thing {feature.index}")
            assert feature.heatmap.shape == (16, 16) and feature.heatmap.dtype == np.uint8
            assert feature.heatmap.max() == 255


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_codes_are_those_of_the_blocks_updates_in_the_pipeline(painter, reference, guidance) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    module = block_module(reference.unet, "up.0.1")
    hook = module.register_forward_hook(lambda _m, given, made: seen.append((given[0], made[0])))
    generator = torch.Generator("cpu").manual_seed(3)
    reference("a castle", num_inference_steps=3, guidance_scale=guidance, generator=generator, height=32, width=32)
    hook.remove()
    painting = Painting(prompt="a castle", seed=3, guidance=guidance)
    entered, left = painter.engine.updates(painter.plan(painting), 1.0)["up.0.1"]
    assert torch.equal(entered, seen[-1][0][-1:]) and torch.equal(left, seen[-1][1][-1:])
    sae = painter.sae("up.0.1")
    codes = sae.encode((left - entered)[0].permute(1, 2, 0)) / sae.mean
    found = Inspection({"up.0.1": sae}, {"up.0.1": (entered, left)}).at(0.3, 0.6, 5)["up.0.1"]
    values, index = codes[int(0.6 * 8), int(0.3 * 8)].topk(5)
    assert found == [(int(i), pytest.approx(float(v))) for i, v in zip(index, values, strict=True) if v > 0]


def test_what_is_painted_is_found_where_it_is_painted(painter) -> None:
    painting = Painting(seed=3).paint(Brush.feature("down.1.0", 7), DISC, strength=2.0)
    before = painter.inspect(Painting(seed=3), 0.25, 0.25, N_FEATURES)["down.1.0"]
    after = painter.inspect(painting, 0.25, 0.25, N_FEATURES)["down.1.0"]

    def of(features) -> float:
        return {feature.index: feature.activation for feature in features}.get(7, 0.0)

    assert of(after) > of(before) + 1
    (seven,) = [feature for feature in after if feature.index == 7]
    assert seven.heatmap[4, 4] > seven.heatmap[12, 12]


def test_looking_changes_no_picture_and_samples_once(painter, monkeypatch) -> None:
    painting = Painting(seed=11).paint("castle", DISC)
    expected = painter.render(painting).tobytes()
    passes = []
    updates = painter.engine.updates
    monkeypatch.setattr(painter.engine, "updates", lambda plan: passes.append(plan) or updates(plan))
    for x in (0.0, 0.5, 1.0):
        painter.inspect(painting, x, 0.5)
    assert len(passes) == 1
    assert painter.render(painting).tobytes() == expected


@pytest.mark.parametrize("place", [(-0.1, 0.5), (0.5, 1.2), (float("nan"), 0.5), ("a", 0.5), (0.5, None), (True, 0.5)])
def test_a_place_outside_is_refused(painter, place) -> None:
    with pytest.raises(FeaturebrushError, match=r"[xy] is a fraction of the picture in 0..1, not"):
        painter.inspect(Painting(), *place)


def test_the_map_comes_from_the_atlas_or_else_row_by_row(painter, model_folder, tmp_path) -> None:
    bare = painter.feature_map("down.1.0")
    assert bare.xy.shape == (N_FEATURES, 2) and bare.sheet is None and (bare.icon == -1).all()
    assert len({tuple(place) for place in bare.xy.tolist()}) == N_FEATURES
    folder = shutil.copytree(model_folder, tmp_path / "storybook")
    sae = painter.sae("down.1.0")
    batch = (torch.randn(4, 8, 8, sae.cfg.d_in), torch.rand(4, 3, 32, 32))
    built = build_atlas(sae, [batch])
    built.save(folder / "sae" / "down.1.0")
    known = Painter.load(folder, "cpu").feature_map("down.1.0")
    assert np.array_equal(known.xy, built.table.columns["xy"])
    assert np.array_equal(known.icon, built.table.columns["icon"])
    assert known.sheet is not None
    with Image.open(known.sheet) as sheet:
        assert sheet.width <= known.icons_a_row * known.icon_size
    with pytest.raises(FeaturebrushError, match=f"describes {N_FEATURES} features, but the SAE has 7"):
        read_feature_map(folder / "sae" / "down.1.0", 7)


def test_the_atlas_travels_as_packed_numbers() -> None:
    painter = FakePainter(seconds=0, n_features=10_000)
    (first, second) = atlas.atlas(painter)["blocks"]

    def column(name: str, dtype: str) -> np.ndarray:
        return np.frombuffer(base64.b64decode(first[name]), dtype)

    assert (first["block"], second["block"], first["count"]) == ("down.1.0", "up.0.2", 10_000)
    labels = [first["labels"][i] for i in column("label", "<u2")[:40]]
    assert labels == [painter.label(i) for i in range(40)]
    assert column("score", "u1")[50] == round(255 * 0.5)
    xy = column("xy", "<u2").reshape(-1, 2) / 65535
    assert np.abs(xy - painter.feature_map("down.1.0").xy).max() < 1e-4
    assert np.array_equal(column("icon", "<i4"), np.arange(10_000))
    assert sum(len(value) for value in first.values() if isinstance(value, str)) < 200_000
    assert atlas.icons(painter, "up.0.2")["icons"].startswith("data:image/webp;base64,")


def test_concepts_may_be_weak(tmp_path, model_folder) -> None:
    path = tmp_path / "concepts.json"
    concepts = read_concepts(model_folder / "concepts.json")
    assert [concept.weak for concept in concepts] == [False] * 3
    entries = [concept.to_dict() for concept in concepts]
    assert not any("weak" in entry for entry in entries)
    entries[1]["weak"] = True
    path.write_text(json.dumps({"concepts": entries}))
    again = read_concepts(path)
    assert [concept.weak for concept in again] == [False, True, False]
    assert [concept.to_dict() for concept in again] == entries
    entries[1]["weak"] = "yes"
    path.write_text(json.dumps({"concepts": entries}))
    with pytest.raises(FeaturebrushError, match="concept 1: \"weak\" is true or false, not 'yes'"):
        read_concepts(path)
