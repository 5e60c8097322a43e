from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import BLOCKS, N_FEATURES, SIZE

from canvas import Brush, FeaturebrushError, Mask, Painter, Painting
from canvas.engine import Cancelled
from canvas.painter import _Newest

DISC = Mask.disc(0.4, 0.6, 0.3)


def test_what_a_painter_knows(painter) -> None:
    assert painter.model == "storybook"
    assert painter.blocks == BLOCKS
    assert painter.groups == ("things",)
    assert (painter.defaults.steps, painter.defaults.guidance, painter.defaults.size) == (3, 1.0, SIZE)
    assert [concept.name for concept in painter.concepts] == ["castle", "wave", "dusk"]
    assert painter.concepts[0].weights == (1.0, 0.5, -0.25)
    features = painter.features("down.1.0")
    assert len(features) == N_FEATURES
    assert (features[5].index, features[5].label, features[5].score) == (5, "thing 5", 0.5)
    assert features[5].mean == pytest.approx(float(painter._model.saes["down.1.0"].mean[5]), rel=1e-4)


def test_features_without_an_atlas_have_the_dictionarys_statistics(model_folder, tmp_path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "storybook")
    labelled = Painter.load(folder, "cpu").features("down.1.0")
    (folder / "sae" / "down.1.0" / "atlas.json").unlink()
    bare = Painter.load(folder, "cpu").features("down.1.0")
    assert [replace(feature, label="", score=0.0) for feature in labelled] == list(bare)


@pytest.mark.parametrize("name", ["castle", "Castle", " fortress ", "strong hold", "STRONG_HOLD"])
def test_a_concept_is_found_by_its_names(painter, name) -> None:
    assert painter.concept(name).name == "castle"


def test_icons_are_cut_from_the_sheet(painter) -> None:
    for name, icon in (("castle", 0), ("wave", 9)):
        image = painter.icon(name)
        assert (image.size, image.mode) == ((96, 96), "RGB")
        assert {image.getpixel((0, 0)), image.getpixel((95, 95))} == {(icon * 16, 255 - icon * 16, 0)}
    with pytest.raises(FeaturebrushError, match="'dusk' has no icon"):
        painter.icon("dusk")


def test_a_picture_is_rgb_of_the_models_size(painter) -> None:
    image = painter.render(Painting().paint("castle", DISC))
    assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_layers_without_effect_change_nothing(painter, guidance) -> None:
    start = Painting(prompt="a castle", seed=3, guidance=guidance)
    expected = painter.render(start).tobytes()
    idle = (
        start.paint("castle", DISC, visible=False)
        .paint("castle", Mask.empty(), mode="replace")
        .paint("wave", DISC, strength=0.0)
        .paint("wave", DISC, strength=1.0, mode="scale")
    )
    assert painter.render(idle).tobytes() == expected
    assert painter.plan(idle).edits == {}


@pytest.mark.parametrize("mode", ["add", "replace", "erase", "scale"])
@pytest.mark.parametrize(
    "brush", [Brush.concept("castle"), Brush.feature("up.0.1", 3), Brush.mix("down.1.0", {1: 2.0, 5: 1.0})]
)
def test_every_mode_and_brush_changes_the_picture_and_can_be_undone(painter, mode, brush) -> None:
    start = Painting(seed=3)
    before = painter.render(start).tobytes()
    painted = start.paint(brush, Mask.full(), strength=3.0, mode=mode)
    assert painter.render(painted).tobytes() != before
    assert painter.render(painted.without_layer(0)).tobytes() == before


def test_equal_paintings_give_equal_pictures(painter) -> None:
    painting = Painting(seed=3, guidance=2.0).paint("castle", DISC, 2.0).paint("wave", ~DISC, mode="replace")
    first = painter.render(painting).tobytes()
    painter.render(Painting(seed=4).paint("castle", DISC))
    assert painter.render(Painting.from_json(painting.to_json())).tobytes() == first


def test_add_layers_commute(painter) -> None:
    start = Painting(seed=3)
    a = painter.render(start.paint("castle", DISC).paint("dusk", Mask.full()))
    b = painter.render(start.paint("dusk", Mask.full()).paint("castle", DISC))
    assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1


def test_a_synonym_paints_its_concept(painter) -> None:
    assert painter.render(Painting().paint("fortress", DISC)) == painter.render(Painting().paint("castle", DISC))


@pytest.mark.parametrize(
    ("painting", "says"),
    [
        (Painting().paint("casle", DISC), "unknown concept 'casle': did you mean 'castle'"),
        (Painting().paint("casle", DISC, visible=False), "unknown concept"),
        (Painting().paint(Brush.feature("down.1.1", 3), DISC), "unknown block 'down.1.1': did you mean 'down.1.0'"),
        (Painting().paint(Brush.feature("down.1.0", N_FEATURES), DISC), f"feature {N_FEATURES} .* 0..{N_FEATURES - 1}"),
        (Painting(model="sdxl-turbo"), "'sdxl-turbo'; 'storybook' is loaded"),
        ("sky", "a Painting is expected, not str"),
    ],
)
def test_what_the_model_does_not_have_is_refused(painter, painting, says) -> None:
    for use in (painter.check, painter.render):
        with pytest.raises(FeaturebrushError, match=says):
            use(painting)


def test_features_of_an_unknown_block_are_refused(painter) -> None:
    with pytest.raises(FeaturebrushError, match="unknown block 'mid.0'"):
        painter.features("mid.0")


def test_rendering_can_be_stopped(painter) -> None:
    with pytest.raises(Cancelled):
        painter.render(Painting(), should_stop=lambda: True)


@pytest.mark.parametrize(
    ("name", "says"),
    [("storybok", "unknown model 'storybok': did you mean 'storybook'"), ("no/such/folder", "no model folder")],
)
def test_an_unknown_model_is_refused(name, says) -> None:
    with pytest.raises(FeaturebrushError, match=says):
        Painter.load(name)


def test_an_unusable_device_is_refused(model_folder) -> None:
    with pytest.raises(FeaturebrushError, match="'teapot'"):
        Painter.load(model_folder, "teapot")


@pytest.mark.parametrize(
    "part", ["unet", "vae", "tokenizer", "model_index.json", "featurebrush.json", "concepts.json", "icons.webp"]
)
def test_a_missing_part_is_named(model_folder, tmp_path, part) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "storybook")
    shutil.rmtree(folder / part) if (folder / part).is_dir() else (folder / part).unlink()
    with pytest.raises(FeaturebrushError, match=f"not complete: missing {part}"):
        Painter.load(folder, "cpu")


def test_a_missing_or_wrong_dictionary_is_named(model_folder, tmp_path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "storybook")
    shutil.rmtree(folder / "sae" / "up.0.1")
    with pytest.raises(FeaturebrushError, match="up.0.1"):
        Painter.load(folder, "cpu")
    shutil.copytree(folder / "sae" / "down.1.0", folder / "sae" / "up.0.1")
    with pytest.raises(FeaturebrushError, match="for the block 'down.1.0', not 'up.0.1'"):
        Painter.load(folder, "cpu")


@pytest.mark.parametrize(
    ("file", "key", "value", "says"),
    [
        ("featurebrush.json", "defaults", {"steps": 0, "guidance": 1.0, "size": 32}, '"steps" is .* not 0'),
        ("featurebrush.json", "defaults", {"steps": 3, "guidance": 1.0, "size": 33}, '"size" is .* not 33'),
        ("featurebrush.json", "blocks", ["down.9.0"], "unknown block 'down.9.0'"),
        ("concepts.json", "concepts", {}, '"concepts", a list'),
        ("concepts.json", "concepts", [{"name": "a"}], 'concept 0: "features"'),
        (
            "concepts.json",
            "concepts",
            [{"name": "a", "block": "down.1.0", "features": [N_FEATURES], "weights": [1]}],
            f"'a' has a feature {N_FEATURES}",
        ),
        (
            "concepts.json",
            "concepts",
            [{"name": "a", "block": "mid.0", "features": [1], "weights": [1]}],
            "'mid.0' without an SAE",
        ),
    ],
)
def test_a_wrong_file_is_named(model_folder, tmp_path, file, key, value, says) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "storybook")
    document = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**document, key: value}))
    with pytest.raises(FeaturebrushError, match=says):
        Painter.load(folder, "cpu")


def test_a_model_from_a_path_is_called_after_its_folder(model_folder: Path, tmp_path: Path) -> None:
    painter = Painter.load(shutil.copytree(model_folder, tmp_path / "mine"), "cpu")
    painter.check(Painting(model="mine"))
    with pytest.raises(FeaturebrushError, match="'storybook'; 'mine' is loaded"):
        painter.check(Painting())


def test_a_stream_ends_with_the_last_painting(painter) -> None:
    paintings = [Painting(seed=s, steps=1).paint("castle", DISC) for s in range(20)]
    images = [image.tobytes() for image in painter.stream(paintings)]
    every = [painter.render(painting).tobytes() for painting in paintings]
    assert 1 <= len(images) <= len(every)
    assert images[-1] == every[-1]
    places = [every.index(image) for image in images]
    assert places == sorted(set(places))


def test_a_stream_of_slow_paintings_drops_none(painter) -> None:
    taken = threading.Semaphore(1)

    def slow() -> Iterator[Painting]:
        for seed in range(3):
            taken.acquire()
            yield Painting(seed=seed, steps=1)

    images = []
    for image in painter.stream(slow()):
        images.append(image.tobytes())
        taken.release()
    assert images == [painter.render(Painting(seed=seed, steps=1)).tobytes() for seed in range(3)]


def test_an_empty_stream_is_empty(painter) -> None:
    assert list(painter.stream([])) == []


def test_errors_of_the_source_come_out_after_its_last_painting(painter) -> None:
    def failing() -> Iterator[Painting]:
        yield Painting(seed=1, steps=1)
        yield Painting(seed=2, steps=1)
        raise ZeroDivisionError("source")

    images = []
    with pytest.raises(ZeroDivisionError, match="source"):
        for image in painter.stream(failing()):
            images.append(image.tobytes())
    assert images[-1] == painter.render(Painting(seed=2, steps=1)).tobytes()


def test_the_newest_wins_and_the_last_is_never_dropped() -> None:
    read = threading.Event()

    def source() -> Iterator[int]:
        yield from range(100)
        read.set()

    newest = _Newest(source())
    assert read.wait(10)
    assert list(newest) == [99]


def test_a_consumer_that_stops_early_lets_the_source_go(painter) -> None:
    closed = threading.Event()

    def endless() -> Iterator[Painting]:
        try:
            while True:
                time.sleep(0.005)
                yield Painting(steps=1)
        finally:
            closed.set()

    stream = painter.stream(endless())
    next(stream)
    stream.close()
    assert closed.wait(10)


def test_guidance_counts_where_there_is_something_to_guide(painter) -> None:
    defaults = replace(painter.defaults, guidance=2.5)
    painter = Painter(replace(painter._model, defaults=defaults))
    plain = Painting(model=painter.model, seed=3)
    assert painter.guidance(plain) == 1.0
    assert painter.guidance(plain.replace(prompt="a castle")) == 2.5
    painted = plain.paint("castle", DISC)
    assert painter.guidance(painted) == 2.5
    assert painter.guidance(painted.with_layer(0, visible=False)) == 1.0
    assert painter.guidance(painted.replace(guidance=1.5)) == 1.5


@pytest.mark.parametrize("prompt", ["", "a castle"])
@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (3, 1.0), (3, 3.0)])
def test_beyond_reach_the_picture_stays_to_the_last_bit(painter, prompt, steps, guidance) -> None:
    plain = Painting(model=painter.model, prompt=prompt, seed=3, steps=steps, guidance=guidance)
    painted = plain.paint("castle", Mask.rect(0, 0, 0.25, 0.25), 3.0)
    before, kept, free = (
        painter.engine.latents(painter.plan(p)) for p in (plain, painted, painted.replace(keep=False))
    )
    half = before.shape[-1] // 2
    changed = (before != kept).any(1)[0]
    assert changed[: half // 2, : half // 2].any()
    assert not changed[half:, :].any() and not changed[:, half:].any()
    assert (before != free).any(1)[0][half:, half:].any(), "strokes that are not kept in are felt everywhere"


def test_a_stroke_over_everything_is_bound_by_nothing(painter) -> None:
    painted = Painting(model=painter.model, seed=3, steps=2).paint("castle", Mask.full())
    kept, free = (painter.engine.latents(painter.plan(p)) for p in (painted, painted.replace(keep=False)))
    assert torch.equal(kept, free)
