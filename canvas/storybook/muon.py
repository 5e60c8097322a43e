"""Muon: momentum, orthogonalised by a Newton-Schulz iteration (K. Jordan et al., "Muon", 2024).

``torch.optim.Muon`` always iterates in bfloat16, slow on CPUs without units for it, and takes matrices only.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Approximately the nearest semi-orthogonal matrices: [n, rows, cols] in and out."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[1] > g.shape[2]
    x = g.transpose(1, 2) if tall else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions (convolutions count as [out, in·k·k]); matrices of one shape go together.

    The step has the root mean square of Adam's (factor 0.2·√max(rows, cols), Moonlight, arXiv 2502.16982), so that one
    learning rate serves both.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # noqa: ANN001 - torch's signature
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                shapes.setdefault((update.shape[0], update.shape[1]), []).append((p, update))
            for (rows, cols), pairs in shapes.items():
                updates = orthogonalise(torch.stack([u for _, u in pairs]).to(self.dtype))
                scale = 0.2 * max(rows, cols) ** 0.5
                for (p, _), u in zip(pairs, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(u.reshape(p.shape), alpha=-group["lr"] * scale)
