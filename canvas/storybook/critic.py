"""The critic: what tells drawn latents from generated ones, cell by cell and concept by concept, while training.

It is a segmenter with a class for the generated (OASIS, Schönfeld et al., arXiv 2012.04781), on latents, as the
discriminators of few-step diffusion models are (LADD, Sauer et al., arXiv 2403.12015). It learns from the generator's
own scenes. The reader, which judges pictures afterwards, never meets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from canvas.storybook.data import GRID
from canvas.storybook.vocabulary import CONCEPTS


class Verdict(NamedTuple):
    """Logits of what the critic sees; C concepts."""

    drawn: Tensor
    """that a place is of a drawn scene: [n, 32, 32]"""
    drawn_as: Tensor
    """that a cell is of a drawn scene and shows the concept: [n, C, 16, 16]"""
    shows: Tensor
    """that a cell shows the concept, whoever made it: [n, C, 16, 16]; learnt from drawn scenes alone"""

    def part(self, chosen: slice) -> Verdict:
        return Verdict(self.drawn[chosen], self.drawn_as[chosen], self.shows[chosen])


class Critic(nn.Module):
    """Clean latents [n, 8, 32, 32], and the sampler's step [n] that they were predicted at, to a `Verdict`."""

    def __init__(self, channels: int = 8, size: int = 32, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        depth = len(widths)
        self.net = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=1 + 2 * len(CONCEPTS),
            block_out_channels=tuple(widths),
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * (depth - 1) + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1),
            norm_num_groups=16,
        )

    def forward(self, latents: Tensor, step: Tensor) -> Verdict:
        found = self.net(latents, 100 * step, return_dict=False)[0].float()
        cells = F.adaptive_avg_pool2d(found[:, 1:], GRID)
        return Verdict(found[:, 0], *cells.chunk(2, 1))


@dataclass(frozen=True)
class Rarity:
    """How much a concept's cells weigh, so that a rare one counts: [C, 1, 1], 1 for the one in the middle."""

    weight: Tensor

    @classmethod
    def of(cls, cells: Tensor) -> Rarity:
        """From which cells show which concepts in some scenes: bool [n, C, 16, 16]."""
        share = cells.float().mean((0, 2, 3)).clamp_min(1e-6)
        return cls((share.median() / share).sqrt().clamp(0.3, 4.0)[:, None, None])


def read_loss(verdict: Verdict, coverage: Tensor, rarity: Rarity) -> Tensor:
    """Of the concepts that drawn cells show, by the share of them that does: ``coverage`` [n, C, 16, 16], 0..1."""
    return (rarity.weight * F.binary_cross_entropy_with_logits(verdict.shows, coverage, reduction="none")).mean()


def critic_loss(drawn: Verdict, coverage: Tensor, made: Verdict, rarity: Rarity) -> Tensor:
    """Of telling drawn latents, and what they show, from generated ones, which show nothing that is drawn."""
    realness = F.softplus(-drawn.drawn).mean() + F.softplus(made.drawn).mean()
    as_drawn = F.binary_cross_entropy_with_logits(drawn.drawn_as, coverage, reduction="none")
    cells = (rarity.weight * as_drawn).mean() + (rarity.weight * F.softplus(made.drawn_as)).mean()
    return realness + 10 * cells


def smoothness(critic: Critic, latents: Tensor, step: Tensor, verdict: Verdict, sigma: float = 0.1) -> Tensor:
    """How steep the critic is about drawn latents: R1 without second derivatives (2501.08316, section 3.3)."""
    there = critic(latents + sigma * torch.randn_like(latents), step)
    realness = (there.drawn - verdict.drawn).mean((1, 2)).square().mean()
    return (realness + (there.drawn_as - verdict.drawn_as).square().mean()) / sigma**2


def strongest(logits: Tensor, strokes: Tensor, share: Tensor) -> Tensor:
    """−log of the chances, averaged over the cells of every stroke that fit its concept best.

    A thing does not fill the stroke that it is painted with: only ``share`` [n, C] of a stroke's cells, those with the
    highest ``logits`` [n, C, 16, 16], must show it. Cells under at least half of the full ``strokes`` [n, C, 16, 16]
    count. Returns [m] for the m strokes.
    """
    flat = strokes.flatten(2)
    peak = flat.amax(2)
    under = (flat >= 0.5 * peak[..., None]) & (peak[..., None] > 0)
    chosen = peak > 0
    ranked = torch.where(under, logits.flatten(2), -torch.inf)[chosen].sort(-1, descending=True).values
    n = under[chosen].sum(-1)
    wanted = (n * share[chosen]).ceil().clamp(min=1)
    counted = torch.arange(ranked.shape[-1], device=ranked.device) < wanted[:, None]
    return torch.where(counted, F.softplus(-ranked.clamp_min(-1e4)), 0.0).sum(-1) / wanted
