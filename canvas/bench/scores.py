"""What one stroke did, in numbers: from the unpainted picture, the painted one, and what the reader sees in both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr

from canvas.bench.reader import SIDE, Reading
from canvas.masks import Mask
from sae.ssim import ssim_map

COVERED = 0.25
"""A thing has arrived if it covers this share of the painted region …"""
OVERLAP = 0.2
"""… or if its overlap with the region, intersection over union, is at least this."""
CELL = 1 / 16
"""A cell of the grid, as a fraction of the canvas."""


def arrived(reading: Reading, concept: str, mask: Mask) -> tuple[bool, float, float]:
    """Whether the concept is in the region, the share of the region that it covers, and its IoU with the region.

    What lies further than two cells outside of the region is not held against the IoU: that is another one of the
    same kind.
    """
    region = mask.coverage(SIDE, SIDE) > 0.5
    found = reading.of(concept)
    near = _grown(region, 2 * SIDE // 16)
    both = float((found & region).sum())
    covered = both / max(1.0, float(region.sum()))
    overlap = both / max(1.0, float((region | (found & near)).sum()))
    return covered >= COVERED or overlap >= OVERLAP, covered, overlap


def kept(before: Image.Image, after: Image.Image, mask: Mask) -> dict[str, float]:
    """What happened outside of the region: SSIM, mean absolute change of pixels (0..255), and of those inside."""
    a, b = (np.asarray(image.convert("RGB"), np.float32) for image in (before, after))
    inside = mask.coverage(*a.shape[:2]) > 0.5
    change = np.abs(a - b).mean(-1)
    pair = (torch.from_numpy(picture).permute(2, 0, 1)[None] / 255 for picture in (a, b))
    similar = ssim_map(*pair)[0].mean(0).numpy()
    rim = (a.shape[0] - len(similar)) // 2
    within, without = float(change[inside].mean()), float(change[~inside].mean())
    return {
        "ssim_outside": float(similar[~inside[rim:-rim, rim:-rim]].mean()),
        "inside": within,
        "outside": without,
        "ratio": within / max(without, 1e-3),
    }


def dose(strengths: Sequence[float], chances: Sequence[float]) -> float:
    """Spearman's rank correlation of strengths and the reader's chances; 0 where one of them does not vary."""
    if len(set(strengths)) < 2 or len(set(chances)) < 2:
        return 0.0
    correlation = np.asarray(spearmanr(strengths, chances))[0]
    return float(correlation)


def chance_in(reading: Reading, concept: str, mask: Mask) -> float:
    """The reader's chance of the concept, averaged over the region."""
    region = mask.coverage(SIDE, SIDE)
    return float((reading.chance(concept) * region).sum() / max(1e-6, float(region.sum())))


def centre_of(reading: Reading, plain: Reading, concept: str, mask: Mask) -> NDArray[np.float64] | None:
    """The middle (x, y), fractions of the canvas, of the concept in and about the region, without what was there
    unpainted; None if there is nothing."""
    near = _grown(mask.coverage(SIDE, SIDE) > 0.5, 2 * SIDE // 16)
    found = reading.of(concept) & ~plain.of(concept) & near
    if found.sum() < 4:
        return None
    rows, columns = np.nonzero(found)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5]) / SIDE


def moved_error(first: NDArray[np.float64] | None, second: NDArray[np.float64] | None, dx: float) -> float:
    """How far, in cells, the thing is from where it should have moved by ``dx``; infinite if one is missing."""
    if first is None or second is None:
        return float("inf")
    return float(np.hypot(*(second - first - np.array([dx, 0.0])))) / CELL


class World:
    """What the reader's features are like on drawn scenes, to say how far from them a picture is."""

    def __init__(self, features: NDArray[np.float32]) -> None:
        """``features`` [n, d] of drawn scenes as the autoencoder gives them back; n above d."""
        self.mean = features.mean(0)
        cov = np.cov(features.T) + 1e-4 * np.eye(features.shape[1])
        self._inverse = np.linalg.inv(cov)
        self.limit = float(np.quantile([self.distance(f) for f in features], 0.99))

    def distance(self, features: NDArray[np.float32]) -> float:
        """Mahalanobis distance from the drawn scenes."""
        off = features - self.mean
        return float(np.sqrt(max(0.0, off @ self._inverse @ off)))

    def is_off(self, features: NDArray[np.float32]) -> bool:
        """Whether a picture is further off than 99 of 100 drawn ones."""
        return self.distance(features) > self.limit


class Critic:
    """Tells drawn pictures from generated ones by the reader's features: Fisher's linear discriminant, with the cut
    halfway between the two means."""

    def __init__(self, drawn: NDArray[np.float32], generated: NDArray[np.float32]) -> None:
        """Of features [n, d] and [m, d]. The covariance of both is shrunk towards its diagonal by a tenth."""
        centred = np.concatenate([drawn - drawn.mean(0), generated - generated.mean(0)]).astype(np.float64)
        cov = np.cov(centred.T)
        cov = 0.9 * cov + 0.1 * np.diag(np.diag(cov)) + 1e-6 * np.eye(len(cov))
        self._direction = np.linalg.solve(cov, generated.mean(0) - drawn.mean(0))
        self._middle = (generated.mean(0) + drawn.mean(0)) / 2

    def is_generated(self, features: NDArray[np.float32]) -> bool:
        return float((features - self._middle) @ self._direction) > 0


def frechet(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Fréchet distance of the Gaussians of two sets of features [n, d] (Heusel et al. 2017, 1706.08500, eq. 6)."""
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    # the trace of a product's square root is the sum of the roots of its eigenvalues, which are real and not negative
    roots = np.sqrt(np.clip(np.linalg.eigvals(cov_a @ cov_b).real, 0, None)).sum()
    return float(means + np.trace(cov_a) + np.trace(cov_b) - 2 * roots)


def _grown(region: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(region, iterations=by), np.bool_)
