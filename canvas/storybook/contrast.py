"""What the presence of a concept changes: means inside its masks against means outside of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from canvas.storybook.vocabulary import CONCEPTS, GROUPS, INDEX, TIMES


def outside_of(concept: str, masks: Tensor) -> Tensor:
    """Where a concept's presence is contrasted with its absence: bool [n, 16, 16].

    A thing is contrasted with the rest of the scenes that hold it; hours with the other hours' skies, and styles with
    the other styles, which would otherwise be compared with nothing.
    """
    inside = masks[..., INDEX[concept]]
    rivals = next((names for names in (TIMES, GROUPS["style"]) if concept in names), None)
    if rivals:
        return masks[..., [INDEX[name] for name in rivals if name != concept]].any(-1) & ~inside
    return ~inside & inside.flatten(1).any(1)[:, None, None]


class Differences(nn.Module):
    """Running means of vectors of ``d`` numbers (codes, updates) inside and outside every concept's mask.

    With ``decay`` below 1 what was seen earlier counts for less: the means follow a model that is being trained.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, d: int, decay: float = 1.0) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("sums", torch.zeros(2, len(CONCEPTS), d, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(2, len(CONCEPTS), dtype=torch.float64))

    @torch.no_grad()
    def add(self, vectors: Tensor, masks: Tensor) -> None:
        """``vectors`` [n, 16, 16, d], ``masks`` bool [n, 16, 16, concepts]."""
        inside = masks.flatten(0, 2).double()
        outside = torch.stack([outside_of(c, masks) for c in CONCEPTS], -1).flatten(0, 2).double()
        flat = vectors.flatten(0, 2).double()
        self.sums *= self.decay
        self.counts *= self.decay
        for side, chosen in enumerate((inside, outside)):
            self.sums[side] += chosen.T @ flat
            self.counts[side] += chosen.sum(0)

    def all(self) -> Tensor:
        """Mean inside minus mean outside, of every concept: float64 [concepts, d]; 0 where one side is unseen."""
        means = self.sums / self.counts[..., None].clamp_min(1e-9)
        return (means[0] - means[1]) * (self.counts > 0).all(0)[:, None]

    def of(self, concept: str) -> Tensor:
        """Mean inside minus mean outside: float64 [d]."""
        return self.all()[INDEX[concept]]
