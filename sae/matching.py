"""Which features of one dictionary are those of another, and how alike dictionaries of different seeds are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sae.errors import FeaturebrushError


def stability(dictionaries: Sequence[Tensor]) -> float:
    """How far training finds the same features again: 1 if all the dictionaries have the same directions.

    Parameters: ``dictionaries`` are decoders ``[F, d]`` (rows of any length above 0) from other seeds. For each pair
    the features are matched one to one so that the sum of the cosines is greatest (the Hungarian assignment; Paulo &
    Belrose, arXiv 2501.16615); the mean of those cosines is averaged over the pairs.
    """
    if len(dictionaries) < 2:
        raise FeaturebrushError(f"stability compares dictionaries: give at least two, not {len(dictionaries)}")
    return sum(matched_cosines(a, b).mean().item() for a, b in combinations(dictionaries, 2)) / (
        len(dictionaries) * (len(dictionaries) - 1) / 2
    )


def matched_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of every feature of the smaller dictionary with its partner in the other: ``[min(F, G)]`` float64.

    Parameters: decoders ``first [F, d]`` and ``second [G, d]``. The one-to-one matching is that of greatest sum.
    """
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1] or not len(first) or not len(second):
        raise FeaturebrushError(
            f"decoders {list(first.shape)} and {list(second.shape)} cannot be matched: expected [F, d] and [G, d]"
        )
    smaller, larger = (first, second) if len(first) <= len(second) else (second, first)
    cosines = F.normalize(smaller.double().cpu(), dim=1) @ F.normalize(larger.double().cpu(), dim=1).T
    partner = torch.from_numpy(best_matching(cosines.numpy()))
    return cosines.gather(1, partner[:, None]).squeeze(1)


def best_matching(scores: np.ndarray) -> np.ndarray:
    """A column for each row of ``scores [n, m]``, n ≤ m, each column at most once, such that their sum is greatest.

    Shortest augmenting paths with dual variables (Crouse, "On implementing 2D rectangular assignment algorithms", IEEE
    TAES 52, 2016; the method of scipy's ``linear_sum_assignment``, which no other dependency brings along). Exact, of
    order n²m at worst, less where the greedy first match is good, as it is for similar dictionaries.
    """
    n, m = scores.shape
    if n > m or not np.isfinite(scores).all():
        raise FeaturebrushError(f"scores must be finite and at least as wide as high, not {n}×{m}")
    cost = scores.max() - scores if n else scores
    # Invariants: cost − u − v ≥ 0 everywhere, = 0 at matched pairs, v = 0 at free columns. The first match is greedy.
    u, v = cost.min(1) if n else np.zeros(0), np.zeros(m)
    column_of, row_of = np.full(n, -1), np.full(m, -1)
    for row, column in enumerate(cost.argmin(1) if n else ()):
        if row_of[column] < 0:
            column_of[row], row_of[column] = column, row
    for start in np.flatnonzero(column_of < 0):
        _augment(cost, u, v, column_of, row_of, int(start))
    return column_of


def _augment(
    cost: np.ndarray, u: np.ndarray, v: np.ndarray, column_of: np.ndarray, row_of: np.ndarray, start: int
) -> None:
    """Match the free row ``start`` along the cheapest alternating path to a free column; all arrays are changed."""
    m = len(v)
    shortest, came_from, is_open = np.full(m, np.inf), np.full(m, -1), np.ones(m, dtype=bool)
    row, distance, passed = start, 0.0, []
    while True:
        reduced = distance + cost[row] - u[row] - v
        better = is_open & (reduced < shortest)
        shortest[better] = reduced[better]
        came_from[better] = row
        column = int(np.where(is_open, shortest, np.inf).argmin())
        distance = shortest[column]
        is_open[column] = False
        if row_of[column] < 0:
            break
        row = int(row_of[column])
        passed.append(row)
    u[start] += distance
    u[passed] += distance - shortest[column_of[passed]]
    v[~is_open] -= distance - shortest[~is_open]
    while True:
        row = came_from[column]
        row_of[column] = row
        column, column_of[row] = column_of[row], column
        if row == start:
            return
