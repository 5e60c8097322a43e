"""Which features are strong where in a picture, and where in it else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sae import SAE
from sae.errors import FeaturebrushError

HEATMAP = 16
"""Height and width of a heatmap, as in the atlas."""


@dataclass(frozen=True, eq=False)
class SeenFeature:
    """A feature as it is active at a place of a picture."""

    block: str
    index: int
    label: str
    """What it stands for, or "" where nobody knows."""
    activation: float
    """Its code at the place over its mean: 1 is what is usual where it is active."""
    heatmap: np.ndarray
    """Its codes over the whole picture, uint8 ``[16, 16]``, 255 at the highest."""


class Inspection:
    """The codes ``z / μ`` of one picture at every block, from which any place can be looked up at no cost.

    Parameters: ``saes`` by block; ``updates``: each block's input and output ``[1, d, H, W]``
    (`canvas.engine.Engine.updates`).
    """

    def __init__(self, saes: Mapping[str, SAE], updates: Mapping[str, tuple[Tensor, Tensor]]):
        self._codes = {block: _codes(sae, *updates[block]) for block, sae in saes.items()}

    def at(self, x: float, y: float, most: int) -> dict[str, list[tuple[int, float]]]:
        """The ``most`` strongest features of each block at a place: index and activation over the mean, in order.

        ``x`` and ``y`` are fractions 0..1 of the picture's width and height.
        """
        for name, value in (("x", x), ("y", y)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise FeaturebrushError(f"{name} is a fraction of the picture in 0..1, not {value!r}")
        found = {}
        for block, codes in self._codes.items():
            height, width, n_features = codes.shape
            here = codes[min(int(y * height), height - 1), min(int(x * width), width - 1)]
            values, index = here.topk(min(most, n_features))
            found[block] = [(int(i), float(v)) for i, v in zip(index, values, strict=True) if v > 0]
        return found

    def heatmap(self, block: str, index: int) -> np.ndarray:
        """Where a feature is active, uint8 ``[16, 16]``, 255 at the highest."""
        codes = self._codes[block][..., index][None]
        codes = F.adaptive_avg_pool2d(codes, (HEATMAP, HEATMAP))[0]
        return (255 * codes / codes.max().clamp_min(1e-12)).round().to(torch.uint8).numpy()


def _codes(sae: SAE, entered: Tensor, left: Tensor) -> Tensor:
    """``z / μ``, ``[H, W, F]`` on the CPU; 0 for features that have never been active."""
    site = left if sae.cfg.site == "output" else left - entered
    codes = sae.encode(site[0].to(sae.W_dec).permute(1, 2, 0))
    usual = torch.where(sae.mean > 0, sae.mean, math.inf)
    return (codes / usual).cpu()
