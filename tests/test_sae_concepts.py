"""Matching dictionaries and finding concepts, against slow definitions and on codes whose meaning is known."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_sae_metrics import identity_sae

from sae import FeaturebrushError
from sae.concept_metrics import RankedHits, concept_table
from sae.matching import matched_cosines, stability
from sae.metrics import Measures, density_histogram, evaluate, feature_stats
from sae.pursuit import greedy_weights, nonnegative_weights

seeds = st.integers(0, 10_000)


@given(n=st.integers(1, 5), more=st.integers(0, 2), seed=seeds)
def test_features_are_matched_so_that_the_sum_of_cosines_is_greatest(n: int, more: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    few, many = torch.randn(n, 3, generator=g), torch.randn(n + more, 3, generator=g)
    cosines = torch.nn.functional.normalize(few.double(), dim=1) @ torch.nn.functional.normalize(many.double(), dim=1).T
    best = max(sum(cosines[i, c] for i, c in enumerate(columns)) for columns in permutations(range(n + more), n))
    for a, b in ((few, many), (many, few)):
        assert matched_cosines(a, b).sum().item() == pytest.approx(float(best), abs=1e-9)


def test_stability_does_not_depend_on_order_or_length() -> None:
    g = torch.Generator().manual_seed(0)
    a, other = torch.randn(20, 8, generator=g), torch.randn(20, 8, generator=g)
    shuffled = 3 * a[torch.randperm(20, generator=g)]
    assert stability([a, shuffled]) == pytest.approx(1)
    assert stability([a, shuffled, a]) == pytest.approx(1)
    assert stability([a, other]) == pytest.approx(stability([other, a])) and stability([a, other]) < 0.9
    torch.testing.assert_close(matched_cosines(a[:5], shuffled), torch.ones(5, dtype=torch.float64))
    # Opposite directions are not alike: codes are never negative.
    assert stability([torch.eye(2), -torch.eye(2)]) == pytest.approx(0)


@pytest.mark.parametrize("others", [[torch.eye(3)], [torch.eye(3), torch.eye(4)], [torch.eye(3), torch.zeros(0, 3)]])
def test_what_cannot_be_matched_is_refused(others: list[torch.Tensor]) -> None:
    with pytest.raises(FeaturebrushError):
        stability(others)


def test_densities_are_counted_by_powers_of_ten() -> None:
    histogram = density_histogram(torch.tensor([0, 0, 1e-9, 0.05, 0.5, 1.0]), decades=2, per_decade=1)
    assert histogram.edges == pytest.approx((0.01, 0.1, 1.0))
    assert histogram.counts == (2, 2) and histogram.dead == 2
    assert len(density_histogram(torch.rand(5)).counts) == 24
    with pytest.raises(FeaturebrushError, match="0 to 1"):
        density_histogram(torch.tensor([1.5]))


def test_measures_may_be_added_in_parts() -> None:
    x = 100 + torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.0])
    s = identity_sae(3, threshold=100)
    parts = Measures(s)
    for part in x.split([1, 40, 19]):
        parts.add(part)
    assert parts.result() == pytest.approx(evaluate(s, x))
    torch.testing.assert_close(parts.mean, x.double().mean(0))
    assert parts.channels()[2].isnan() and not parts.channels()[:2].isnan().any()
    with pytest.raises(FeaturebrushError, match="at least one"):
        _ = Measures(s).mean


def slow_nonnegative(gram: np.ndarray, target: np.ndarray) -> float:
    """The least value of ``wᵀ G w − 2 wᵀ t`` over w ≥ 0, by trying every set of features."""
    best = 0.0
    for members in product([False, True], repeat=len(target)):
        inside = np.flatnonzero(members)
        w = np.linalg.lstsq(gram[np.ix_(inside, inside)], target[inside], rcond=None)[0]
        if len(w) and (w >= 0).all():
            best = min(best, float(w @ gram[np.ix_(inside, inside)] @ w - 2 * w @ target[inside]))
    return best


@given(n=st.integers(1, 5), seed=seeds)
def test_weights_are_those_of_least_squares_under_the_sign(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(12, n)), rng.normal(size=12)
    gram, target = x.T @ x, x.T @ y
    w = nonnegative_weights(gram, target)
    assert (w >= 0).all()
    assert w @ gram @ w - 2 * w @ target == pytest.approx(slow_nonnegative(gram, target), abs=1e-9)


@given(seed=seeds, size=st.integers(1, 4))
def test_greedy_weights_are_few_and_improve_with_their_number(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = np.maximum(rng.normal(size=(30, 6)), 0), rng.random(30)
    x[:, 5] = 0
    gram, target = np.cov(x.T), np.array([np.cov(column, y)[0, 1] for column in x.T])
    fewer, w = greedy_weights(gram, target, size), greedy_weights(gram, target, size + 1)
    assert (w >= 0).all() and (w > 0).sum() <= size + 1 and w[5] == 0
    assert w @ gram @ w - 2 * w @ target <= fewer @ gram @ fewer - 2 * fewer @ target + 1e-12


def test_two_copies_of_a_feature_do_no_harm() -> None:
    gram, target = np.ones((2, 2)), np.ones(2)
    w = greedy_weights(gram, target, 2)
    assert w.sum() == pytest.approx(1) and (w >= 0).all()


def slow_average_precision(scores: torch.Tensor, truth: torch.Tensor) -> float:
    total, before = 0.0, 0
    for score in scores.unique().flip(0):
        at = scores >= score
        hits = int(truth[at].sum())
        total += (hits - before) / int(truth.sum()) * hits / int(at.sum())
        before = hits
    return total


@given(n=st.integers(1, 30), seed=seeds)
def test_average_precision_is_its_definition(n: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (n, 2), generator=g) / 4
    truth = torch.rand(n, 2, generator=g) < 0.4
    ranked = RankedHits(2)
    for start in range(0, n, 7):
        ranked.add(scores[start : start + 7], truth[start : start + 7])
    torch.testing.assert_close(ranked.share(), truth.double().mean(0))
    for c in range(2):
        found = ranked.average_precision()[c].item()
        if truth[:, c].any():
            assert found == pytest.approx(slow_average_precision(scores[:, c], truth[:, c]))
        else:
            assert found != found


def test_scores_far_apart_and_equal_ones_keep_their_order() -> None:
    ranked = RankedHits(1)
    scores = torch.tensor([1e-9, 1e-3, 0.5, 0.6, 100.0])[:, None]
    ranked.add(scores, torch.tensor([False, False, False, True, True])[:, None])
    assert ranked.average_precision().item() == 1
    with pytest.raises(FeaturebrushError, match="do not fit"):
        ranked.add(scores, torch.ones(4, 1))


CONCEPTS = ("castle", "wave", "unseen")


def scenes(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature 0 is the castle; the wave is feature 1 in its left half and 2 in its right; 3 is noise, 4 silent."""
    g = torch.Generator().manual_seed(1)
    masks = torch.rand(n, 6, 6, 2, generator=g) < 0.2
    left = torch.arange(6) < 3
    noise = torch.rand(n, 6, 6, 5, generator=g)
    silent = torch.zeros(n, 6, 6, dtype=torch.bool)
    on = torch.stack([masks[..., 0], masks[..., 1] & left, masks[..., 1] & ~left, noise[..., 3] < 0.3, silent], dim=-1)
    return on * (1 + 0.1 * noise), torch.cat([masks, silent[..., None]], dim=-1)


@pytest.mark.parametrize("chunk", [2**23, 30])
def test_several_features_find_what_one_cannot(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.metrics.CHUNK_CODES", chunk)
    activations, masks = scenes(20)
    s = identity_sae(5)
    s = s.with_statistics(*feature_stats(s, [activations])[:3])
    table = concept_table(s, list(zip(activations.split(3), masks.split(3), strict=True)), CONCEPTS)
    castle, wave, unseen = table.rows
    assert castle.feature == 0 and castle.f1 > 0.99 and castle.average_precision == pytest.approx(1, abs=1e-3)
    assert castle.images == 10 and castle.share == pytest.approx(masks[1::2, ..., 0].float().mean().item())
    assert wave.feature in (1, 2) and wave.f1 < 0.8
    assert set(wave.features[:2]) == {1, 2} and wave.average_precision == pytest.approx(1, abs=1e-3)
    assert (unseen.feature, unseen.f1, unseen.images, unseen.average_precision) == (None, 0.0, 0, None)
    assert table.found_concepts == 1 and table.matching_features == pytest.approx(3 / 5)
    assert table.mean_average_precision == pytest.approx(1, abs=1e-3)
    alone = concept_table(s, [(activations, masks)], CONCEPTS, size=1, candidates=1)
    assert len(alone.rows[1].features) == 1 and (alone.rows[1].average_precision or 0) < 0.9


def test_the_images_that_score_choose_nothing() -> None:
    activations, masks = scenes(20)
    s = identity_sae(5)
    s = s.with_statistics(*feature_stats(s, [activations])[:3])
    masks[1::2] = ~masks[1::2]
    table = concept_table(s, [(activations, masks)], CONCEPTS)
    assert table.rows[0].feature == 0 and table.rows[0].f1 == 0
    assert (table.rows[0].average_precision or 1) < table.rows[0].share


def test_concepts_need_images_that_can_be_read_again() -> None:
    activations, masks = scenes(4)
    s = identity_sae(5)
    with pytest.raises(FeaturebrushError, match="not an iterator"):
        concept_table(s, iter([(activations, masks)]), CONCEPTS)
    with pytest.raises(FeaturebrushError, match="at least 1"):
        concept_table(s, [(activations, masks)], CONCEPTS, size=0)
    with pytest.raises(FeaturebrushError, match="quantiles"):
        concept_table(s, [(activations, masks)], CONCEPTS)
