"""Measuring a dictionary inside its model: a tiny real pipeline, and this module as the source of scenes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from safetensors.torch import save_file
from test_sae_splice import perfect_sae
from tiny import BLOCKS, CHANNELS, SIZE, build_pipeline, build_sae

from sae import FeaturebrushError
from sae.__main__ import main
from sae.bench import EvalConfig, Kept, in_model
from sae.concepts_cli import best_of
from sae.denoising import Denoiser, grid_masks
from sae.evaluation import model_of
from sae.sources import SOURCES, SceneBatch

concepts = ("square", "left")


def batches(first: int, count: int, batch: int) -> Iterator[SceneBatch]:
    """A bright square somewhere, half of them in the left half; scene i is the same in every batch."""
    for start in range(first, first + count, batch):
        numbers = range(start, min(start + batch, first + count))
        images, masks = torch.zeros(len(numbers), 3, SIZE, SIZE), torch.zeros(len(numbers), 2, SIZE, SIZE).bool()
        for i, number in enumerate(numbers):
            x, y = (number * 7) % 20, (number * 11) % 20
            images[i, :, y : y + 12, x : x + 12] = 1
            masks[i, 0, y : y + 12, x : x + 12] = True
            masks[i, 1, :, : SIZE // 2] = x < 10
        yield SceneBatch(images, ["a castle" if number % 2 else "" for number in numbers], masks)


@pytest.fixture(autouse=True)
def _scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "squares", __name__)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    made = build_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


def ask(folder: Path, *more: str) -> list[str]:
    few = ["--prompts", "squares", "--count", "12", "--pictures", "2"]
    return ["eval", str(folder), *few, *more]


def test_everything_is_measured_in_the_model_around(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder / "sae" / BLOCKS[0]
    assert model_of(folder) == model_folder
    assert main(ask(folder, "--json", "--out", str(tmp_path / "new"), "--against", str(folder))) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["stability"] == pytest.approx(1)
    assert measured["vectors"] == 12 * 2 * 64 and len(measured["channels"]) == CHANNELS
    assert measured["measured_on"]["steps"] == 3 and measured["measured_on"]["count"] == 12
    assert measured["pictures"] == 2 and 0 < measured["spliced_ssim"] < 1 and measured["spliced_mse"] > 0
    assert [row["concept"] for row in measured["concepts"]] == ["square", "left"]
    assert measured["losses"]["examples"] == 64 * 2
    alive = sum(measured["density"]["counts"])
    assert alive + measured["density"]["dead"] == 48
    assert measured["density"]["dead"] == pytest.approx(48 * measured["dead_share"])
    assert json.loads((tmp_path / "new" / "eval.json").read_text()) == measured
    page = (tmp_path / "new" / "eval.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and ">square<" in page and "http" not in page
    assert main(ask(folder)) == 0
    text = capsys.readouterr().out
    assert "loss recovered from zero" in text and "\nsquare" in text


def test_concepts_are_looked_up_where_they_are_found_best(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for i, block in enumerate(BLOCKS):
        assert main(ask(model_folder / "sae" / block, "--out", str(tmp_path / str(i)))) == 0
        folders.append(tmp_path / str(i))
    reports = [json.loads((folder / "eval.json").read_text()) for folder in folders]
    for at, row in enumerate(best_of(reports)):
        rows = [report["concepts"][at] for report in reports]
        assert row.f1 == max(one["f1"] for one in rows)
        assert row.precision == max(one["average_precision"] for one in rows)
    capsys.readouterr()
    assert main(["concepts", *map(str, folders)]) == 0
    said = capsys.readouterr().out
    assert "of 2 concepts have a single feature" in said and any(block in said for block in BLOCKS)
    (tmp_path / "0" / "eval.json").write_text(json.dumps({**reports[0], "concepts": None}))
    assert main(["concepts", *map(str, folders)]) == 2
    assert "same scenes" in capsys.readouterr().err


def test_the_same_scenes_give_the_same_report(pipeline: Any) -> None:
    cfg = EvalConfig("squares", 5, count=9, steps=2, pictures=2, loss_scenes=3, batch=4)
    s, scenes = build_sae(BLOCKS[0], seed=0), __import__(__name__)
    one, two = in_model(s, pipeline, scenes, cfg).to_dict(), in_model(s, pipeline, scenes, cfg).to_dict()
    assert one == two
    assert one["losses"]["examples"] == 6


def test_a_perfect_dictionary_costs_nothing(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    perfect_sae(BLOCKS[1]).save(tmp_path)
    assert main(ask(tmp_path, "--json", "--model", str(model_folder), "--first", "3", "--steps", "2")) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["variance_unexplained"] == pytest.approx(0, abs=1e-9)
    assert measured["spliced_ssim"] == pytest.approx(1) and measured["spliced_mse"] == pytest.approx(0, abs=1e-9)
    losses = measured["losses"]
    assert losses["spliced"] == pytest.approx(losses["plain"]) and losses["zero"] != pytest.approx(losses["plain"])
    assert "stability" not in measured


def test_what_cannot_be_measured_is_said(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_sae(BLOCKS[0], seed=0).save(tmp_path)
    file = tmp_path / "a.safetensors"
    save_file({"x": torch.randn(50, CHANNELS)}, file)
    for arguments, says in (
        (["eval", str(tmp_path)], "lies in no model folder"),
        (["eval", str(tmp_path), "--activations", str(file), "--model", str(model_folder)], "exclude each other"),
        (ask(tmp_path, "--model", str(tmp_path)), "model_index.json"),
        (ask(tmp_path, "--model", str(model_folder), "--prompts", "sqares"), "sqares"),
        (ask(tmp_path, "--model", str(model_folder), "--count", "1"), "count"),
        (ask(tmp_path, "--model", str(model_folder), "--steps", "0"), "steps"),
    ):
        assert main(arguments) == 2
        assert says in capsys.readouterr().err
    assert main(["eval", str(tmp_path), "--activations", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "variance unexplained" in capsys.readouterr().out and (tmp_path / "out" / "eval.html").is_file()


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_target_is_what_the_scheduler_predicts(kind: str) -> None:
    pipe = build_pipeline()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    denoiser = Denoiser(pipe, 4)
    (scene,) = batches(2, 3, 3)
    prepared = denoiser.prepare(scene, 2)
    for level in range(denoiser.levels):
        asked = denoiser.noised(prepared, level)
        # The scheduler's own step to no noise at all must give the picture back from the target.
        share = pipe.scheduler.alphas_cumprod[asked.timestep]
        clean = {
            "epsilon": (asked.inputs - (1 - share) ** 0.5 * denoiser.target(asked)) / share**0.5,
            "sample": denoiser.target(asked),
            "v_prediction": share**0.5 * asked.inputs - (1 - share) ** 0.5 * denoiser.target(asked),
        }[kind]
        torch.testing.assert_close(clean, prepared.latents, rtol=1e-3, atol=1e-3)
        assert denoiser.loss(asked).shape == (3,)
        assert torch.equal(denoiser.loss(asked), denoiser.loss(denoiser.noised(prepared, level)))
    # A scene's noise does not depend on its batch.
    (last,) = batches(4, 1, 1)
    alone = denoiser.noised(denoiser.prepare(last, 4), 1).noise
    torch.testing.assert_close(alone[0], denoiser.noised(prepared, 1).noise[2])


def test_schedulers_that_scale_their_input_are_served() -> None:
    pipe = build_pipeline()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    denoiser = Denoiser(pipe, 4)
    (scene,) = batches(0, 2, 2)
    prepared = denoiser.prepare(scene, 0)
    inputs = [denoiser.noised(prepared, level).inputs for level in (0, 3, 0)]
    assert torch.equal(inputs[0], inputs[2])
    assert inputs[0].std().item() == pytest.approx(1, abs=0.3)
    assert denoiser.render(["a castle", ""], [1, 2], 1.0).shape == (2, 3, SIZE, SIZE)


def test_a_cell_shows_what_covers_enough_of_it() -> None:
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 0, :4, :4] = True
    masks[0, 1, :1, :4] = True
    grid = grid_masks(masks, 2, 2)
    assert grid.shape == (1, 2, 2, 2) and grid[0, 0, 0].tolist() == [True, False] and grid.sum() == 1


def test_what_is_kept_comes_back_each_time(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    given = [(torch.rand(2, 3, 3, 4), torch.rand(2, 3, 3, 1) < 0.5) for _ in range(3)]
    for activations, masks in given:
        kept.add(activations, masks)
    for _ in range(2):
        for (a, m), (b, n) in zip(kept, given, strict=True):
            assert torch.equal(a, b) and torch.equal(m, n)


@pytest.mark.parametrize(
    "wrong", [{"count": 1}, {"batch": 0}, {"steps": 2.5}, {"guidance": -1}, {"guidance": "1"}, {"size": 30}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FeaturebrushError, match=next(iter(wrong))):
        EvalConfig(**wrong)
