"""Structural similarity of pictures (Wang, Bovik, Sheikh & Simoncelli, IEEE Trans. Image Processing 13, 2004)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sae.errors import FeaturebrushError

WINDOW, SIGMA = 11, 1.5


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity ``[n]`` of pictures ``[n, c, h, w]`` with values 0..1; 1 if they are equal.

    The mean over channels and windows of `ssim_map`. scikit-image calls it
    ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)``.
    """
    return ssim_map(a, b).flatten(1).mean(1)


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity about each pixel: ``[n, c, h − 10, w − 10]`` of pictures ``[n, c, h, w]``, values 0..1.

    As its authors define it: a Gaussian window of 11×11 and deviation 1.5, K1 = 0.01, K2 = 0.03, biased variances;
    only windows that lie inside, so the outer 5 pixels have none.
    """
    if a.shape != b.shape or a.dim() != 4 or min(a.shape[2:]) < WINDOW:
        raise FeaturebrushError(
            f"pictures {list(a.shape)} and {list(b.shape)} cannot be compared: "
            f"expected two of the same shape [n, c, h, w] of at least {WINDOW}×{WINDOW} pixels"
        )
    a, b = a.double(), b.double()
    place = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    window = torch.exp(-(place**2) / (2 * SIGMA**2))
    window = window / window.sum()

    def blurred(x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    alike = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    alike = alike / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return alike.view(*a.shape[:2], *alike.shape[2:])
