"""PaintBench's own arithmetic, on pictures and readings whose truth is known, and its methods on a tiny model."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from canvas.__main__ import main
from canvas.bench import cases, paint, pictures, scores, tuning
from canvas.bench.methods import METHODS, Bench
from canvas.bench.reader import FACTS, SIDE, WEIGHTS, Reader, ReaderNet, Reading
from canvas.bench.variants import VARIANTS, NormKept, norm_ratio
from canvas.concepts import read_concepts
from canvas.masks import Mask
from sae.errors import FeaturebrushError

CONCEPTS = ("castle", "moon")
REST = ("disc", Mask.disc(0.5, 0.5, 0.2), 0, "", "empty")
"""Of a case, behind its concept."""


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


def write_held_out(folder) -> None:
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(64, 32)).astype(np.float16) for name in ("drawn", "decoded")}
    save_arrays(features, folder / pictures.SCENES)
    said = [{"text": "a castle", "concepts": ["castle"]}, {"text": "the moon", "concepts": ["moon"]}]
    (folder / pictures.CAPTIONS).write_text(json.dumps(said))


def test_pictures_are_reported_by_every_way_of_making_them(painter, tmp_path):
    write_reader(tmp_path)
    write_held_out(tmp_path)
    held_out = pictures.HeldOut.load(tmp_path)
    asked = []

    def grey(prompt: str, seed: int) -> Image.Image:
        asked.append((prompt, seed))
        return Image.new("RGB", (64, 64), (seed % 256,) * 3)

    renders = {"model": pictures.painter_render(painter), "grey": grey}
    found = pictures.report(renders, Reader.load(tmp_path), held_out, count=3)
    assert found["pictures"] == 3
    assert [prompt for prompt, _ in asked] == ["a castle", "the moon", "a castle"]
    assert len({seed for _, seed in asked}) == 3
    assert found["grey"]["following"]["named"] == 3
    assert np.isfinite([found["floor"], found["model"]["frechet"], found["grey"]["frechet"]]).all()
    (tmp_path / pictures.CAPTIONS).write_text("[1]")
    with pytest.raises(FeaturebrushError, match="cannot be read"):
        pictures.HeldOut.load(tmp_path)
    with pytest.raises(FeaturebrushError, match=r"missing captions\.json, scenes\.safetensors"):
        pictures.HeldOut.load(tmp_path / "nowhere")


def test_the_u_net_before_distillation_makes_pictures_of_its_own(painter, tmp_path):
    with pytest.raises(FeaturebrushError, match="no U-Net from before distillation"):
        pictures.undistilled_render(in_folder(painter, tmp_path), 2, 2.5)
    unet = copy.deepcopy(painter.pipeline.unet)
    with torch.no_grad():
        unet.conv_out.weight.mul_(-1)
    unet.save_pretrained(tmp_path / "undistilled")
    render = pictures.undistilled_render(in_folder(painter, tmp_path), 2, 2.5)
    own = pictures.painter_render(painter)("a castle", 3)
    assert render("a castle", 3).size == own.size
    assert render("a castle", 3).tobytes() == render("a castle", 3).tobytes()
    assert render("a castle", 3).tobytes() != own.tobytes()
    assert pictures.painter_render(painter)("a castle", 3).tobytes() == own.tobytes()


def in_folder(painter, folder):
    """The painter as if its model lay in ``folder``."""
    found = copy.copy(painter)
    found._model = replace(painter._model, folder=folder)
    return found


def test_drawn_and_generated_pictures_are_told_apart():
    rng = np.random.default_rng(0)
    drawn, generated = rng.normal(size=(400, 8)), rng.normal(size=(100, 8)) + np.eye(8)[0] * 4
    critic = scores.Critic(drawn[:200].astype(np.float32), generated[:50].astype(np.float32))
    assert np.mean([critic.is_generated(f) for f in generated[50:].astype(np.float32)]) > 0.9
    assert np.mean([critic.is_generated(f) for f in drawn[200:].astype(np.float32)]) < 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_paints_something_else_than_nothing(variant: str, bench: Bench):
    case = cases.Case(bench.painter.concepts[0].name, "disc", Mask.disc(0.5, 0.5, 0.3), 3, "a castle", "fitting", 4.0)
    image = VARIANTS[variant](bench, case)
    assert image.tobytes() == VARIANTS[variant](bench, case).tobytes()
    assert image.tobytes() != METHODS["unpainted"](bench, case).tobytes()


def test_activations_that_are_turned_keep_their_length(bench: Bench):
    case = cases.Case(bench.painter.concepts[0].name, "disc", Mask.disc(0.5, 0.5, 0.3), 3, "", "empty", 4.0)
    assert norm_ratio(bench, replace(case, strength=0.0)) == pytest.approx(1)
    assert norm_ratio(bench, case) > 1.05
    block, edits = next(iter(bench.painter.plan(bench.painted(case)).edits.items()))
    width = bench.painter.sae(block).cfg.d_in
    h, o = torch.randn(2, 1, width, 16, 16)
    kept = NormKept(edits.sae, edits.edits, edits.vectors)
    after = o + kept.delta(h, o, 0, 2)
    assert torch.allclose(after.norm(dim=1), o.norm(dim=1), rtol=1e-4)
    assert not torch.allclose(after, o)


class Sees(tuning.Judge):
    """A judge to whom strokes arrive from a total weight of 2.5 on, and who keeps what its block keeps."""

    def unpainted(self, cases, count):
        return list(cases)[:count]

    def figures(self, brush, plain):
        came = float(sum(weight for _, weight in brush.features) >= 2.5)
        return tuning.Figures(came, came / 2, 0.9 if plain[0].seed < tuning.JUDGED else self.world, 0.0)


@pytest.mark.parametrize(("kept", "weak"), [(0.9, False), (0.5, True)])
def test_a_notch_above_the_weakest_that_arrives_is_chosen_and_judged_on_other_seeds(
    bench: Bench, kept: float, weak: bool
):
    first = bench.painter.concepts[0]
    total = sum(first.weights)
    searched, judged = (
        [cases.Case(first.name, "disc", Mask.disc(0.5, 0.5, 0.3), seed, "", "empty")]
        for seed in (tuning.SEARCHED, tuning.JUDGED)
    )
    concepts, report = tuning.tune(Sees(Bench(bench.painter), None, kept), searched, judged)
    assert concepts[1:] == list(bench.painter.concepts[1:])
    arriving = [gain for gain in (*tuning.GAINS, *tuning.LONGER) if gain * total >= 2.5]
    best = ([gain for gain in arriving if gain in tuning.GAINS] or arriving)[:2]
    assert (concepts[0].weak, bool(report[first.name]["passes"])) == (weak or not best, not weak and bool(best))
    if best:
        assert concepts[0].features == first.features
        assert sum(concepts[0].weights) == pytest.approx(best[-1] * total, rel=1e-3)


@pytest.mark.parametrize(("needed", "chosen"), [(0.6, 1.0), (1.9, 2.0), (2.1, 4.0), (3.0, 4.0)])
def test_strokes_longer_than_twice_are_a_last_resort(bench: Bench, needed: float, chosen: float):
    """The slider doubles them, and training knew none longer than 4."""
    first = bench.painter.concepts[0]
    total = sum(first.weights)

    class Needs(Sees):
        def figures(self, brush, plain):
            came = float(sum(weight for _, weight in brush.features) >= 0.99 * needed * total)
            return tuning.Figures(came, came / 2, 0.9, 0.0)

    searched, judged = ([cases.Case(first.name, *REST[:2], seed, "", "empty")] for seed in (1, 2))
    (found, *_), _ = tuning.tune(Needs(Bench(bench.painter), None, 0.9), searched, judged)
    assert sum(found.weights) == pytest.approx(chosen * total, rel=1e-3)


def test_strokes_count_where_the_thing_is_not_there_unpainted(bench: Bench):
    class EverySecond:
        read_so_far = 0

        def read(self, picture: Image.Image) -> Reading:
            self.read_so_far += 1
            return reading(disc(0.5, 0.5, 0.3) if self.read_so_far % 2 else np.zeros((SIDE, SIDE), bool))

    class Endless:
        def is_off(self, features: np.ndarray) -> bool:
            return False

    listed = [cases.Case("castle", "disc", Mask.disc(0.5, 0.5, 0.3), seed, "", "empty") for seed in range(9)]
    judge = tuning.Judge(bench, EverySecond(), Endless())  # pyright: ignore[reportArgumentType]
    assert [case.seed for case, *_ in judge.unpainted(listed, 3)] == [1, 3, 5]
    assert judge.reader.read_so_far == 6  # pyright: ignore[reportAttributeAccessIssue]
    concepts, report = tuning.tune(judge, listed, [], (3, 3))
    assert (concepts, report) == (list(bench.painter.concepts), {})


def test_what_never_arrives_stays_as_it_was(bench: Bench):
    """Though another brush covers more of the region."""

    class Covers(Sees):
        def figures(self, brush, plain):
            return tuning.Figures(0.0, min(0.1, sum(weight for _, weight in brush.features) / 100), 0.9, 0.0)

    first = bench.painter.concepts[0]
    searched, judged = ([cases.Case(first.name, *REST[:2], seed, "", "empty")] for seed in (1, 2))
    (found, *_), report = tuning.tune(Covers(bench, None, 0.9), searched, judged)
    assert (found.block, found.features, found.weights, found.weak) == (
        first.block,
        first.features,
        first.weights,
        True,
    )
    tried = [*tuning.GAINS, *tuning.LONGER, *tuning.elsewhere(bench, first)]
    assert len(report[first.name]["tried"]) == len(tried)


def test_brushes_are_tried_at_lengths_of_training_whatever_they_were_before(bench: Bench):
    first = bench.painter.concepts[0]
    trained = replace(bench, lengths={first.block: 3.0})
    stronger = replace(first, weights=tuple(5 * weight for weight in first.weights))
    for gain, one, other in zip(tuning.GAINS, *(tuning.own(trained, c) for c in (first, stronger)), strict=True):
        length = bench.vector_of(replace(first, weights=one.weights)).norm().item()
        assert length == pytest.approx(3.0 * gain, rel=1e-2)
        assert one.weights == pytest.approx(other.weights, rel=1e-2)


def test_tuned_concepts_are_read_as_they_were_written(bench: Bench, tmp_path):
    tuning.write(tmp_path / "concepts.json", bench.painter.concepts)
    assert tuple(read_concepts(tmp_path / "concepts.json")) == tuple(bench.painter.concepts)


def test_failures_are_shown_beside_the_unpainted_picture(bench: Bench):
    name = bench.painter.concepts[0].name
    listed = [cases.Case(name, "disc", Mask.disc(0.5, 0.5, 0.2), seed, "", "empty") for seed in range(3)]
    rows = [{"method": "concept", "strength": 1.0, "arrived": came} for came in (True, False, False)]
    two = paint.failures(bench, listed, rows)
    one = paint.failures(bench, listed, [rows[0], rows[0], rows[2]])
    assert two is not None and one is not None
    assert two.width == one.width
    assert two.tobytes() != one.tobytes()
    assert paint.failures(bench, listed, [rows[0]] * 3) is None


def test_the_command_says_what_is_missing(capsys):
    assert main(["bench", "paint", "--methods", "magic"]) == 2
    assert "magic" in capsys.readouterr().err
