"""Refining: brushes at right angles, strokes where nothing is, a critic, and what training may not touch."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import build_sae
from torch.nn import functional as F

from canvas.storybook import data, dictionary, distil, export, generator, refine, restore, strokes, vae
from canvas.storybook.critic import Critic, Rarity, critic_loss, strongest
from canvas.storybook.refine import RefineConfig, orthogonal
from canvas.storybook.vocabulary import CONCEPTS, INDEX, STYLES
from sae import load
from sae.errors import FeaturebrushError

TINY = generator.GeneratorConfig(width=32, outer_width=16, layers=2, depth=1, batch=4)
FEW = RefineConfig(paintings=2, scenes=2, drawn=2)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_directions_come_to_stand_at_right_angles_and_stay_themselves(n, seed):
    source = torch.Generator().manual_seed(seed)
    common = 2 * torch.randn(24, generator=source, dtype=torch.float64)
    given_ = F.normalize(common + torch.randn(n, 24, generator=source, dtype=torch.float64), dim=1)
    found = orthogonal(given_, 1e-4)
    assert torch.allclose(found.norm(dim=1), torch.ones(n, dtype=torch.float64))
    alike, before = found @ found.T - torch.eye(n), given_ @ given_.T - torch.eye(n)
    assert alike.abs().max() < 0.2 * before.abs().max() + 1e-6
    nearest = (found @ given_.T).argmax(1)
    assert torch.equal(nearest, torch.arange(n))


def test_directions_at_right_angles_stay():
    rows = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0][:5]
    assert torch.allclose(orthogonal(rows), rows, atol=1e-6)


def coverage_with_castle_and_sky() -> np.ndarray:
    coverage = np.zeros((3, len(CONCEPTS), 16, 16), np.uint8)
    coverage[0, INDEX["castle"], 8:12, 4:9] = 255
    coverage[1:, INDEX["night"], :6] = 255
    coverage[:, INDEX[STYLES[0]]] = 255
    return coverage


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6))
def test_a_hand_paints_one_thing_or_two_where_such_things_are(seed):
    hand = strokes.Hand(coverage_with_castle_and_sky())
    laid = hand.lay(np.random.default_rng(seed))
    painted = {CONCEPTS[c] for c in np.flatnonzero(laid.any((1, 2)))}
    assert painted and painted <= {"castle", "night"}
    assert laid.min() >= 0 and 0 < laid.max() <= hand.strongest
    assert not (laid > 0).sum(0).max() > 1, "two strokes lie apart"
    rows = np.nonzero(hand.place(INDEX["castle"], np.random.default_rng(seed)))[0]
    assert rows.min() <= 11 and rows.max() >= 8, "a castle is painted about where castles stand"


def test_only_the_cells_that_fit_best_must_show_a_thing():
    laid = torch.zeros(1, len(CONCEPTS), 16, 16)
    castle = INDEX["castle"]
    laid[0, castle, 4:8, 4:8] = 1.3
    share = torch.full((1, len(CONCEPTS)), 0.5)
    nothing = torch.full_like(laid, -8.0)
    half = nothing.clone()
    half[0, castle, 4:8, 4:6] = 8
    elsewhere = nothing.clone()
    elsewhere[0, castle, 10:, 10:] = 8
    assert strongest(half, laid, share).item() == pytest.approx(0, abs=1e-3)
    for other in (nothing, elsewhere):
        assert strongest(other, laid, share).item() == pytest.approx(8, abs=1e-2)
    assert strongest(half, laid, torch.ones_like(share)).item() == pytest.approx(4, abs=1e-2)
    assert len(strongest(half, torch.zeros_like(laid), share)) == 0


def test_a_critic_learns_to_tell_and_is_worse_off_for_being_wrong():
    torch.manual_seed(0)
    critic = Critic(widths=(16, 32))
    coverage = torch.zeros(4, len(CONCEPTS), 16, 16)
    coverage[:, 3, :8] = 1
    drawn, made = torch.randn(4, 8, 32, 32) + 1, torch.randn(4, 8, 32, 32) - 1
    steps, rarity = torch.arange(4), Rarity(torch.ones(len(CONCEPTS), 1, 1))
    stepper = torch.optim.Adam(critic.parameters(), 3e-3)
    history = []
    for _ in range(25):
        loss = critic_loss(critic(drawn, steps), coverage, critic(made, steps), rarity)
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]
    right, wrong = critic(drawn, steps), critic(made, steps)
    assert right.drawn.mean() > wrong.drawn.mean()
    assert right.drawn_as[:, 3, :8].mean() > right.drawn_as[:, 3, 8:].mean()
    assert critic_loss(wrong, coverage, right, rarity) > critic_loss(right, coverage, wrong, rarity)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refined")
    vae.train(folder, 0.03, vae.VaeConfig(width=12, scenes=4, crop=32, batch=2), "cpu")
    data.prepare(folder, 6, "cpu", portion=4, batch=3)
    generator.train(folder, 0.05, TINY, "cpu")
    distil.train(folder, 0.04, distil.DistilConfig(batch=4), "cpu")
    return folder


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    """A model folder with a small dictionary of the composition block."""
    folder = tmp_path_factory.mktemp("model")
    export.export(run, folder, "python -m canvas.storybook train", held_out=2, pictures=2)
    torch.manual_seed(1)
    build_sae(generator.COMPOSITION, 0).save(folder / "sae" / generator.COMPOSITION)
    known = {"castle": torch.randn(32).tolist(), "tree": torch.randn(32).tolist()}
    (folder / "sae" / generator.COMPOSITION / "differences.json").write_text(json.dumps(known))
    entries = [{"name": name, "score": 0.5} for name in known]
    (folder / "concepts.json").write_text(json.dumps({"concepts": entries}))
    return folder


def test_refining_leaves_everything_up_to_the_composition_block_alone(run, model):
    refine.train(run, model, 0.1, FEW, "cpu", critic_minutes=0.02)
    before, after = distil.averaged(run)[0], refine.averaged(run)[0]
    assert before.keys() == after.keys()
    first = ("conv_in", "time_embedding", "down_blocks.0", "down_blocks.1.resnets.0", "down_blocks.1.attentions.0")
    kept = {name for name in before if name.startswith(first)}
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"up_blocks.0", "mid_block.resnets", "conv_out.weight"} <= {".".join(n.split(".")[:2]) for n in changed}
    steps = refine.averaged(run)[1]["steps"]
    elapsed = torch.load(run / refine.REFINED, weights_only=True)["elapsed"]
    refine.train(run, model, elapsed / 60 + 0.03, FEW, "cpu", critic_minutes=0.02)
    assert refine.averaged(run)[1]["steps"] > steps, "it goes on where it stopped"


def test_the_brushes_that_were_painted_with_are_shipped_whatever_the_means_are_now(run, model):
    refine.make_brushes(model, run)
    sae = load(run / refine.PLACE)
    entries = refine.brushes(run)
    painted = refine.vectors_of(entries, sae)
    assert {entry["name"] for entry in entries} == {"castle", "tree"}
    length = float(generator.trained(run)[0]["palette"].square.sqrt())
    assert painted[INDEX["castle"]].norm().item() == pytest.approx(length, rel=1e-3)
    assert not painted[INDEX["house"]].any()
    now = sae.with_statistics(sae.mean * 1.7 + 0.1, sae.density, sae.quantiles)
    rescaled = [dictionary._in_units(entry, sae.mean, now.mean) for entry in entries]
    assert torch.allclose(refine.vectors_of(rescaled, now), painted, rtol=1e-3, atol=1e-3)


def test_a_student_is_restored_to_be_refined(run, model, tmp_path):
    entry = {"block": generator.COMPOSITION, "features": [0, 1], "weights": [3.0, 4.0], "name": "castle", "score": 0}
    (model / "concepts.json").write_text(json.dumps({"concepts": [entry, entry | {"name": "tree"}]}))
    restore.restore(model, tmp_path / "again", student=True)
    shipped = UNet2DConditionModel.from_pretrained(model / "unet").state_dict()
    known = distil.averaged(tmp_path / "again")
    assert known is not None
    assert all(torch.equal(value, shipped[name].float()) for name, value in known[0].items())
    shutil.copytree(model, tmp_path / "alone")
    shutil.rmtree(tmp_path / "alone" / "undistilled")
    with pytest.raises(FeaturebrushError, match="no student"):
        restore.restore(tmp_path / "alone", tmp_path / "none", student=True)
