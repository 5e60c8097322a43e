"""How well a dictionary finds known concepts: by the best single feature of each, and by the best few together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae import metrics
from sae.errors import FeaturebrushError
from sae.labels import FeatureLabels, label_features
from sae.metrics import BINS, BITS
from sae.model import SAE
from sae.pursuit import greedy_weights

MATCH = 0.5
"""F1 from which on a feature counts as matching a concept."""
SIZE = 8
"""Features of a concept, at most."""
CANDIDATES = 64
"""Features, those that correlate best with the concept, among which its own are looked for."""


@dataclass(frozen=True)
class ConceptRow:
    """How well one concept is found, on the images that score, which had no part in any choice."""

    concept: str
    images: int
    """How many of those images show it."""
    share: float
    """Share of their positions that show it, 0..1: the average precision of a guess."""
    feature: int | None
    """The best single feature; None if none was ever active in it in the images that choose."""
    threshold: float | None
    """Its code above which a position counts as the concept."""
    f1: float
    """F1 of that feature, 0..1."""
    features: tuple[int, ...]
    """The features of the concept, at most `SIZE`, the heaviest first."""
    weights: tuple[float, ...]
    """One each, above 0: the concept's score at a position is ``Σ w_f z_f``."""
    average_precision: float | None
    """Of that score, 0..1; None if no image shows the concept."""


@dataclass(frozen=True)
class ConceptTable:
    """Every concept, and how much of dictionary and vocabulary meet."""

    rows: tuple[ConceptRow, ...]
    """In the order in which the concepts were given."""
    labels: FeatureLabels
    """What every feature finds best."""

    @property
    def matching_features(self) -> float:
        """Share of the features, dead ones included, that find one concept with an F1 of `MATCH` or more."""
        return sum(score >= MATCH for score in self.labels.scores) / len(self.labels.scores)

    @property
    def found_concepts(self) -> float:
        """Share of the concepts, of those shown at all, whose best feature finds them with F1 of `MATCH` or more."""
        shown = [row for row in self.rows if row.images]
        return sum(row.f1 >= MATCH for row in shown) / len(shown) if shown else 0.0

    @property
    def mean_average_precision(self) -> float:
        """Mean over the concepts that are shown at all, small ones counting as much as large ones."""
        found = [row.average_precision for row in self.rows if row.average_precision is not None]
        return sum(found) / len(found) if found else 0.0


@torch.no_grad()
def concept_table(
    sae: SAE,
    images: Iterable[tuple[Tensor, Tensor]],
    concepts: Sequence[str],
    size: int = SIZE,
    candidates: int = CANDIDATES,
) -> ConceptTable:
    """Find each concept by its best feature and by its best ``size`` features together.

    Parameters: ``images`` gives pairs of activations ``[B, H, W, d]`` and masks ``[B, H, W, C]`` (bool, C as
    ``concepts``) of images that the SAE was not trained on, and is gone through four times: a list, or an object that
    reads them again from where they are kept. Images 0, 2, 4, ... choose features, thresholds and weights; images 1, 3,
    5, ... score. Memory does not grow with the number of images.

    Weights are fitted to the mask by non-negative least squares with an intercept, features added one at a time
    (`greedy_weights`) from the ``candidates`` that correlate best with it.
    """
    if iter(images) is images:
        raise FeaturebrushError("images are gone through four times: give a list of batches, not an iterator")
    if size < 1 or candidates < 1:
        raise FeaturebrushError(f"size {size} and candidates {candidates} must be at least 1")
    labels = label_features(sae, images, concepts)
    chosen, weights = _fitted(sae, images, len(concepts), size, min(candidates, sae.cfg.n_features))

    ranked = RankedHits(len(concepts))
    shown = torch.zeros(len(concepts), dtype=torch.int64)
    for activations, masks in _half(images, 1):
        shown += masks.flatten(1, 2).any(1).sum(0).cpu()
        for codes, truth in _coded(sae, activations, masks):
            ranked.add(_weighted(codes, chosen, weights), truth)
    best = {found.concept: found for found in labels.best}
    precision, share = ranked.average_precision().tolist(), ranked.share().tolist()
    rows = []
    for c, concept in enumerate(concepts):
        found, order = best.get(concept), weights[c].argsort(descending=True)
        kept = [int(i) for i in order if weights[c, i] > 0]
        rows.append(
            ConceptRow(
                concept=concept,
                images=int(shown[c]),
                share=share[c],
                feature=found.feature if found else None,
                threshold=found.threshold if found else None,
                f1=found.score if found else 0.0,
                features=tuple(int(chosen[c, i]) for i in kept),
                weights=tuple(float(weights[c, i]) for i in kept),
                average_precision=None if math.isnan(precision[c]) else precision[c],
            )
        )
    return ConceptTable(tuple(rows), labels)


def _half(images: Iterable[tuple[Tensor, Tensor]], half: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Activations and masks of the images of one half, numbered as `label_features` does."""
    seen = 0
    for activations, masks in images:
        chosen = torch.arange(seen, seen + len(activations)) % 2 == half
        seen += len(activations)
        if chosen.any():
            yield activations[chosen.to(activations.device)], masks[chosen.to(masks.device)]


def _coded(sae: SAE, activations: Tensor, masks: Tensor, width: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """Codes ``[n, F]`` and truth ``[n, C]`` (float32) in portions: n·F and n·width are at most `CHUNK_CODES`."""
    device = sae.W_enc.device
    step = max(1, metrics.CHUNK_CODES // max(sae.cfg.n_features, width))
    rows, truth = activations.flatten(0, 2), masks.flatten(0, 2)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        yield sae.encode(rows[part].to(device, torch.float32)), truth[part].to(device, torch.float32)


def _fitted(
    sae: SAE, images: Iterable[tuple[Tensor, Tensor]], n_concepts: int, size: int, candidates: int
) -> tuple[Tensor, Tensor]:
    """Candidates ``[C, K]`` of every concept and their weights ``[C, K]``, of which at most ``size`` are not 0."""
    f, device = sae.cfg.n_features, sae.W_enc.device
    n = 0
    z, zz, y = (torch.zeros(m, dtype=torch.float64, device=device) for m in (f, f, n_concepts))
    zy = torch.zeros(f, n_concepts, dtype=torch.float64, device=device)
    for codes, truth in (portion for batch in _half(images, 0) for portion in _coded(sae, *batch)):
        n += len(codes)
        z += codes.double().sum(0)
        zz += codes.double().square().sum(0)
        y += truth.double().sum(0)
        zy += (codes.T @ truth).double()
    z, zz, y, zy = z / n, zz / n, y / n, zy / n
    covariance = zy - z[:, None] * y
    deviation = (zz - z.square()).clamp(min=0).sqrt()
    correlation = covariance / deviation.clamp(min=1e-12)[:, None]
    chosen = correlation.topk(candidates, dim=0).indices.T.contiguous()

    gram = torch.zeros(n_concepts, candidates, candidates, dtype=torch.float64, device=device)
    for codes, _ in (portion for batch in _half(images, 0) for portion in _coded(sae, *batch, chosen.numel())):
        picked = codes[:, chosen.flatten()].view(len(codes), n_concepts, candidates).transpose(0, 1)
        gram += (picked.transpose(1, 2) @ picked).double()
    means = z[chosen]
    centred = (gram / n - means[:, :, None] * means[:, None, :]).cpu().numpy()
    targets = covariance.T.gather(1, chosen).cpu().numpy()
    weights = np.stack([greedy_weights(g, t, size) for g, t in zip(centred, targets, strict=True)])
    return chosen, torch.from_numpy(weights).to(device, torch.float32)


def _weighted(codes: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """``Σ w z`` of every concept: ``[n, C]``."""
    table = codes.new_zeros(codes.shape[1], len(chosen))
    table.scatter_(0, chosen.T, weights.T)
    return codes @ table


class RankedHits:
    """Counts, over any number of positions, from which the average precision of scores ≥ 0 follows.

    Scores are binned by ratio, 64 bins per octave from 2^-12 to 16, as `sae.metrics.feature_stats` bins codes, with a
    bin of its own for 0; scores of one bin count as tied.
    """

    LOWEST = 0x39800000 >> BITS
    """The bin of 2^-12, whose float32 has these bits."""

    def __init__(self, n_concepts: int):
        self._counts = torch.zeros(2, n_concepts, BINS + 1, dtype=torch.float64)

    def add(self, scores: Tensor, truth: Tensor) -> None:
        """Count ``scores [n, C]`` (float32, ≥ 0) against ``truth [n, C]`` (0 or 1)."""
        n_concepts = self._counts.shape[1]
        if scores.shape != truth.shape or scores.dim() != 2 or scores.shape[1] != n_concepts:
            raise FeaturebrushError(
                f"scores {list(scores.shape)} and truth {list(truth.shape)} do not fit: expected [n, {n_concepts}]"
            )
        bins = (scores.float().contiguous().view(torch.int32) >> BITS) - self.LOWEST
        place = torch.where(scores > 0, bins.clamp(0, BINS - 1) + 1, 0).cpu()
        place = (place + torch.arange(n_concepts) * (BINS + 1)).flatten()
        for kind, amount in enumerate((None, truth.cpu().double().flatten())):
            counted = torch.bincount(place, weights=amount, minlength=n_concepts * (BINS + 1))
            self._counts[kind] += counted.view(n_concepts, BINS + 1)

    def share(self) -> Tensor:
        """Share of the positions that are true, ``[C]``."""
        everything, true = self._counts.sum(2)
        return true / everything.clamp(min=1)

    def average_precision(self) -> Tensor:
        """``Σ_k (R_k − R_{k−1}) P_k`` down the bins, R recall and P precision: ``[C]``; NaN where nothing is true."""
        everything, true = self._counts.flip(2)
        precision = true.cumsum(1) / everything.cumsum(1).clamp(min=1)
        return (true * precision).sum(1) / true.sum(1)
