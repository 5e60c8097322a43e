"""Which features are near which: by direction, by being active together, and on a map of two dimensions."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sae.errors import FeaturebrushError


class Nearest(NamedTuple):
    """The nearest features of each feature, nearest first."""

    index: Tensor
    """``[F, K]`` int64; −1 where there are no more."""
    closeness: Tensor
    """``[F, K]`` float32: cosine, or Jaccard index; 0 where there are no more."""


NONE = -1
BLOCK_CELLS = 2**22
"""Cells of the matrix of all pairs that are computed at a time."""


def nearest_by_direction(directions: Tensor, k: int) -> Nearest:
    """The ``k`` other rows of ``directions [F, d]`` of greatest cosine; all others if there are fewer."""
    if directions.dim() != 2:
        raise FeaturebrushError(f"directions have the shape {list(directions.shape)}: expected [F, d]")
    unit = F.normalize(directions.float().cpu(), dim=1)
    n = len(unit)
    found: list[Nearest] = []
    for rows in torch.arange(n).split(max(1, BLOCK_CELLS // max(1, n))):
        cosines = unit[rows] @ unit.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        found.append(_largest(cosines, min(k, n - 1)))
    return _joined(found)


def _largest(closeness: Tensor, k: int) -> Nearest:
    top = closeness.topk(k, dim=1)
    return Nearest(top.indices, top.values)


def _joined(parts: list[Nearest]) -> Nearest:
    return Nearest(torch.cat([part.index for part in parts]), torch.cat([part.closeness for part in parts]))


class CoActivity:
    """Which features are active at the same positions, on an even sample of positions of bounded size.

    Position n is in the sample if a hash of n is below a bound, which is halved whenever more than ``entries`` codes
    above 0 are held: a sample without regard to where in the pictures a position lies.
    """

    def __init__(self, n_features: int, entries: int = 2**21):
        self.n_features = n_features
        self._entries = entries
        self._bound = 2**32
        self._seen = 0
        self._rows: list[Tensor] = []
        self._cols: list[Tensor] = []

    def add(self, codes: Tensor) -> None:
        """Take account of the positions of ``codes [n, F]`` ≥ 0."""
        if codes.dim() != 2 or codes.shape[1] != self.n_features:
            raise FeaturebrushError(f"codes have the shape {list(codes.shape)}: expected [n, {self.n_features}]")
        numbers = torch.arange(self._seen, self._seen + len(codes))
        self._seen += len(codes)
        kept = _hash(numbers) < self._bound
        rows, cols = codes[kept.to(codes.device)].nonzero(as_tuple=True)
        self._rows.append(numbers[kept][rows.cpu()])
        self._cols.append(cols.cpu())
        while sum(map(len, self._rows)) > self._entries and self._bound > 1:
            self._bound //= 2
            rows, cols = torch.cat(self._rows), torch.cat(self._cols)
            stays = _hash(rows) < self._bound
            self._rows, self._cols = [rows[stays]], [cols[stays]]

    def nearest(self, k: int) -> Nearest:
        """By the Jaccard index |both| / |either|; features that are never active together are not near each other."""
        n = self.n_features
        k = min(k, n - 1)
        if not self._rows or not sum(map(len, self._rows)):
            return Nearest(torch.full((n, k), NONE), torch.zeros(n, k))
        # Entries lie row by row, since positions come in ascending order.
        _, row = torch.cat(self._rows).unique_consecutive(return_inverse=True)
        col = torch.cat(self._cols)
        length = torch.bincount(row)
        start = length.cumsum(0) - length
        count = torch.bincount(col, minlength=n)
        by_feature = col.argsort(stable=True)
        first = F.pad(count.cumsum(0), (1, 0))
        found: list[Nearest] = []
        for features in torch.arange(n).split(max(1, BLOCK_CELLS // n)):
            entries = by_feature[first[features[0]] : first[features[-1] + 1]]
            repeat = length[row[entries]]
            entry = torch.arange(len(entries)).repeat_interleave(repeat)
            place = torch.arange(len(entry)) - (repeat.cumsum(0) - repeat)[entry]
            partner = col[start[row[entries]][entry] + place]
            pair = (col[entries][entry] - features[0]) * n + partner
            both = torch.bincount(pair, minlength=len(features) * n).view(len(features), n)
            jaccard = both / (count[features][:, None] + count - both).clamp(min=1)
            jaccard[torch.arange(len(features)), features] = -1
            top = _largest(jaccard, k)
            met = top.closeness > 0
            found.append(Nearest(torch.where(met, top.index, NONE), torch.where(met, top.closeness, 0.0)))
        return _joined(found)


def _hash(numbers: Tensor) -> Tensor:
    """Knuth's multiplicative hash into 0..2^32 − 1, for numbers below 2^31."""
    return numbers * 2654435761 % 2**32


def map_of(directions: Tensor) -> tuple[np.ndarray, str]:
    """Coordinates ``[F, 2]`` float32, 0..1, at which features of like direction lie close; and how they were found.

    ``"umap"`` (McInnes, Healy & Melville, arXiv 1802.03426; cosine distance) if the optional package umap-learn is
    installed: ``pip install umap-learn``. Else ``"pca"``, the first two principal components of the unit directions:
    they spread along what most features differ in, and show clusters only where these are that coarse.
    """
    unit = F.normalize(directions.double().cpu(), dim=1)
    try:
        umap = import_module("umap")
    except ImportError:
        return _stretched(_principal(unit)), "pca"
    if len(unit) < 5:  # too few for a graph of neighbours
        return _stretched(_principal(unit)), "pca"
    neighbours = min(15, len(unit) - 1)
    mapper = umap.UMAP(n_components=2, metric="cosine", n_neighbors=neighbours, random_state=0)
    return _stretched(mapper.fit_transform(unit.numpy())), "umap"


def _principal(rows: Tensor) -> np.ndarray:
    centred = rows - rows.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    # The sign of a component is free: let its largest entry be above 0, so that it is the same everywhere.
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    places = centred @ (axes * largest.sign()).T
    return F.pad(places, (0, 2 - places.shape[1])).numpy()


def _stretched(places: np.ndarray) -> np.ndarray:
    """Each axis from 0 to 1; 0.5 where all are alike."""
    low, high = places.min(0), places.max(0)
    width = np.where(high > low, high - low, 1)
    return np.where(high > low, (places - low) / width, 0.5).astype(np.float32)
