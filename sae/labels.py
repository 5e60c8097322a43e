"""What features mean, where the truth is known: labels from masks of concepts, with a held-out score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae.errors import FeaturebrushError
from sae.metrics import CHUNK_CODES, SCORE_FRACTIONS, ConceptCounts, score_thresholds
from sae.model import QUANTILE_LEVELS, SAE


@dataclass(frozen=True)
class ConceptFeature:
    """The feature that finds a concept best."""

    concept: str
    feature: int
    score: float
    """F1, 0..1, on the half of the images that had no part in the choice."""
    threshold: float
    """The feature's code above which a position counts as the concept."""


@dataclass(frozen=True)
class FeatureLabels:
    """Labels of all features of an SAE, and the best feature of every concept."""

    labels: tuple[str | None, ...]
    """Per feature the concept that it finds best; None if it finds none."""
    scores: tuple[float, ...]
    """Per feature the F1 of its label, 0..1, on the half of the images that had no part in the choice."""
    best: tuple[ConceptFeature, ...]
    """Per concept, in the order given, its best feature; concepts that no feature finds are left out."""


@torch.no_grad()
def label_features(
    sae: SAE,
    images: Iterable[tuple[Tensor, Tensor]],
    concepts: Sequence[str],
    fractions: Sequence[float] = SCORE_FRACTIONS,
) -> FeatureLabels:
    """Label every feature of ``sae`` by the concept whose mask its activity fits best.

    Parameters: ``images`` gives pairs of activations ``[B, H, W, d]`` and masks ``[B, H, W, C]`` (bool, C as
    ``concepts``) of images that the SAE was not trained on. Thresholds tried are ``fractions`` of the 99% quantile in
    ``sae.quantiles``.

    Every other image chooses: for each feature its concept and threshold, for each concept its feature and threshold,
    by F1. The images between score the choice, so a score does not profit from the search. One pass; memory does not
    grow with the number of images.

    Raises `FeaturebrushError` if the SAE has no statistics, shapes do not fit, or there are fewer than two images.
    """
    if not concepts:
        raise FeaturebrushError("there are no concepts to label with: give at least one")
    upper = sae.quantiles[:, QUANTILE_LEVELS.index(0.99)]
    if not bool((upper > 0).any()):
        raise FeaturebrushError("the SAE has no quantiles yet: give it those of feature_stats by with_statistics")
    thresholds = score_thresholds(upper, fractions)
    halves = ConceptCounts(thresholds, len(concepts)), ConceptCounts(thresholds, len(concepts))
    seen = 0
    for activations, masks in images:
        if activations.dim() != 4 or tuple(masks.shape) != (*activations.shape[:3], len(concepts)):
            raise FeaturebrushError(
                f"activations {list(activations.shape)} and masks {list(masks.shape)} do not fit: "
                f"expected [B, H, W, d] and [B, H, W, {len(concepts)}]"
            )
        image = torch.arange(seen, seen + len(activations))
        seen += len(activations)
        for half, counts in enumerate(halves):
            chosen = (image % 2 == half).to(activations.device)
            rows = activations[chosen].flatten(0, 2).to(thresholds.device)
            truth = masks[chosen.to(masks.device)].flatten(0, 2)
            step = max(1, CHUNK_CODES // sae.cfg.n_features)
            for start in range(0, len(rows), step):
                counts.add(sae.encode(rows[start : start + step]), truth[start : start + step])
    if seen < 2:
        raise FeaturebrushError(f"{seen} image was given: labels need at least two, one to choose and one to score")
    return _choose(halves[0].f1().cpu(), halves[1].f1().cpu(), thresholds.cpu(), tuple(concepts))


def _choose(choice: Tensor, score: Tensor, thresholds: Tensor, concepts: tuple[str, ...]) -> FeatureLabels:
    """From F1 ``[T, F, C]`` of the two halves."""
    n_features, n_concepts = choice.shape[1:]
    value, at = choice.permute(1, 0, 2).flatten(1).max(dim=1)
    held_out = score.permute(1, 0, 2).flatten(1).gather(1, at[:, None]).squeeze(1)
    found = value > 0
    labels = tuple(concepts[int(i) % n_concepts] if ok else None for i, ok in zip(at, found, strict=True))
    scores = tuple(float(s) if ok else 0.0 for s, ok in zip(held_out, found, strict=True))

    value, at = choice.permute(2, 0, 1).flatten(1).max(dim=1)
    best = []
    for c, concept in enumerate(concepts):
        if value[c] > 0:
            t, feature = divmod(int(at[c]), n_features)
            best.append(ConceptFeature(concept, feature, float(score[t, feature, c]), float(thresholds[feature, t])))
    return FeatureLabels(labels, scores, tuple(best))
