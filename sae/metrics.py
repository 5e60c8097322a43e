"""What a good SAE is, in numbers, and the statistics of its features. All take activations of any leading shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sae.errors import FeaturebrushError
from sae.model import QUANTILE_LEVELS, SAE

CHUNK_CODES = 2**23
"""Codes held at a time: 32 MB of float32."""

SCORE_FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.55, 0.7)
"""Thresholds tried for a feature against a concept, as fractions of the 99% quantile of its active values."""


def _chunks(sae: SAE, x: Tensor) -> Iterator[Tensor]:
    """Rows ``[n, d]`` of ``x [..., d]`` on the SAE's device, few enough for `CHUNK_CODES`."""
    if x.shape[-1] != sae.cfg.d_in:
        raise FeaturebrushError(f"activations of width {x.shape[-1]} given to an SAE of width {sae.cfg.d_in}")
    rows = x.reshape(-1, x.shape[-1])
    for chunk in rows.split(max(1, CHUNK_CODES // sae.cfg.n_features)):
        yield chunk.to(sae.W_enc.device, torch.float32)


class Evaluation(NamedTuple):
    """How well an SAE describes some activations; see the functions of the same names."""

    variance_unexplained: float
    mean_channel_explained_variance: float
    l0: float
    dead_share: float
    vectors: int
    """How many it was measured on."""


class Measures:
    """Sums over any number of vectors from which `Evaluation` follows: one pass, and memory that does not grow.

    Sums are float64, of the vectors less the first one, so that a mean far from 0 costs no digits.
    """

    def __init__(self, sae: SAE):
        self.sae = sae
        self.vectors = 0
        """How many were added."""
        device = sae.W_enc.device
        self._first: Tensor | None = None
        self._sum, self._squares, self._error = torch.zeros(3, sae.cfg.d_in, dtype=torch.float64, device=device)
        self._active = torch.zeros(sae.cfg.n_features, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Take account of the vectors of ``x [..., d]``."""
        for chunk in _chunks(self.sae, x):
            if len(chunk) == 0:
                continue
            if self._first is None:
                self._first = chunk[0].double()
            z = self.sae.encode(chunk)
            off = chunk.double() - self._first
            self._sum += off.sum(0)
            self._squares += off.square().sum(0)
            self._error += (chunk - self.sae.decode(z)).double().square().sum(0)
            self._active += (z > 0).sum(0)
            self.vectors += len(chunk)

    @property
    def mean(self) -> Tensor:
        """The mean ``[d]`` (float64) of the vectors; `FeaturebrushError` if there are none."""
        if self._first is None:
            raise FeaturebrushError("there are no vectors to measure on: give at least one")
        return self._first + self._sum / self.vectors

    @property
    def _variance(self) -> Tensor:
        """``Σ(x − mean)²``, ``[d]``."""
        if self._first is None:
            raise FeaturebrushError("there are no vectors to measure on: give at least one")
        return (self._squares - self._sum.square() / self.vectors).clamp(min=0)

    def channels(self) -> Tensor:
        """``1 − Σ(x_c − x̂_c)² / Σ(x_c − mean_c)²`` of every channel, ``[d]`` float64; NaN where it never varies."""
        variance = self._variance
        return torch.where(variance > 0, 1 - self._error / variance, torch.nan)

    def result(self) -> Evaluation:
        """All the measures; `FeaturebrushError` if there are no vectors, or if they are all equal."""
        variance, channels = self._variance, self.channels()
        if not bool((variance > 0).any()):
            raise FeaturebrushError("the vectors are all equal: there is no variance to explain")
        return Evaluation(
            variance_unexplained=(self._error.sum() / variance.sum()).item(),
            mean_channel_explained_variance=channels.nanmean().item(),
            l0=self._active.sum().item() / self.vectors,
            dead_share=(self._active == 0).double().mean().item(),
            vectors=self.vectors,
        )


def evaluate(sae: SAE, x: Tensor) -> Evaluation:
    """All the measures of ``sae`` on ``x [..., d]`` at once; memory is bounded, sums are float64."""
    measures = Measures(sae)
    measures.add(x)
    return measures.result()


def variance_unexplained(sae: SAE, x: Tensor) -> float:
    """``Σ|x − x̂|² / Σ|x − mean|²`` over all of ``x [..., d]``: 0 is perfect, 1 no better than the mean."""
    return evaluate(sae, x).variance_unexplained


def mean_channel_explained_variance(sae: SAE, x: Tensor) -> float:
    """Mean over the channels c of ``1 − Σ(x_c − x̂_c)² / Σ(x_c − mean_c)²``; channels that never vary are left out."""
    return evaluate(sae, x).mean_channel_explained_variance


def l0(sae: SAE, x: Tensor) -> float:
    """Mean number of active features per vector of ``x [..., d]``."""
    return evaluate(sae, x).l0


def dead_share(sae: SAE, x: Tensor) -> float:
    """Share of the features, 0..1, that are active in no vector of ``x [..., d]``."""
    return evaluate(sae, x).dead_share


class FeatureStats(NamedTuple):
    """Per feature, in the activations' units; zero for a feature that was never active."""

    mean: Tensor
    """``[F]`` float32, over the positions where it is active."""
    density: Tensor
    """``[F]`` float32: share of positions where it is active, 0..1."""
    quantiles: Tensor
    """``[F, Q]`` float32, of its active values at ``levels``."""
    positions: int
    """How many were seen."""
    levels: tuple[float, ...]


class DensityHistogram(NamedTuple):
    """How many features are active how often."""

    edges: tuple[float, ...]
    """Bounds of the bins, ascending, from the lowest density told apart to 1."""
    counts: tuple[int, ...]
    """Features per bin, one less than edges; those below the lowest edge are in the first bin."""
    dead: int
    """Features never active; in no bin."""


def density_histogram(density: Tensor, decades: int = 6, per_decade: int = 4) -> DensityHistogram:
    """Histogram of ``density [F]`` (0..1) over ``decades`` powers of ten below 1."""
    if density.dim() != 1 or bool(((density < 0) | (density > 1)).any()):
        raise FeaturebrushError(f"densities are a vector [F] of numbers from 0 to 1, not {list(density.shape)}")
    steps = torch.arange(-decades * per_decade, 1, dtype=torch.float64)
    edges = 10 ** (steps / per_decade)
    active = density[density > 0].double().cpu()
    places = torch.bucketize(active, edges[1:-1], right=True)
    counts = torch.bincount(places, minlength=len(edges) - 1)
    return DensityHistogram(tuple(edges.tolist()), tuple(counts.tolist()), len(density) - len(active))


BITS = 17
"""Bits dropped from a float32 to make its histogram bin: 64 bins per octave are left."""
BINS = 1024
"""Bins of a feature's histogram: 16 octaves above the threshold."""


@torch.no_grad()
def feature_stats(sae: SAE, batches: Iterable[Tensor], levels: Sequence[float] = QUANTILE_LEVELS) -> FeatureStats:
    """Measure every feature on ``batches`` of activations ``[..., d]``, in one pass and bounded memory.

    Mean, density and the highest value are exact. Quantiles come from a histogram of 64 bins per octave over 16
    octaves, so within that range they are off by 1/64 at most.
    """
    if not levels or any(not 0 <= level <= 1 for level in levels):
        raise FeaturebrushError(f"quantile levels must be from 0 to 1, not {tuple(levels)!r}")
    f, device = sae.cfg.n_features, sae.W_enc.device
    count = torch.zeros(f, dtype=torch.int64, device=device)
    total = torch.zeros(f, dtype=torch.float64, device=device)
    highest = torch.zeros(f, device=device)
    histogram = torch.zeros(f * BINS, dtype=torch.int64, device=device)
    positions = 0
    base: int | None = None
    for batch in batches:
        for chunk in _chunks(sae, batch):
            positions += len(chunk)
            z = sae.encode(chunk).float()
            cols = z.nonzero()[:, 1]
            values = z[z > 0]
            if len(values) == 0:
                continue
            if base is None:
                # Thresholds may be 0, or far below what is active: leave at most 12 octaves below the highest value.
                lowest = max(sae.threshold.min().item(), values.max().item() / 2**12)
                base = int(torch.tensor(lowest).view(torch.int32)) >> BITS
            # A positive float32's bits, read as an integer, grow with it: dropping low bits bins it by ratio.
            bins = ((values.view(torch.int32) >> BITS) - base).clamp(0, BINS - 1)
            count += torch.bincount(cols, minlength=f)
            total.index_add_(0, cols, values.double())
            highest = torch.maximum(highest, z.amax(0))
            histogram.index_add_(0, cols * BINS + bins, torch.ones_like(cols))
    if positions == 0:
        raise FeaturebrushError("there are no activations to measure on: give at least one batch")
    quantiles = torch.stack([_quantile(histogram.view(f, BINS), highest, base or 0, level) for level in levels], dim=1)
    mean = (total / count.clamp(min=1)).float()
    return FeatureStats(mean, (count.double() / positions).float(), quantiles, positions, tuple(levels))


def _quantile(histogram: Tensor, highest: Tensor, base: int, level: float) -> Tensor:
    """The quantile ``[F]`` at ``level``, from ``histogram [F, bins]``; linear within a bin."""
    ends = histogram.cumsum(1)
    rank = level * (ends[:, -1:].double() - 1).clamp(min=0)
    place = torch.searchsorted(ends.double(), rank, right=True).clamp(max=BINS - 1)
    inside = histogram.gather(1, place)
    before = ends.gather(1, place) - inside
    low = ((place + base) << BITS).int().view(torch.float32)
    high = ((place + base + 1) << BITS).int().view(torch.float32)
    value = (low + (high - low) * ((rank - before + 0.5) / inside.clamp(min=1))).squeeze(1).float()
    value = torch.minimum(value, highest)
    return highest.clone() if level == 1 else torch.where(ends[:, -1] > 0, value, torch.zeros_like(value))


class ConceptCounts:
    """Counts, over any number of positions, from which F1 follows for every threshold, feature and concept.

    ``thresholds [F, T]``, ascending in T, say above which value a feature claims a position. Memory is
    ``F · (T + 1) · C`` float64, whatever the number of positions.
    """

    def __init__(self, thresholds: Tensor, n_concepts: int):
        if thresholds.dim() != 2 or bool((thresholds.diff(dim=1) < 0).any()):
            raise FeaturebrushError("thresholds must be [F, T], ascending along T")
        self.thresholds = thresholds
        f, t = thresholds.shape
        self._hits = thresholds.new_zeros((f * (t + 1), n_concepts), dtype=torch.float64)
        self._claims = thresholds.new_zeros(f * (t + 1), dtype=torch.float64)
        self._positives = thresholds.new_zeros(n_concepts, dtype=torch.float64)

    def add(self, codes: Tensor, masks: Tensor) -> None:
        """Count ``codes [N, F]`` ≥ 0 against ``masks [N, C]`` bool. Costs what the codes above 0 cost."""
        f, t = self.thresholds.shape
        if codes.dim() != 2 or codes.shape[1] != f or masks.shape != (len(codes), len(self._positives)):
            raise FeaturebrushError(
                f"codes {list(codes.shape)} and masks {list(masks.shape)} do not fit: "
                f"expected [N, {f}] and [N, {len(self._positives)}]"
            )
        truth = masks.to(self.thresholds.device, torch.float64)
        self._positives += truth.sum(0)
        rows, cols = codes.nonzero(as_tuple=True)
        for part in torch.arange(len(rows), device=rows.device).split(max(1, CHUNK_CODES // (t + truth.shape[1] + 1))):
            row, col = rows[part], cols[part]
            passed = (codes[row, col][:, None] > self.thresholds[col]).sum(1)
            place = col * (t + 1) + passed
            self._hits.index_add_(0, place, truth[row])
            self._claims += torch.bincount(place, minlength=len(self._claims))

    def f1(self) -> Tensor:
        """``F1 = 2·hits / (claims + positives)``, 0..1, for each threshold, feature and concept: ``[T, F, C]``."""
        f, t = self.thresholds.shape
        # An entry that passed j thresholds is claimed at each of the first j.
        hits = self._hits.view(f, t + 1, -1).flip(1).cumsum(1).flip(1)[:, 1:].transpose(0, 1)
        claims = self._claims.view(f, t + 1).flip(1).cumsum(1).flip(1)[:, 1:].T
        return (2 * hits / (claims[:, :, None] + self._positives).clamp(min=1)).float()


class ConceptScores(NamedTuple):
    """How well each feature finds each concept."""

    f1: Tensor
    """``[F, C]`` float32, 0..1, at the best of the thresholds."""
    threshold: Tensor
    """``[F, C]`` float32: that threshold."""


@torch.no_grad()
def feature_concept_scores(codes: Tensor, masks: Tensor, thresholds: Tensor | None = None) -> ConceptScores:
    """F1 of "the feature's code is above a threshold" as a detector of "the position is in the concept's mask".

    Parameters: ``codes [N, F]`` ≥ 0, ``masks [N, C]`` bool; ``thresholds [F, T]``, ascending, of which the best is
    taken for each pair; if not given, `SCORE_FRACTIONS` of the 99% quantile of each feature's values above 0.
    Chosen and scored on the same positions; `sae.labels` keeps the two apart.
    """
    if codes.dim() != 2 or masks.dim() != 2:
        raise FeaturebrushError(f"expected codes [N, F] and masks [N, C], not {list(codes.shape)}, {list(masks.shape)}")
    if thresholds is None:
        thresholds = score_thresholds(_upper_values(codes))
    counts = ConceptCounts(thresholds.to(codes), masks.shape[1])
    step = max(1, CHUNK_CODES // max(1, codes.shape[1]))
    for start in range(0, len(codes), step):
        counts.add(codes[start : start + step], masks[start : start + step])
    f1, best = counts.f1().max(dim=0)
    chosen = counts.thresholds[:, :, None].expand(-1, -1, masks.shape[1]).gather(1, best[:, None]).squeeze(1)
    return ConceptScores(f1, chosen)


def score_thresholds(upper: Tensor, fractions: Sequence[float] = SCORE_FRACTIONS) -> Tensor:
    """Thresholds ``[F, T]`` to try: the fractions of ``upper [F]``, a high value of each feature."""
    return upper[:, None] * upper.new_tensor(sorted(fractions))


def _upper_values(codes: Tensor, level: float = 0.99) -> Tensor:
    """The quantile of each feature's values above 0, ``[F]``; 0 if there are none."""
    columns = (column[column > 0] for column in codes.T)
    return torch.stack([c.sort().values[int(level * (len(c) - 1))] if len(c) else codes.new_zeros(()) for c in columns])
