"""What is learnt in one step, by architecture: which features a batch keeps, and the losses.

With pre-activations ``a = (x − b_dec) W_encᵀ + b_enc`` of a batch of n vectors:

- topk (2406.04093): each vector keeps its k largest positive ``a``.
- batchtopk (2412.06410): the batch keeps its n·k largest positive ``a``.
- matryoshka (2503.17547): as batchtopk; the loss is the mean over nested prefixes of the dictionary of the error of
  reconstructing from that prefix alone.
- jumprelu (2407.14435): each feature keeps the ``a`` above a threshold of its own, which is learnt by straight-through
  pseudo-derivatives; the loss adds ``l0_weight · (L0/k − 1)²``.

To the error comes AuxK (2406.04093, A.2): dead features are made to explain what is left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sae.config import TrainConfig
from sae.processes import Processes
from sae.sparse import decode, encode_at, largest_per_row, largest_positive


class Weights(NamedTuple):
    """The trained tensors, in units of the normalised activations; shapes as in `sae.SAE`."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    log_threshold: Tensor
    """``[F]`` for jumprelu, else ``[0]``."""


def initial(cfg: TrainConfig, centre: Tensor, generator: torch.Generator) -> Weights:
    """Random directions, the encoder their transpose, around ``centre [d]``."""
    directions = F.normalize(torch.randn(cfg.n_features, len(centre), generator=generator), dim=1).to(centre.device)
    zeros = torch.zeros(cfg.n_features, device=centre.device)
    thresholds = zeros.clone() if cfg.architecture == "jumprelu" else zeros[:0].clone()
    tensors = (directions, zeros, directions.clone(), centre.clone(), thresholds)
    return Weights(*(tensor.requires_grad_() for tensor in tensors))


@torch.no_grad()
def start_thresholds(weights: Weights, x: Tensor, k: int) -> None:
    """Set jumprelu's thresholds so that the batch ``x [n, d]`` begins at an L0 of about k."""
    a = F.linear(x - weights.b_dec, weights.W_enc, weights.b_enc)
    _, smallest = largest_positive(a, len(x) * k)
    weights.log_threshold.fill_(torch.tensor(max(smallest, 1e-3)).log().item())


class Step(NamedTuple):
    """One step's losses; each process's are of its part, divided by the whole, so that their sum is the batch's."""

    objective: Tensor
    """What is descended, but for AuxK."""
    error: Tensor
    """Mean squared error of the reconstruction from all features, without gradient."""
    aux_loss: Tensor
    smallest: float
    """The smallest kept activation, over all processes; 0 for jumprelu."""
    fired: Tensor
    """``[F]``: in how many vectors of this process's part each feature is active."""


def losses(
    weights: Weights, x: Tensor, cfg: TrainConfig, dead: Tensor, guess: float, n: int, processes: Processes
) -> Step:
    """The losses of ``x [m, d]``, this process's part of a batch of ``n``; ``dead [F]`` is what AuxK may wake.

    ``guess`` is the last step's smallest kept activation, which makes the exact choice cheaper.
    """
    if cfg.architecture == "jumprelu":
        objective, residual, fired = _jumprelu(weights, x, cfg, n, processes)
        smallest = 0.0
    else:
        objective, residual, fired, smallest = _kept(weights, x, cfg, guess, n, processes)
    aux_loss = objective.new_zeros(())
    if cfg.aux_weight > 0 and bool(dead.any()):
        aux_loss = _aux_k(weights, x, residual, dead, cfg.aux_k or max(1, x.shape[1] // 2), processes)
    error = residual.square().sum() / (n * x.shape[1])
    return Step(objective, error, aux_loss, smallest, fired)


def _kept(
    weights: Weights, x: Tensor, cfg: TrainConfig, guess: float, n: int, processes: Processes
) -> tuple[Tensor, Tensor, Tensor, float]:
    W_enc, b_enc, W_dec, b_dec, _ = weights
    with torch.no_grad():
        # A column of ones beside x adds the bias within the product: its copy over the whole output takes as long.
        bias = (b_enc - W_enc @ b_dec).unsqueeze(1)
        a = torch.cat([x, x.new_ones(len(x), 1)], 1) @ torch.cat([W_enc, bias], 1).T
        if cfg.architecture == "topk":
            kept, smallest = largest_per_row(a, cfg.k), 0.0
        else:
            kept, smallest = _largest_of_all(a, n * cfg.k, guess, processes)
    values, support = encode_at(a, x, W_enc, b_enc, b_dec, kept)
    ends = cfg.nested
    if len(ends) == 1:
        error = x - decode(values, W_dec, support) - b_dec
        return error.square().sum() / (n * x.shape[1]), error.detach(), support.fired, smallest
    parts = decode(values, W_dec, support.within(ends)).view(len(x), len(ends), -1)
    errors = (x - b_dec).unsqueeze(1) - parts.cumsum(1)
    objective = errors.square().sum() / (n * x.shape[1] * len(ends))
    return objective, errors[:, -1].detach(), support.fired, smallest


def _largest_of_all(a: Tensor, n_keep: int, guess: float, processes: Processes) -> tuple[Tensor, float]:
    """This process's share of the ``n_keep`` largest positive activations of all processes' ``a [m, F]``."""
    kept, smallest = largest_positive(a, n_keep, guess)
    if processes.count == 1:
        return kept, smallest
    values = a.flatten()[kept]
    everything = processes.gather(values)
    if len(everything) == 0:
        return kept, 0.0
    rank = max(1, len(everything) - n_keep + 1)
    smallest = everything.kthvalue(rank).values.item()
    return kept[values >= smallest], smallest


class _Jump(torch.autograd.Function):
    """``a · H(a − θ)`` with the pseudo-derivative ``−(θ/ε) K((a − θ)/ε)`` for θ, K the box of width 1 (eq. 11)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(a, threshold)
        ctx.bandwidth = bandwidth
        return a * (a > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        a, threshold = ctx.saved_tensors
        near = (a - threshold).abs() < ctx.bandwidth / 2
        to_threshold = -(threshold / ctx.bandwidth) * (grads[0] * near).sum(0)
        return grads[0] * (a > threshold), to_threshold, None


class _Active(torch.autograd.Function):
    """``H(a − θ)`` with the pseudo-derivative ``−(1/ε) K((a − θ)/ε)`` for θ and none for a (eq. 12)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(a, threshold)
        ctx.bandwidth = bandwidth
        return (a > threshold).to(a.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        a, threshold = ctx.saved_tensors
        near = (a - threshold).abs() < ctx.bandwidth / 2
        return None, -(grads[0] * near).sum(0) / ctx.bandwidth, None


def _jumprelu(
    weights: Weights, x: Tensor, cfg: TrainConfig, n: int, processes: Processes
) -> tuple[Tensor, Tensor, Tensor]:
    W_enc, b_enc, W_dec, b_dec, log_threshold = weights
    threshold = log_threshold.exp()
    a = F.linear(x - b_dec, W_enc, b_enc)
    z = _Jump.apply(a, threshold, cfg.bandwidth)
    active = _Active.apply(a, threshold, cfg.bandwidth)
    error = x - z @ W_dec - b_dec
    l0 = active.sum() / n
    # d/dθ of w·(L0/k − 1)², L0 over all processes, written so that the parts' gradients add up.
    whole = processes.sum(l0.detach())
    pull = 2 * cfg.l0_weight * (whole / cfg.k - 1) / cfg.k
    objective = error.square().sum() / (n * x.shape[1]) + pull * l0
    return objective, error.detach(), active.detach().sum(0).long()


def _aux_k(weights: Weights, x: Tensor, residual: Tensor, dead: Tensor, aux_k: int, processes: Processes) -> Tensor:
    """AuxK (2406.04093, A.2): the dead features with the largest activations reconstruct the residual, without bias.

    Dense over the dead features only, of which there are few.
    """
    a = F.linear(x - weights.b_dec, weights.W_enc[dead], weights.b_enc[dead])
    if a.shape[1] > aux_k:
        least = a.detach().topk(aux_k, dim=1, sorted=False).values.amin(1, keepdim=True)
        a = a * (a.detach() >= least)
    explained = a.relu() @ weights.W_dec[dead]
    whole = processes.sum(residual.square().sum()).clamp(min=1e-12)
    return (residual - explained).square().sum() / whole
