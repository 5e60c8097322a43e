"""The training stages, each on almost nothing: they run, resume, and end in a pipeline that diffusers loads."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPTokenizer

from canvas import Painter
from canvas.bench.reader import SIDE, Reader
from canvas.storybook import data, dictionary, distil, export, generator, reader, restore, text, training, vae
from canvas.storybook.muon import Muon, orthogonalise
from canvas.storybook.vocabulary import CONCEPTS, GROUPS, OBJECTS
from canvas.storybook.world import draw_scene
from sae.atlas_table import AtlasTable
from sae.bench import EvalConfig
from sae.errors import FeaturebrushError
from sae.gallery import GalleryConfig

TINY_VAE = vae.VaeConfig(width=12, scenes=4, crop=32, batch=2)
TINY = generator.GeneratorConfig(width=32, outer_width=16, layers=2, depth=1, batch=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    vae.train(folder, 0.03, TINY_VAE, "cpu")
    data.prepare(folder, 4, "cpu", portion=4, batch=3, collages=2)
    generator.train(folder, 0.05, TINY, "cpu")
    return folder


def test_the_run_ends_in_a_folder_that_diffusers_loads(run, tmp_path):
    export.export(run, tmp_path / "model", "python -m canvas.storybook train", held_out=4)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(
        "a castle", num_inference_steps=2, height=256, width=256, generator=torch.Generator().manual_seed(0)
    ).images[0]
    assert image.size == (256, 256)
    for part in ("unet", "vae", "text_encoder"):
        facts = json.loads((tmp_path / "model" / part / "provenance.json").read_text())
        assert {"command", "commit", "seed", "licence", "metrics"} <= set(facts)


def test_training_goes_on_where_it_stopped(run):
    before = torch.load(run / "generator.pt", weights_only=True)
    generator.train(run, before["elapsed"] / 60 + 0.03, TINY, "cpu")
    after = torch.load(run / "generator.pt", weights_only=True)
    assert after["step"] > before["step"]
    assert after["elapsed"] > before["elapsed"]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 3))
def test_the_one_step_that_comes_to_where_several_did(seed, steps, substeps):
    """Through every level, pure noise and no noise among them."""
    signal = distil.levels(steps, substeps).signal.double()
    assert signal[0, 0] == pytest.approx(0, abs=1e-6) and signal[-1, -1] == 1
    source = torch.Generator().manual_seed(seed)
    before, clean = (torch.randn(steps, 3, 2, 2, generator=source, dtype=torch.float64) for _ in range(2))
    here, there = (signal[:, i].view(-1, 1, 1, 1) for i in (0, -1))
    after = distil.step(before, clean, here, there)
    torch.testing.assert_close(distil.clean_between(before, after, here, there), clean)


def test_levels_are_the_samplers_own():
    scheduler = generator.build_scheduler()
    scheduler.set_timesteps(4)
    found = distil.levels(4, 2)
    assert found.times[:, 0].tolist() == scheduler.timesteps.tolist()
    sample, clean = torch.randn(2, 1, 3, 2, 2)
    for i, t in enumerate(scheduler.timesteps):
        expected = scheduler.step(clean, t, sample).prev_sample
        here, there = (found.signal[i, k].view(1, 1, 1, 1) for k in (0, -1))
        torch.testing.assert_close(distil.step(sample, clean, here, there), expected)


def test_a_student_of_one_guided_step_need_not_learn_where_guidance_does_nothing(run):
    """Without caption and strokes, and one step for one, teacher and student agree from the start."""
    teacher, tokenizer, cfg = generator.trained(run)
    stream = generator.Stream(run, tokenizer, cfg, 4)
    batch = stream.batch(0)
    empty = torch.from_numpy(stream.empty)
    silent = batch._replace(ids=empty.expand_as(batch.ids), strokes=torch.zeros_like(batch.strokes))
    teacher.eval()
    one = distil.Distillation(teacher, teacher["unet"], empty, distil.DistilConfig(substeps=1))
    assert one(silent).item() == pytest.approx(0, abs=1e-9)
    assert one(batch).item() > 1e-6


def test_losses_count_more_on_what_was_pasted_and_on_small_things(run):
    _, tokenizer, cfg = generator.trained(run)
    pasted = np.load(run / "pasted.npy")
    coverage = np.load(run / "coverage.npy") / 255
    stream = generator.Stream(run, tokenizer, cfg, len(pasted))
    batch = stream.batch(0)
    order = np.random.default_rng(0).permutation(len(pasted))
    assert set(order) == set(range(len(pasted))) and (pasted != data.NOTHING).sum() == 4
    weight = generator.emphasis(batch, 3.0, 32)
    for place, scene in enumerate(order):
        shown = np.zeros((16, 16), bool) if pasted[scene] == data.NOTHING else coverage[scene, pasted[scene]] >= 0.3
        assert np.array_equal(batch.pasted[place, 0].numpy(), shown)
        small = [c for c, name in enumerate(CONCEPTS) if name in OBJECTS and (coverage[scene, c] >= 0.3).sum() <= 40]
        told = shown | (coverage[scene, small] >= 0.3).any(0)
        assert np.array_equal(weight[place, 0, ::2, ::2].numpy(), np.where(told, 3.0, 1.0))


def test_the_teacher_is_shown_no_longer_stroke_than_it_knows(run, monkeypatch):
    teacher, tokenizer, cfg = generator.trained(run)
    stream = generator.Stream(run, tokenizer, cfg, 4)
    batch = stream.batch(0)
    batch = batch._replace(strokes=4.0 * (batch.strokes > 0))
    shown: list[torch.Tensor] = []
    painted = distil.painted
    monkeypatch.setattr(distil, "painted", lambda unet, strokes: [shown.append(strokes), painted(unet, strokes)][1])
    teacher.eval()
    distil.Distillation(teacher, teacher["unet"], torch.from_numpy(stream.empty), distil.DistilConfig(longest=2.0))(
        batch
    )
    to_teacher, to_student = shown
    silent, laid = to_teacher.chunk(2)
    assert not silent.any() and laid.any()
    torch.testing.assert_close(to_student, 2 * laid)


def test_guidance_grows_with_a_stroke_until_it_is_whole():
    strokes = torch.zeros(3, len(CONCEPTS), 16, 16)
    strokes[:, 2, 4:7, 5:9] = torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    half, whole, double = distil.near(strokes, 32)
    assert torch.allclose(2 * half, whole) and torch.equal(whole, double)
    assert whole.max() == 1 and whole[0, 10, 12] == 1 and not whole[0, 20:].any()


def test_a_generator_is_kept_in_the_middle_of_its_training_and_goes_on(run, tmp_path):
    model = tmp_path / "model"
    export.export(run, model, "python -m canvas.storybook train", held_out=4)
    restore.keep(run, model, "python -m canvas.storybook train generator")
    restore.restore(model, tmp_path / "again")
    was, again = (generator.trained(folder)[0].state_dict() for folder in (run, tmp_path / "again"))
    for name, value in was.items():
        assert torch.allclose(again[name], value, rtol=1e-3, atol=1e-3), name
    facts = json.loads((model / restore.TRAINING / "provenance.json").read_text())
    assert facts["metrics"]["samples"] == torch.load(run / "generator.pt", weights_only=True)["samples"]
    export.export(run, model, "python -m canvas.storybook train", held_out=4)
    assert not (model / restore.TRAINING).exists(), "what is finished is no longer in training"


def test_a_distilled_run_ships_student_and_teacher_and_is_restored_from_them(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    distil.train(tmp_path / "run", 0.04, distil.DistilConfig(batch=4), "cpu")
    model = tmp_path / "model"
    export.export(tmp_path / "run", model, "python -m canvas.storybook train", held_out=4, pictures=2)
    student, teacher = (
        UNet2DConditionModel.from_pretrained(model / name).state_dict() for name in ("unet", restore.UNDISTILLED)
    )
    assert any(not torch.equal(student[name], teacher[name]) for name in student)
    facts = json.loads((model / "unet" / "provenance.json").read_text())["metrics"]
    assert facts["samples"] > 0 and set(facts["fidelity"]) == {"student", "teacher", "teacher_unguided"}

    folder = model / "sae" / generator.COMPOSITION
    folder.mkdir(parents=True)
    (folder / "differences.json").write_text(json.dumps({"castle": [1.0] + [0.0] * 31}))
    (folder / "provenance.json").write_text(json.dumps({"metrics": {"stroke_length": 5.0}}))
    restore.restore(model, tmp_path / "again")
    modules, _, _ = generator.trained(tmp_path / "again")
    for name, value in modules["unet"].state_dict().items():
        assert torch.equal(value, teacher[name].to(value)), "training goes on from the teacher"
    assert not any(p.any() for p in modules["head"].parameters()), "a new head does not move what it reads"
    strokes = torch.zeros(1, len(CONCEPTS), 16, 16)
    strokes[0, CONCEPTS.index("castle"), 2, 3] = 2
    painted = modules["palette"].paint(strokes)[0]
    assert painted[0, 2, 3].item() == pytest.approx(10) and painted.abs().sum().item() == pytest.approx(10)
    with pytest.raises(FeaturebrushError, match="there already"):
        restore.restore(model, tmp_path / "again")
    data.prepare(tmp_path / "again", 6, "cpu", portion=4, batch=3)
    before = torch.load(tmp_path / "again" / "generator.pt", weights_only=True)
    generator.train(tmp_path / "again", before["elapsed"] / 60 + 0.03, TINY, "cpu")
    assert torch.load(tmp_path / "again" / "generator.pt", weights_only=True)["step"] > before["step"]


def test_a_reader_is_trained_on_scenes_and_collages_and_goes_on_from_what_is_shipped(run, tmp_path):
    cfg = reader.ReaderConfig(widths=(16, 16), batch=2, scenes=2, collages=2, checked=4, judged=4, compared=4)
    shutil.copytree(run / "vae", tmp_path / "vae")
    figures = reader.train(tmp_path, tmp_path / "reader", 0.02, "cpu", cfg)
    assert 1 <= len(figures["iou_pasted"]) - 1 <= 4, "one concept was pasted into each of four collages"
    read = Reader.load(tmp_path / "reader").read(Image.new("RGB", (256, 256)))
    assert read.chances.shape == (len(CONCEPTS), SIDE, SIDE) and np.isfinite(read.features).all()

    export.write_provenance(tmp_path / "reader", "python -m canvas.storybook train reader", 0, figures)
    done = figures["training"]
    restore.restore_reader(tmp_path / "reader", tmp_path / "again")
    shutil.copytree(run / "vae", tmp_path / "again" / "vae")
    more = reader.train(tmp_path / "again", tmp_path / "more", done["minutes"] + 0.02, "cpu", cfg)["training"]
    assert more["steps"] > done["steps"]
    again = torch.load(tmp_path / "again" / reader.CHECKPOINT, weights_only=True)
    assert again["began"][0] == done["steps"]


def test_latents_of_the_mirror_image_lie_behind_the_others(run):
    latents = np.load(run / "latents.npy")
    captions = json.loads((run / "captions.json").read_text())
    assert latents.shape == (12, 8, 32, 32)
    assert len(captions) == 6
    again = data.encode(
        vae.AutoencoderTiny.from_pretrained(run / "vae").eval(), vae._draw(0)[None, :, ::-1].copy(), "cpu"
    )
    assert np.allclose(latents[6], again[0], atol=2e-2)
    pasted = np.load(run / "pasted.npy")
    assert (pasted[:4] == data.NOTHING).all() and (pasted[4:6] >= 0).all()
    assert np.array_equal(pasted[:6], pasted[6:])


def test_what_was_pasted_into_a_collage_is_always_painted(run):
    shape = generator.trained(run)[2]
    stream = generator.Stream(run, CLIPTokenizer.from_pretrained(run / "tokenizer"), shape, 12)
    for epoch in range(5):
        order = np.random.default_rng(epoch).permutation(12)
        painted = stream.batch(epoch).strokes.amax((2, 3)) > 0
        for row, concept in zip(painted, stream.pasted[order], strict=True):
            assert concept == data.NOTHING or row[concept]


def test_coverage_is_the_scenes_own_and_mirrored_with_it(run):
    coverage = np.load(run / "coverage.npy")
    scene = draw_scene(2)
    assert coverage.shape == (12, len(CONCEPTS), 16, 16)
    assert np.array_equal(coverage[2], np.round(255 * data.coverage_of(scene.masks)).astype(np.uint8))
    assert np.array_equal(coverage[8], coverage[2][..., ::-1])


def test_decoder_training_leaves_the_latents_alone(run):
    before = vae.AutoencoderTiny.from_pretrained(run / "vae")
    vae.train(run, 0.02, TINY_VAE, "cpu", decoder_only=True)
    after = vae.AutoencoderTiny.from_pretrained(run / "vae")
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.encoder.state_dict().values(), after.encoder.state_dict().values(), strict=True)
    )
    assert any(
        not torch.equal(a, b)
        for a, b in zip(before.decoder.state_dict().values(), after.decoder.state_dict().values(), strict=True)
    )
    assert after.config.scaling_factor == before.config.scaling_factor


def test_the_scheduler_ends_in_pure_noise():
    assert generator.build_scheduler().alphas_cumprod[-1] == pytest.approx(0, abs=1e-6)


def test_the_tokenizer_is_clips_and_survives_saving(tmp_path):
    tokenizer = text.train_tokenizer(["a castle at night", "two sheep in a meadow, watercolour"] * 20)
    text.save_tokenizer(tokenizer, tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    ids = tokenizer("A castle, at night")["input_ids"]
    assert ids == again("a castle, at night")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer("castle")["input_ids"][1:-1] == [tokenizer.convert_tokens_to_ids("castle</w>")]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(2, 24), st.integers(2, 24), st.integers(0, 999))
def test_orthogonalising_brings_singular_values_near_one(n, rows, cols, seed):
    g = torch.randn(n, rows, cols, generator=torch.Generator().manual_seed(seed))
    values = torch.linalg.svdvals(g)
    found = torch.linalg.svdvals(orthogonalise(g))
    large = values > 0.05 * values.amax(1, keepdim=True)
    assert found[large].min() > 0.3
    assert found.max() < 1.4


def test_muon_learns_a_linear_map():
    torch.manual_seed(0)
    target, weight = torch.randn(8, 8), torch.nn.Parameter(torch.zeros(8, 8))
    stepper = Muon([weight], 0.3)
    x = torch.randn(64, 8)
    for step in range(200):
        stepper.param_groups[0]["lr"] = 0.3 * (1 - step / 200)
        stepper.zero_grad()
        loss = (x @ weight.T - x @ target.T).square().mean()
        loss.backward()
        stepper.step()
    assert loss.item() < 0.05


def test_a_budget_counts_time_and_lowers_the_rate():
    budget = training.Budget(0.01)
    rates = [budget.learning_rate(1.0, warmup=1) for _ in budget]
    assert budget.progress == 1.0
    assert rates[-1] <= rates[0]
    spent = training.Place(100, 60.0)
    assert training.Budget(1.0, spent).learning_rate(1.0) == pytest.approx(0.01)


def test_a_budget_that_is_extended_warms_up_again():
    place = training.Place(100, 60.0).extended()
    first, last = training.Budget(2.0, place), training.Budget(2.0, training.Place(300, 120.0, place.began))
    assert first.progress == 0 and last.progress == 1
    assert first.learning_rate(1.0, warmup=1) == pytest.approx(training.RESTART)
    assert first.learning_rate(1.0, warmup=10) == pytest.approx(training.RESTART / 10)
    assert last.learning_rate(1.0) == pytest.approx(0.01 * training.RESTART)


def test_more_minutes_extend_what_was_spent_and_a_kill_does_not(tmp_path):
    def begun(minutes: float, elapsed: float | None = None) -> tuple[int, float]:
        checkpoint = tmp_path / "checkpoint.pt"
        if elapsed is not None:  # as if killed there
            state = torch.load(checkpoint, weights_only=True)
            torch.save(state | {"elapsed": elapsed}, checkpoint)
        net = torch.nn.Linear(2, 2)
        training.fit(
            net, [(torch.optim.Adam(net.parameters()), 1e-3)], lambda _: {"loss": net(torch.ones(1, 2)).sum()}, minutes,
            checkpoint=checkpoint, device="cpu", batch=1,
        )  # fmt: skip
        return tuple(torch.load(checkpoint, weights_only=True)["began"])

    assert begun(0.002) == (0, 0.0)
    assert begun(0.002, elapsed=0.06) == (0, 0.0)
    step, seconds = begun(0.004)
    assert step > 0 and seconds == pytest.approx(0.12, abs=0.05)
    assert begun(0.004, elapsed=0.2) == (step, seconds)


def test_dictionaries_are_made_of_a_model_folder_and_a_painter_loads_it(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)  # whose first use takes half a minute
    folder = tmp_path / "model"
    export.export(run, folder, "python -m canvas.storybook train", held_out=4)
    few = dictionary.DictionaryConfig(
        n_features=24,
        k=4,
        steps=20,
        scenes=4,
        share=0.25,
        label_scenes=8,
        atlas=GalleryConfig(first=5, count=4, steps=2, batch=4),
        effects=False,
        measured=EvalConfig(first=9, count=4, steps=2, pictures=1, loss_scenes=2, batch=4),
    )
    dictionary.make(folder, tmp_path / "run", "cpu", "python -m canvas.storybook train", few)
    assert not list((tmp_path / "run").iterdir()), "activations and checkpoints are gone when all is done"
    painter = Painter.load(folder, "cpu")
    assert painter.blocks == dictionary.BLOCKS
    concepts = {concept.name for concept in painter.concepts}
    assert len(concepts) > 10 and concepts <= set(CONCEPTS)
    for block in painter.blocks:
        at = folder / "sae" / block
        assert len(AtlasTable.load(at)) == len(painter.features(block)) == 24
        facts = json.loads((at / "provenance.json").read_text())["metrics"]
        measured = json.loads((at / "eval.json").read_text())
        assert facts["variance_unexplained"] == pytest.approx(measured["variance_unexplained"], abs=1e-4)
        assert facts["vectors"] >= 4 * export.STEPS * 64 and facts["vectors"] % (export.STEPS * 64) == 0
        assert set(facts["best_feature_f1"]) == set(CONCEPTS)
        styles = set(GROUPS["style"])
        made = {dictionary.COMPOSITION: concepts - styles, dictionary.LATE: concepts & styles}.get(block, set())
        assert set(json.loads((at / "differences.json").read_text())) == made
