"""The strokes of training: over what is there, as a hand would lay them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from canvas.storybook import strokes
from canvas.storybook.generator import Palette
from canvas.storybook.vocabulary import CONCEPTS, INDEX, STYLES

ALWAYS = strokes.StrokeConfig(share=1.0)


def coverage_with(**boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Concepts that fill boxes of cells (top, left, bottom, right) entirely."""
    coverage = np.zeros((len(CONCEPTS), 16, 16), np.float32)
    for name, (top, left, bottom, right) in boxes.items():
        coverage[INDEX[name], top:bottom, left:right] = 1
    return coverage


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_a_stroke_lies_about_one_instance(seed):
    rng = np.random.default_rng(seed)
    coverage = (
        coverage_with(castle=(2, 1, 6, 5))[INDEX["castle"]] + coverage_with(castle=(9, 11, 12, 14))[INDEX["castle"]]
    )
    stroke = strokes.shape(coverage, rng)
    assert stroke.shape == (16, 16)
    assert stroke.min() >= 0
    assert stroke.max() <= 1
    assert stroke.max() > 0.5
    over_first, over_second = (stroke * coverage)[:8].sum(), (stroke * coverage)[8:].sum()
    assert (over_first > 0) != (over_second > 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_strokes_are_laid_only_for_what_can_be_seen_and_has_a_place(seed):
    coverage = coverage_with(castle=(2, 1, 6, 5), meadow=(8, 0, 16, 16), ink=(0, 0, 16, 16))
    laid = strokes.lay(coverage, np.random.default_rng(seed), ALWAYS)
    painted = {CONCEPTS[c] for c in np.flatnonzero(laid.any((1, 2)))}
    assert painted <= {"castle", "meadow"}
    assert laid.max() <= ALWAYS.strongest


def test_the_share_of_painted_scenes_is_the_configured_one():
    coverage = coverage_with(castle=(2, 1, 6, 5))
    cfg = strokes.StrokeConfig(share=0.5, alone=1.0)
    rng = np.random.default_rng(0)
    found = np.mean([strokes.lay(coverage, rng, cfg).any() for _ in range(1000)])
    assert found == pytest.approx(0.5, abs=0.05)
    assert not strokes.lay(np.zeros_like(coverage), rng, ALWAYS).any()


def test_wide_stuff_is_mostly_dabbed():
    coverage = coverage_with(meadow=(4, 0, 16, 16))[INDEX["meadow"]]
    rng = np.random.default_rng(0)
    sizes = [(strokes.shape(coverage, rng) > 0.5).sum() for _ in range(200)]
    assert np.median(sizes) < 100
    assert max(sizes) > 180


def test_the_palette_paints_the_difference_a_concept_makes():
    cells = torch.zeros(4, len(CONCEPTS), 16, 16, dtype=torch.bool)
    cells[:, INDEX["castle"], :, :8] = True
    updates = torch.randn(4, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    updates[:, 2, :, :8] += 5
    palette = Palette(6, 0.9)
    palette.see(updates, cells)
    laid = torch.zeros(1, len(CONCEPTS), 16, 16)
    laid[0, INDEX["castle"], 3, 4] = 2.0
    laid[0, INDEX["moon"], 9, 9] = 2.0  # never seen: nothing is known to paint with
    added = palette.paint(laid)
    assert added[0, :, 3, 4].argmax() == 2
    spread = updates.var((0, 2, 3)).sum().sqrt()
    assert added[0, :, 3, 4].norm().item() == pytest.approx(2 * spread.item(), rel=1e-4)
    assert added[0, :, 9, 9].abs().max() == 0
    assert added.abs().sum((0, 1)).count_nonzero() == 1


def test_the_palette_paints_what_is_a_concept_own():
    common, castle, fish = torch.eye(3)
    cells = torch.zeros(8, len(CONCEPTS), 16, 16, dtype=torch.bool)
    updates = torch.zeros(8, 3, 16, 16)
    for i, (name, own) in enumerate({"castle": castle, "fish": fish}.items()):
        cells[i::2, INDEX[name], :, :8] = True
        updates[i::2, :, :, :8] = (3 * common + own)[:, None, None]
    palette = Palette(3, 0.9)
    palette.see(updates, cells)
    laid = torch.zeros(1, len(CONCEPTS), 16, 16)
    laid[0, INDEX["castle"], 0, 0] = laid[0, INDEX["fish"], 1, 1] = 1
    added = palette.paint(laid)[0]
    cosine = torch.cosine_similarity(added[:, 0, 0], added[:, 1, 1], dim=0).item()
    assert cosine < torch.cosine_similarity(3 * common + castle, 3 * common + fish, dim=0).item() - 0.1


def test_styles_are_not_strokes():
    assert {CONCEPTS[c] for c in np.flatnonzero(~strokes.PAINTED)} == set(STYLES)
