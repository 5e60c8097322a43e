"""Pictures with activations, what features do, and the commands that make atlases and labels of them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import BLOCKS, N_FEATURES, SIZE, build_pipeline, build_sae

from sae import FeaturebrushError, load, save_sparsify
from sae.__main__ import main
from sae.atlas import Atlas
from sae.atlas_cli import EFFECTS_FILE
from sae.atlas_table import SHEET_FILE, AtlasTable, icon_of
from sae.denoising import Denoiser, clear_level
from sae.effects import disc, effect_icons
from sae.examples import ICON
from sae.gallery import GalleryConfig, deviation, gallery
from sae.metrics import feature_stats
from sae.sources import SOURCES, SceneBatch

concepts = ("bright",)


def batches(first: int, count: int, batch: int) -> Iterator[SceneBatch]:
    """Scene i is white in its left half if i is even, and black else."""
    for start in range(first, first + count, batch):
        numbers = range(start, min(start + batch, first + count))
        images = torch.full((len(numbers), 3, SIZE, SIZE), -1.0)
        masks = torch.zeros(len(numbers), 1, SIZE, SIZE, dtype=torch.bool)
        for i, number in enumerate(numbers):
            if number % 2 == 0:
                images[i, :, :, : SIZE // 2] = 1
                masks[i, 0, :, : SIZE // 2] = True
        yield SceneBatch(images, ["a castle" if number % 2 == 0 else "" for number in numbers], masks)


@pytest.fixture(autouse=True)
def _scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "halves", __name__)
    monkeypatch.setitem(sys.modules, "umap", None)  # whose first use takes half a minute


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    pipeline = build_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return Denoiser(pipeline, 4)


SAE = build_sae(BLOCKS[0], seed=0)
HERE: Any = __import__(__name__)


def test_scenes_come_with_what_they_are_and_prompts_with_what_was_made_of_them(denoiser: Denoiser) -> None:
    cfg = GalleryConfig(first=3, count=5, batch=2)
    of_scenes = list(gallery(denoiser, HERE, SAE, cfg))
    assert [len(shown.captions) for shown in of_scenes] == [2, 2, 1]
    (again,) = batches(3, 5, 5)
    assert torch.equal(torch.cat([shown.images for shown in of_scenes]), again.images)
    masks = torch.cat([shown.masks for shown in of_scenes if shown.masks is not None])
    assert masks.shape == (5, 8, 8, 1) and masks[1, :, :4].all() and not masks[1, :, 4:].any() and not masks[0].any()

    said = ["a castle", "a b c"]
    of_prompts = list(gallery(denoiser, said, SAE, cfg))
    assert [c for shown in of_prompts for c in shown.captions] == ["a b c", "a castle", "a b c", "a castle", "a b c"]
    pictures = torch.cat([shown.images for shown in of_prompts])
    expected = denoiser.render(["a b c"], [7], 1.0) * 2 - 1
    torch.testing.assert_close(pictures[4:], expected, rtol=1e-3, atol=1e-3)
    assert of_prompts[0].activations.shape == (2, 8, 8, 32) and of_prompts[0].masks is None


@pytest.mark.parametrize("levels", [1, 2, 5, 8])
def test_the_less_noisy_half_takes_turns(levels: int) -> None:
    assert {clear_level(levels, i) for i in range(20)} == set(range(levels // 2, levels))


@pytest.mark.parametrize("wrong", [{"first": -1}, {"count": 1}, {"steps": 0}, {"batch": 1.5}, {"size": 30}])
def test_a_gallery_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FeaturebrushError, match=next(iter(wrong))):
        GalleryConfig(**wrong)


def test_the_deviation_is_its_definition() -> None:
    x = 3 + 2 * torch.randn(4, 5, 5, 6, generator=torch.Generator().manual_seed(0))
    rows = x.flatten(0, 2)
    expected = (rows - rows.mean(0)).square().sum(1).mean().sqrt().item()
    assert deviation(x.split(1)) == pytest.approx(expected, rel=1e-5)


def test_a_disc_covers_its_area() -> None:
    assert disc(16, 16).mean().item() == pytest.approx(torch.pi * 0.3**2, rel=0.01)
    assert disc(16, 16)[0, 0] == 0 and disc(16, 16)[8, 8] == 1


def test_effects_are_pictures_with_the_feature_painted(denoiser: Denoiser) -> None:
    told: list[int] = []
    icons = effect_icons(denoiser, SAE, [4, 9, 2], 40.0, seed=5, batch=4, progress=told.append)
    assert icons.shape == (3, 2, 3, ICON, ICON) and icons.dtype == torch.uint8 and told == [4, 2]
    alone = effect_icons(denoiser, SAE, [9], 40.0, seed=5)
    assert (icons[1].int() - alone[0].int()).abs().max() <= 1
    untouched = effect_icons(denoiser, SAE, [9], 0.0, seed=5)
    assert torch.equal(untouched[0, 0], untouched[0, 1]), "of no length: the plain picture, twice"
    change = (icons.float() - untouched[0, 0].float()).abs().mean((2, 3, 4))
    assert (change > 0).all()
    assert change[:, 0].mean() > change[:, 1].mean(), "painted everywhere a feature changes more than in a disc"
    assert not denoiser.unet._forward_hooks and not any(m._forward_hooks for m in denoiser.unet.modules())


def command(name: str, folder: Path, *more: str) -> list[str]:
    return [name, str(folder), "--prompts", "halves", "--first", "0", "--count", "12", *more]


@pytest.fixture
def model(model_folder: Path, tmp_path: Path, denoiser: Denoiser) -> Path:
    """The tiny model, whose first dictionary has the statistics of these scenes."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    seen = [shown.activations for shown in gallery(denoiser, HERE, SAE, GalleryConfig(first=0, count=12))]
    SAE.with_statistics(*feature_stats(SAE, seen)[:3]).save(folder / "sae" / BLOCKS[0])
    return folder


def test_an_atlas_is_written_beside_the_dictionary(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model / "sae" / BLOCKS[0]
    labels = (folder / "atlas.json").read_bytes()
    assert main(command("atlas", folder)) == 0
    assert f"{N_FEATURES} features from 12 pictures" in capsys.readouterr().out
    table = AtlasTable.load(folder)
    assert table.images == 12 and table.grid == (8, 8)
    assert (folder / "atlas.json").read_bytes() == labels, "labels are not this command's"
    with Image.open(folder / EFFECTS_FILE) as effects, Image.open(folder / SHEET_FILE) as sheet:
        assert effects.size == (96 * ICON, ICON)
        assert icon_of(sheet, 0).size == (ICON, ICON)


def test_a_dictionary_without_statistics_is_measured_first(model: Path, tmp_path: Path, capsys: Any) -> None:
    foreign, out = tmp_path / "foreign", tmp_path / "out"
    sae = build_sae(BLOCKS[0], seed=0)
    topk = type(sae)(type(sae.cfg)(sae.cfg.d_in, sae.cfg.n_features, 8, architecture="topk"), sae.tensors())
    save_sparsify(topk, foreign)
    asked = command("atlas", foreign, "--model", str(model), "--block", BLOCKS[0], "--no-effects")
    assert main(asked) == 2
    assert "--out" in capsys.readouterr().err
    assert main([*asked, "--out", str(out)]) == 0
    measured = load(out)
    assert measured.cfg.block == BLOCKS[0] and (measured.density > 0).any()
    assert len(Atlas.load(out)) == N_FEATURES and not (out / EFFECTS_FILE).exists()
    x = torch.randn(50, sae.cfg.d_in)
    torch.testing.assert_close(measured.encode(x), topk.encode(x), rtol=1e-4, atol=1e-5)


def test_labellers_are_compared_and_the_best_label_is_kept(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model / "sae" / BLOCKS[0]
    assert main(command("atlas", folder, "--no-effects")) == 0
    before = (folder / "atlas.json").read_bytes()
    assert main(command("label", folder, "--by", "masks", "prompts", "--features", "6")) == 0
    said = capsys.readouterr().out
    assert "masks" in said and "prompts" in said and "of 6 features" in said
    assert (folder / "atlas.json").read_bytes() == before, "nothing is written unless asked for"
    assert main(command("label", folder, "--by", "masks", "--save")) == 0
    labelled = json.loads((folder / "atlas.json").read_text())["columns"]["label"]
    assert set(labelled) <= {"bright", None} and "bright" in labelled


def test_labels_that_cannot_be_made_are_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model / "sae" / BLOCKS[0]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a castle\n")
    for name in ("FEATUREBRUSH_VLM_URL", "FEATUREBRUSH_VLM_MODEL"):
        monkeypatch.delenv(name, raising=False)
    for arguments, says in (
        (command("label", folder, "--by", "clip"), "--clip"),
        (command("label", folder, "--by", "vlm"), "FEATUREBRUSH_VLM_URL"),
        (["label", str(folder), "--prompts", str(prompts), "--by", "masks"], "no masks"),
        (command("label", tmp_path, "--by", "prompts"), str(tmp_path)),
    ):
        assert main(arguments) == 2
        assert says in capsys.readouterr().err
