"""PaintBench's own arithmetic, on pictures and readings whose truth is known, and its methods on a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from canvas.__main__ import main
from canvas.bench import cases, paint, pictures, scores
from canvas.bench.methods import METHODS, Bench
from canvas.bench.reader import FACTS, SIDE, WEIGHTS, Reader, ReaderNet, Reading
from canvas.masks import Mask
from sae.errors import FeaturebrushError

CONCEPTS = ("castle", "moon")


def reading(castle: np.ndarray) -> Reading:
    """A reading that sees a castle in ``castle`` [128, 128] bool, and nothing else."""
    claimed = np.stack([castle, np.zeros_like(castle)])
    return Reading(CONCEPTS, claimed.astype(np.float32) * 0.9, claimed, np.zeros(4, np.float32))


def disc(x: float, y: float, r: float) -> np.ndarray:
    return Mask.disc(x, y, r).coverage(SIDE, SIDE) > 0.5


def test_a_thing_that_fills_its_region_has_arrived():
    mask = Mask.disc(0.5, 0.5, 0.16)
    came, covered, overlap = scores.arrived(reading(disc(0.5, 0.5, 0.16)), "castle", mask)
    assert came
    assert covered == pytest.approx(1)
    assert overlap == pytest.approx(1)
    assert not scores.arrived(reading(disc(0.5, 0.5, 0.16)), "moon", mask)[0]


def test_a_thing_elsewhere_has_not():
    mask = Mask.disc(0.3, 0.5, 0.12)
    assert scores.arrived(reading(disc(0.8, 0.5, 0.12)), "castle", mask) == (False, 0.0, 0.0)


def test_a_second_one_far_away_does_not_count_against_it():
    mask = Mask.disc(0.3, 0.5, 0.12)
    alone = scores.arrived(reading(disc(0.3, 0.5, 0.1)), "castle", mask)
    with_another = scores.arrived(reading(disc(0.3, 0.5, 0.1) | disc(0.85, 0.5, 0.1)), "castle", mask)
    assert alone == with_another


def test_what_changed_outside_is_measured_outside():
    before = Image.new("RGB", (256, 256), (90, 120, 150))
    after = before.copy()
    after.paste((200, 60, 30), (0, 0, 128, 256))
    found = scores.kept(before, after, Mask.rect(0, 0, 0.5, 1))
    assert found["outside"] == pytest.approx(0)
    assert found["inside"] > 50
    assert found["ssim_outside"] > 0.95
    same = scores.kept(before, before, Mask.rect(0, 0, 0.5, 1))
    assert same["ssim_outside"] == pytest.approx(1)


def test_the_dose_is_a_rank_correlation():
    assert scores.dose([0, 1, 2], [0.1, 0.2, 0.9]) == pytest.approx(1)
    assert scores.dose([0, 1, 2], [0.9, 0.2, 0.1]) == pytest.approx(-1)
    assert scores.dose([0, 1, 2], [0.5, 0.5, 0.5]) == 0


def test_a_thing_that_follows_its_mask_has_no_error():
    nothing = reading(np.zeros((SIDE, SIDE), bool))
    first = scores.centre_of(reading(disc(0.3, 0.5, 0.1)), nothing, "castle", Mask.disc(0.3, 0.5, 0.12))
    second = scores.centre_of(reading(disc(0.55, 0.5, 0.1)), nothing, "castle", Mask.disc(0.55, 0.5, 0.12))
    assert first is not None
    assert first == pytest.approx([0.3, 0.5], abs=0.01)
    assert scores.moved_error(first, second, 0.25) < 0.2
    assert scores.moved_error(first, first, 0.25) == pytest.approx(4)
    assert scores.moved_error(first, None, 0.25) == float("inf")


def test_what_was_there_before_is_not_what_moved():
    there = reading(disc(0.3, 0.5, 0.1))
    assert scores.centre_of(there, there, "castle", Mask.disc(0.3, 0.5, 0.12)) is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 4))
def test_frechet_distance_of_shifted_sets_is_the_shift_squared(seed: int, shift: float):
    a = np.random.default_rng(seed).normal(size=(200, 5))
    assert scores.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert scores.frechet(a, a + np.array([shift, 0, 0, 0, 0])) == pytest.approx(shift**2, rel=1e-6)


def test_a_picture_off_the_world_is_told():
    rng = np.random.default_rng(0)
    world = scores.World(rng.normal(size=(500, 6)).astype(np.float32))
    assert not world.is_off(np.zeros(6, np.float32))
    assert world.is_off(np.full(6, 9, np.float32))


def test_cases_are_fixed_and_lie_on_the_canvas():
    groups = {"castle": "buildings", "moon": "sky", "sheep": "moving"}
    found = cases.full(groups, range(7, 10))
    assert found == cases.full(groups, range(7, 10))
    assert len(found) == 3 * len(cases.REGIONS) * 3
    assert all(not case.mask.is_empty for case in found)
    assert {case.context for case in found} == {"empty", "fitting", "conflicting"}
    assert all((case.prompt == "") == (case.context == "empty") for case in found)
    assert found != cases.full(groups, range(8, 11))
    assert [c.concept for c in cases.small(groups, range(2))] == ["moon", "moon", "castle", "castle", "sheep", "sheep"]
    assert len(cases.thinned(found, 10)) <= 10


@pytest.fixture(scope="module")
def bench(painter) -> Bench:
    found = Bench.of(painter)
    for concept in painter.concepts:
        found.differences.setdefault(concept.name, torch.randn(painter.sae(concept.block).cfg.d_in))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_method_renders(method: str, bench: Bench):
    name = bench.painter.concepts[0].name
    case = cases.Case(name, "disc", Mask.disc(0.5, 0.5, 0.3), 3, "a castle", "fitting")
    image = METHODS[method](bench, case)
    again = METHODS[method](bench, case)
    assert image.size == (bench.painter.defaults.size,) * 2
    assert image.tobytes() == again.tobytes()


def test_a_vector_is_painted_as_its_concept_is(bench: Bench):
    """What the baselines do with our own vector is what a painting does."""
    name = bench.painter.concepts[0].name
    case = cases.Case(name, "disc", Mask.disc(0.5, 0.5, 0.3), 3, "", "empty")
    block, vector = bench.vector(case)
    assert bench.render(case, block, vector).tobytes() == METHODS["concept"](bench, case).tobytes()


def write_reader(folder) -> None:
    torch.manual_seed(0)
    net = ReaderNet(len(CONCEPTS), (16, 32))
    folder.mkdir(exist_ok=True)
    save_file({k: v.half() for k, v in net.state_dict().items()}, folder / WEIGHTS)
    facts = {"config": {"widths": [16, 32]}, "concepts": CONCEPTS, "thresholds": dict.fromkeys(CONCEPTS, 0.5)}
    (folder / FACTS).write_text(json.dumps(facts))


def test_a_reader_reads_any_picture(tmp_path):
    write_reader(tmp_path)
    found = Reader.load(tmp_path).read(Image.new("L", (40, 40), 99))
    assert found.chances.shape == (2, SIDE, SIDE)
    assert found.of("moon").dtype == bool
    with pytest.raises(FeaturebrushError, match="castel"):
        found.of("castel")
    with pytest.raises(FeaturebrushError, match=r"missing reader\.safetensors"):
        Reader.load(tmp_path / "nowhere")


def test_the_figures_add_up(tmp_path):
    rows = [
        {"method": "concept", "concept": "castle", "strength": 1.0, "arrived": a, "covered": 0.5, "iou": 0.4,
         "ssim_outside": 0.9, "inside": 20.0, "outside": 2.0, "ratio": 10.0}
        for a in (True, True, False, True)
    ]  # fmt: skip
    assert paint.summary(rows)["concept"]["arrived"] == 0.75
    assert paint.by_concept(rows)["castle"]["arrived"] == 0.75
    paint.write(tmp_path, {"rows": rows})
    assert Image.open(tmp_path / "paintbench.png").width > 400
    assert "castle" in paint.table(paint.by_concept(rows))


def seen(castle: bool, moon: bool) -> Reading:
    claimed = np.zeros((2, SIDE, SIDE), bool)
    claimed[0, :40, :40], claimed[1, :40, :40] = castle, moon
    return Reading(CONCEPTS, claimed.astype(np.float32), claimed, np.zeros(4, np.float32))


def test_prompts_are_followed_where_what_they_name_is_seen():
    captions = [("a castle", ("castle",)), ("the moon", ("moon",)), ("a castle at night", ("castle", "moon"))]
    all_right = [seen(True, False), seen(False, True), seen(True, True)]
    found = pictures.following(all_right, captions)
    assert (found["named"], found["found"], found["by_chance"]) == (4, 1.0, 0.0)
    assert found["concepts"] == {"castle": [2, 2], "moon": [2, 2]}
    everywhere = pictures.following([seen(True, True)] * 3, captions)
    assert (everywhere["found"], everywhere["by_chance"]) == (1.0, 1.0)
    assert pictures.following([seen(False, False)] * 3, captions)["found"] == 0


def test_a_few_pixels_are_no_thing():
    few = seen(False, False)
    few.claimed[0, 0, :5] = True
    assert not pictures.shows(few, "castle")


def test_pictures_are_reported_at_both_steps(painter, tmp_path):
    write_reader(tmp_path)
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(64, 32)).astype(np.float16) for name in ("drawn", "decoded")}
    save_arrays(features, tmp_path / pictures.SCENES)
    said = [{"text": "a castle", "concepts": ["castle"]}, {"text": "the moon", "concepts": ["moon"]}]
    (tmp_path / pictures.CAPTIONS).write_text(json.dumps(said))
    held_out = pictures.HeldOut.load(tmp_path)
    found = pictures.report(painter, Reader.load(tmp_path), held_out, count=3, slow_steps=2)
    assert found["pictures"] == 3
    assert found["model"]["steps"] == painter.defaults.steps
    assert found["slow"]["steps"] == 2
    assert found["slow"]["following"]["named"] == 3
    assert np.isfinite([found["floor"], found["model"]["frechet"], found["slow"]["frechet"]]).all()
    (tmp_path / pictures.CAPTIONS).write_text("[1]")
    with pytest.raises(FeaturebrushError, match="cannot be read"):
        pictures.HeldOut.load(tmp_path)
    with pytest.raises(FeaturebrushError, match=r"missing captions\.json, scenes\.safetensors"):
        pictures.HeldOut.load(tmp_path / "nowhere")


def test_the_command_says_what_is_missing(capsys):
    assert main(["bench", "paint", "--methods", "magic"]) == 2
    assert "magic" in capsys.readouterr().err
