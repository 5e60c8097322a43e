"""Which features of one dictionary are those of another, and how alike dictionaries of different seeds are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from scipy.optimize import linear_sum_assignment
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
    rows, partners = linear_sum_assignment(cosines.numpy(), maximize=True)
    return cosines[rows, partners]
