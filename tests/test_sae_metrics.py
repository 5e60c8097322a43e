"""Measures against their definitions, written out slowly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae import SAE, FeaturebrushError, SAEConfig
from sae.labels import label_features
from sae.metrics import (
    SCORE_FRACTIONS,
    ConceptCounts,
    dead_share,
    evaluate,
    feature_concept_scores,
    feature_stats,
    l0,
    mean_channel_explained_variance,
    variance_unexplained,
)
from sae.model import QUANTILE_LEVELS


def identity_sae(d: int, threshold: float = 0.0) -> SAE:
    """Codes are the positive part of the activations."""
    zeros = torch.zeros(d)
    tensors = {"W_enc": torch.eye(d), "b_enc": zeros, "W_dec": torch.eye(d), "b_dec": zeros}
    return SAE(SAEConfig(d, d, 1), {**tensors, "threshold": torch.tensor(threshold)})


@pytest.fixture(params=[2**23, 24], ids=["one chunk", "many chunks"])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.metrics.CHUNK_CODES", request.param)
    monkeypatch.setattr("sae.labels.CHUNK_CODES", request.param)


@pytest.mark.usefixtures("chunked")
def test_measures_follow_their_definitions() -> None:
    s = identity_sae(4, threshold=0.5)
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 2, 3, 0])
    rows = x.reshape(-1, 4)
    rest = rows - s(rows)
    centred = rows - rows.mean(0)
    assert variance_unexplained(s, x) == pytest.approx(((rest**2).sum() / (centred**2).sum()).item(), rel=1e-5)
    per_channel = 1 - (rest**2).sum(0)[:3] / (centred**2).sum(0)[:3]
    assert mean_channel_explained_variance(s, x) == pytest.approx(per_channel.mean().item(), rel=1e-5)
    assert l0(s, x) == pytest.approx((rows > 0.5).sum().item() / 15)
    assert dead_share(s, x) == 0.25
    assert evaluate(s, x).vectors == 15


def test_perfect_and_useless_reconstructions() -> None:
    x = torch.rand(50, 3) + 0.1
    assert variance_unexplained(identity_sae(3), x) < 1e-9
    silent = SAE(SAEConfig(3, 3, 1), {**identity_sae(3, 9.0).tensors(), "b_dec": x.mean(0)})
    assert variance_unexplained(silent, x) == pytest.approx(1, rel=1e-5)
    assert dead_share(silent, x) == 1 and l0(silent, x) == 0


@pytest.mark.parametrize("x", [torch.zeros(0, 3), torch.ones(5, 3), torch.zeros(5, 4)])
def test_what_cannot_be_measured_is_refused(x: torch.Tensor) -> None:
    with pytest.raises(FeaturebrushError):
        evaluate(identity_sae(3), x)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_feature_statistics(threshold: float) -> None:
    s = identity_sae(3, threshold)
    x = torch.randn(4, 500, 3, generator=torch.Generator().manual_seed(0)).abs() * torch.tensor([1.0, 3.0, 0.0])
    stats = feature_stats(s, x)
    assert stats.positions == 2000 and stats.levels == QUANTILE_LEVELS
    for i in range(2):
        active = x[..., i][x[..., i] > threshold]
        assert stats.density[i].item() == pytest.approx(len(active) / 2000)
        assert stats.mean[i].item() == pytest.approx(active.mean().item(), rel=1e-5)
        expected = active.quantile(torch.tensor(QUANTILE_LEVELS))
        torch.testing.assert_close(stats.quantiles[i], expected, rtol=0.03, atol=1e-3)
        assert stats.quantiles[i, -1] == active.max()
    assert not stats.density[2] and not stats.mean[2] and not stats.quantiles[2].any()
    assert (stats.quantiles.diff(dim=1) >= 0).all()
    known = s.with_statistics(*stats[:3])
    assert torch.equal(known.mean, stats.mean) and torch.equal(known.encode(x), s.encode(x))


def test_feature_statistics_need_activations_and_levels() -> None:
    with pytest.raises(FeaturebrushError, match="no activations"):
        feature_stats(identity_sae(2), [])
    with pytest.raises(FeaturebrushError, match="levels"):
        feature_stats(identity_sae(2), [torch.ones(1, 2)], levels=(1.5,))


def slow_f1(claimed: torch.Tensor, truth: torch.Tensor) -> float:
    hits = sum(1 for a, b in zip(claimed.tolist(), truth.tolist(), strict=True) if a and b)
    total = int(claimed.sum()) + int(truth.sum())
    return 2 * hits / total if total else 0.0


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 30), f=st.integers(1, 4), c=st.integers(1, 3), t=st.integers(1, 4), seed=st.integers(0, 999))
def test_scores_are_those_of_brute_force(n: int, f: int, c: int, t: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    # Quarters, so that codes meet thresholds exactly.
    codes = (torch.randn(n, f, generator=g).relu() * 4).round() / 4
    masks = torch.rand(n, c, generator=g) < 0.4
    thresholds = ((torch.rand(f, t, generator=g) * 8).round() / 4).sort(dim=1).values
    counts = ConceptCounts(thresholds, c)
    for start in range(0, n, 7):
        counts.add(codes[start : start + 7], masks[start : start + 7])
    f1 = counts.f1()
    slow = torch.tensor(
        [[[slow_f1(codes[:, i] > thresholds[i, j], masks[:, m]) for m in range(c)] for i in range(f)] for j in range(t)]
    )
    torch.testing.assert_close(f1, slow)
    best = feature_concept_scores(codes, masks, thresholds)
    torch.testing.assert_close(best.f1, slow.amax(0))
    for i in range(f):
        for m in range(c):
            at_best = slow_f1(codes[:, i] > best.threshold[i, m], masks[:, m])
            assert at_best == pytest.approx(best.f1[i, m].item(), abs=1e-6)


@pytest.mark.usefixtures("chunked")
def test_default_thresholds_find_a_graded_concept() -> None:
    codes = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([codes[:, 0] > 0.4, codes[:, 1] >= 0], dim=1)
    scores = feature_concept_scores(codes, masks)
    assert scores.f1[0, 0] > 0.95 and scores.f1[1, 1] == 1
    assert scores.threshold[0, 0].item() == pytest.approx(0.4, abs=0.03)
    assert scores.threshold.shape == (2, 2) and len(SCORE_FRACTIONS) == 8


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FeaturebrushError, match="do not fit"):
        feature_concept_scores(torch.rand(5, 2), torch.ones(4, 1, dtype=torch.bool))
    with pytest.raises(FeaturebrushError, match="ascending"):
        ConceptCounts(torch.tensor([[1.0, 0.5]]), 1)


def scenes(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature 0 follows concept 0, feature 1 concept 1, feature 2 is noise, feature 3 silent."""
    g = torch.Generator().manual_seed(0)
    masks = torch.rand(n, 6, 6, 2, generator=g) < 0.3
    noise = torch.rand(n, 6, 6, 4, generator=g)
    on = torch.stack([masks[..., 0], masks[..., 1], noise[..., 2] < 0.02, torch.zeros(n, 6, 6).bool()], dim=-1)
    return on * (1 + noise), masks


@pytest.mark.usefixtures("chunked")
def test_labels_find_the_concepts() -> None:
    activations, masks = scenes(8)
    s = identity_sae(4)
    s = s.with_statistics(*feature_stats(s, [activations])[:3])
    # Odd batch sizes: the halves go by image, not by place in the batch.
    pairs = list(zip(activations.split([3, 1, 4]), masks.split([3, 1, 4]), strict=True))
    found = label_features(s, pairs, ["castle", "wave"])
    assert found.labels[:2] == ("castle", "wave") and found.labels[3] is None
    assert found.scores[0] > 0.99 and found.scores[1] > 0.99 and found.scores[2] < 0.3 and found.scores[3] == 0
    assert [(b.concept, b.feature) for b in found.best] == [("castle", 0), ("wave", 1)]
    assert found.best[0].score == found.scores[0]


def test_scores_come_from_images_that_did_not_choose() -> None:
    activations, masks = scenes(8)
    s = identity_sae(4)
    s = s.with_statistics(*feature_stats(s, [activations])[:3])
    # In the images that score, the concepts are elsewhere: the choice stays, and the scores fall.
    masks[1::2] = ~masks[1::2]
    found = label_features(s, [(activations, masks)], ["castle", "wave"])
    assert found.labels[:2] == ("castle", "wave") and max(found.scores[:2]) == 0


def test_labels_refuse_what_they_cannot_use() -> None:
    activations, masks = scenes(2)
    bare = identity_sae(4)
    with pytest.raises(FeaturebrushError, match="quantiles"):
        label_features(bare, [(activations, masks)], ["castle", "wave"])
    s = bare.with_statistics(*feature_stats(bare, [activations])[:3])
    with pytest.raises(FeaturebrushError, match="do not fit"):
        label_features(s, [(activations, masks)], ["castle"])
    with pytest.raises(FeaturebrushError, match="at least two"):
        label_features(s, [(activations[:1], masks[:1])], ["castle", "wave"])
    with pytest.raises(FeaturebrushError, match="at least one"):
        label_features(s, [], [])
