from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import CHANNELS, N_FEATURES, build_sae

from canvas import FeaturebrushError, Layer, Mask
from canvas.steering import BlockEdits, Edit, FeatureSet, brush_vector, reach

GRID = 8
FEATURES = FeatureSet("down.1.0", (3, 11, 20), (1.0, 0.5, -0.25))
OTHER = FeatureSet("down.1.0", (30,), (2.0,))
LEFT = Mask.rect(0, 0, 0.5, 1)
DISC = Mask.disc(0.4, 0.6, 0.22)
SAE = build_sae("down.1.0", seed=0)
modes = st.sampled_from(["add", "replace", "scale", "erase"])


def edit(mode: Any = "add", mask: Mask = DISC, strength: float = 1.0, features: FeatureSet = FEATURES, **more) -> Edit:
    return Edit.of(Layer("castle", mask, strength, mode, **more), features)  # pyright: ignore[reportArgumentType]


def edits(*of: Edit, sae=SAE) -> BlockEdits:
    return BlockEdits(sae, of, [brush_vector(sae, one.features) for one in of])


def activations(batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h, u = torch.randn(2, batch, CHANNELS, GRID, GRID, generator=generator)
    return h, h + u


def positions(x: torch.Tensor) -> torch.Tensor:
    """[B, d, H, W] -> [B, H, W, d]"""
    return x.permute(0, 2, 3, 1)


def coverage(mask: Mask) -> torch.Tensor:
    return torch.from_numpy(mask.coverage(GRID, GRID))[..., None]


def test_add_is_the_formula() -> None:
    h, o = activations()
    expected = (
        coverage(DISC)
        * 1.5
        * sum(w * SAE.mean[f] * SAE.W_dec[f] for f, w in zip(FEATURES.features, FEATURES.weights, strict=True))
    )
    torch.testing.assert_close(positions(edits(edit(strength=1.5)).delta(h, o, 0, 1))[0], expected)


@pytest.mark.parametrize("site", ["update", "output"])
def test_replace_puts_the_brush_in_place_of_what_the_sae_reads(site: str) -> None:
    sae = build_sae("down.1.0", seed=0, site=site)
    h, o = activations()
    after = o + edits(edit("replace", LEFT, 2.0), sae=sae).delta(h, o, 0, 1)
    read = after if site == "output" else after - h
    brush = sae.b_dec + 2.0 * brush_vector(sae, FEATURES)
    torch.testing.assert_close(positions(read)[0, :, : GRID // 2], brush.expand(GRID, GRID // 2, -1))
    torch.testing.assert_close(after[..., GRID // 2 :], o[..., GRID // 2 :], rtol=0, atol=0)


def test_overlapping_replacements_take_the_update_away_once() -> None:
    h, o = activations()
    one, two = edit("replace", LEFT, 2.0), edit("replace", LEFT, 1.0, features=OTHER)
    alone = edits(one).delta(h, o, 0, 1)
    torch.testing.assert_close(edits(one, one).delta(h, o, 0, 1), alone)
    half = (alone + edits(two).delta(h, o, 0, 1)) / 2
    torch.testing.assert_close(edits(one, two).delta(h, o, 0, 1), half)


@pytest.mark.parametrize("site", ["update", "output"])
def test_scale_is_the_formula_on_the_saes_own_codes(site: str) -> None:
    sae = build_sae("down.1.0", seed=0, site=site)
    h, o = activations(batch=2)
    z = sae.encode(positions(o if site == "output" else o - h))
    assert (z[..., list(FEATURES.features)] > 0).any()
    expected = coverage(DISC) * sum((2.5 - 1) * z[..., f, None] * sae.W_dec[f] for f in FEATURES.features)
    torch.testing.assert_close(positions(edits(edit("scale", strength=2.5), sae=sae).delta(h, o, 0, 1)), expected)


def test_features_of_weight_zero_are_not_scaled() -> None:
    h, o = activations()
    some = edits(edit("erase", features=FeatureSet("down.1.0", (3, 11), (1.0, 0.0))))
    only = edits(edit("erase", features=FeatureSet("down.1.0", (3,), (1.0,))))
    torch.testing.assert_close(some.delta(h, o, 0, 1), only.delta(h, o, 0, 1))


@given(st.floats(-5, 5))
def test_erase_is_scale_by_zero_whatever_its_strength(strength: float) -> None:
    h, o = activations()
    erased = edits(edit("erase", strength=strength)).delta(h, o, 0, 1)
    assert torch.equal(erased, edits(edit("scale", strength=0.0)).delta(h, o, 0, 1))
    assert erased.abs().max() > 0


@given(modes, st.floats(-3, 3), st.integers(0, 20))
def test_an_edit_leaves_what_is_outside_its_mask_unchanged(mode: str, strength: float, seed: int) -> None:
    h, o = activations(seed=seed)
    delta = edits(edit(mode, LEFT, strength)).delta(h, o, 0, 1)
    assert (delta[..., GRID // 2 :] == 0).all()


@given(modes, st.floats(-3, 3))
def test_an_empty_mask_changes_nothing(mode: str, strength: float) -> None:
    h, o = activations()
    assert torch.equal(o + edits(edit(mode, Mask.empty(), strength)).delta(h, o, 0, 1), o)


@given(modes, modes, st.floats(-3, 3), st.floats(-3, 3))
def test_two_layers_commute_and_add_up_unless_both_replace(first: str, second: str, s: float, t: float) -> None:
    h, o = activations()
    a, b = edit(first, DISC, s), edit(second, LEFT, t, OTHER)
    both = edits(a, b).delta(h, o, 0, 1)
    torch.testing.assert_close(both, edits(b, a).delta(h, o, 0, 1), rtol=1e-4, atol=1e-4)
    apart = edits(a).delta(h, o, 0, 1) + edits(b).delta(h, o, 0, 1)
    alone = (coverage(DISC) * coverage(LEFT) == 0).expand(*both.shape[-2:], 1).permute(2, 0, 1)[None].expand_as(o)
    together = alone if first == second == "replace" else torch.ones_like(alone)
    torch.testing.assert_close(both.expand_as(o)[together], apart.expand_as(o)[together], rtol=1e-4, atol=1e-4)


def test_add_follows_strength_and_mask_linearly() -> None:
    h, o = activations()
    one = edits(edit(strength=1.0)).delta(h, o, 0, 1)
    torch.testing.assert_close(edits(edit(strength=-2.0)).delta(h, o, 0, 1), -2 * one)
    split = edits(edit(mask=DISC & LEFT), edit(mask=DISC - LEFT)).delta(h, o, 0, 1)
    torch.testing.assert_close(split, one, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_follows_the_activation(dtype: torch.dtype) -> None:
    h, o = (x.to(dtype) for x in activations())
    every = edits(edit(), edit("replace", LEFT), edit("erase", features=OTHER))
    assert every.delta(h, o, 0, 1).dtype == dtype


def test_edits_act_in_their_steps_only() -> None:
    h, o = activations()
    part = edits(edit(steps=(0.5, 1.0)), edit(features=OTHER))
    assert torch.equal(part.delta(h, o, 0, 2), edits(edit(features=OTHER)).delta(h, o, 0, 1))
    assert not torch.equal(part.delta(h, o, 1, 2), part.delta(h, o, 0, 2))
    late = edits(edit(steps=(0.5, 1.0)))
    assert [late.is_active(i, 4) for i in range(4)] == [False, False, True, True]


def test_a_brush_beyond_the_sae_is_refused() -> None:
    with pytest.raises(FeaturebrushError, match=f"0..{N_FEATURES - 1}"):
        brush_vector(SAE, FeatureSet("down.1.0", (N_FEATURES,), (1.0,)))


@given(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0.05, 0.3), st.sampled_from([16, 32, 64]))
def test_edits_reach_their_masks_and_a_little_further(x: float, y: float, r: float, side: int) -> None:
    mask = Mask.disc(x, y, r)
    edit = Edit(FeatureSet("down.1.0", (0,), (1.0,)), mask, 1.0, "add", (0.0, 1.0))
    found = reach([edit], side, side)
    assert found.shape == (1, 1, side, side)
    assert found.min() >= 0 and found.max() <= 1
    whole = torch.from_numpy(mask.coverage(side, side)) == 1
    assert bool((found[0, 0][whole] > 0.99).all())
    far = torch.from_numpy(Mask.disc(x, y, min(1.0, r + 4 / 16)).coverage(side, side)) == 0
    assert not found[0, 0][far].any()
    other = Edit(edit.features, Mask.rect(0, 0, 0.1, 0.1), 1.0, "add", (0.0, 1.0))
    assert torch.equal(reach([edit, other], side, side), reach([other, edit], side, side))
    assert bool((reach([edit, other], side, side) >= found).all())
