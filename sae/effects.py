"""What features do: small pictures of the model with each one painted over all of the canvas, and over a disc."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sae.denoising import Denoiser
from sae.examples import ICON
from sae.model import SAE
from sae.splice import replacing

RADIUS = 0.3
"""Of the disc, as a share of the canvas' side."""


def disc(height: int, width: int, oversampled: int = 8) -> Tensor:
    """How much of each cell of a grid the disc in the middle covers: ``[height, width]``, 0..1."""
    y, x = (((torch.arange(n * oversampled) + 0.5) / (n * oversampled) - 0.5).square() for n in (height, width))
    inside = (y[:, None] + x < RADIUS**2).float()
    return F.avg_pool2d(inside[None], oversampled)[0]


@torch.no_grad()
def effect_icons(
    denoiser: Denoiser,
    sae: SAE,
    features: Sequence[int],
    length: float,
    seed: int = 0,
    batch: int = 16,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Icons ``[n, 2, 3, 48, 48]`` (uint8) of ``features [n]``: of an empty prompt, with ``length`` times each one's
    direction added to what the block does, everywhere and within a disc.

    Every picture starts from the noise of ``seed``; there is no guidance. ``progress`` is told how many icons are new.
    """
    if not features:
        return torch.zeros(0, 2, 3, ICON, ICON, dtype=torch.uint8)
    directions = sae.W_dec.detach()
    icons = torch.zeros(len(features) * 2, 3, ICON, ICON, dtype=torch.uint8)
    for part in torch.arange(len(icons)).split(batch):
        rows = directions[torch.tensor([features[i] for i in (part // 2).tolist()])] * length
        in_disc = (part % 2 == 1)[:, None, None]

        def painted(u: Tensor, rows: Tensor = rows, in_disc: Tensor = in_disc) -> Tensor:
            mask = torch.where(in_disc, disc(u.shape[1], u.shape[2]), 1.0)
            return u + mask[..., None].to(u) * rows[:, None, None].to(u)

        with replacing(denoiser.unet, sae.cfg.block, painted, sae.cfg.site):
            pictures = denoiser.render([""] * len(part), [seed] * len(part), 1.0)
        small = F.interpolate(pictures, (ICON, ICON), mode="bilinear", antialias=True)
        icons[part] = (small.clamp(0, 1) * 255).round().to(torch.uint8)
        if progress is not None:
            progress(len(part))
    return icons.view(-1, 2, 3, ICON, ICON)
