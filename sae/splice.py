"""What a dictionary does to pictures: its reconstruction put in the place of what the block does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from sae import metrics
from sae.activations import block_input, block_module, block_output
from sae.errors import FeaturebrushError, unknown
from sae.model import SAE, Site
from sae.ssim import ssim

Case = TypeVar("Case")


@contextmanager
def replacing(unet: nn.Module, block: str, fn: Callable[[Tensor], Tensor], site: Site = "update") -> Iterator[None]:
    """While open, what ``block`` adds to its input is ``fn(u)`` in the place of u.

    ``fn`` is given the update (output − input) or, with ``site="output"``, the output, ``[B, H, W, d]`` float32, and
    returns as much. Where it returns what it was given, the U-Net computes exactly what it did. On leaving, also by an
    exception, the hook is gone. A hook that was there before and alters the block's output is seen.

    Raises `FeaturebrushError` for an unknown block or site before anything is hooked, and, when the U-Net runs, if
    ``fn`` returns another shape.
    """
    if site not in get_args(Site):
        raise unknown("site", site, get_args(Site))
    module = block_module(unet, block)

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        o = block_output(output)
        was = o.float() if site == "output" else o.float() - block_input(args, kwargs).float()
        was = was.permute(0, 2, 3, 1)
        becomes = fn(was)
        if becomes.shape != was.shape:
            raise FeaturebrushError(
                f"what replaces the {site} of {block} has the shape {list(becomes.shape)}: expected {list(was.shape)}"
            )
        # The difference is added, so that no rounding is left where nothing changes.
        change = (becomes - was).permute(0, 3, 1, 2)
        return _with_sample(output, (o.float() + change).to(o.dtype))

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _with_sample(output: Any, sample: Tensor) -> Any:
    if isinstance(output, Tensor):
        return sample
    return (sample, *output[1:]) if isinstance(output, tuple) else replace(output, sample=sample)


def reconstruct(sae: SAE, u: Tensor) -> Tensor:
    """``sae(u)`` of ``u [..., d]``, on the device of u, never holding more than `sae.metrics.CHUNK_CODES` codes."""
    rows = u.reshape(-1, u.shape[-1])
    chunks = rows.split(max(1, metrics.CHUNK_CODES // sae.cfg.n_features))
    device = sae.W_dec.device
    return torch.cat([sae(chunk.to(device)).to(u.device, u.dtype) for chunk in chunks]).view_as(u)


@contextmanager
def spliced(unet: nn.Module, sae: SAE) -> Iterator[None]:
    """While open, the SAE's block does what the SAE says of it: its reconstruction replaces the update (or output)."""
    if not sae.cfg.block:
        raise FeaturebrushError("the SAE is tied to no block: its cfg.block must name one, as in 'down.1.0'")
    with replacing(unet, sae.cfg.block, lambda u: reconstruct(sae, u), sae.cfg.site):
        yield


@dataclass(frozen=True)
class Losses:
    """A model's own loss, with the block as it is and with other things in its place; means over the examples."""

    plain: float
    spliced: float
    """With the reconstruction in the place of the update."""
    zero: float
    """With nothing in its place."""
    mean: float
    """With its mean over all positions in its place."""
    examples: int

    @property
    def recovered_from_zero(self) -> float | None:
        """(zero − spliced) / (zero − plain): 1 if splicing costs nothing; None if the block does the loss no good."""
        return _recovered(self.plain, self.spliced, self.zero)

    @property
    def recovered_from_mean(self) -> float | None:
        """(mean − spliced) / (mean − plain); the mean is the better guess, so this is the stricter of the two."""
        return _recovered(self.plain, self.spliced, self.mean)


def _recovered(plain: float, with_sae: float, ablated: float) -> float | None:
    return (ablated - with_sae) / (ablated - plain) if ablated > plain else None


@torch.no_grad()
def splice_losses(
    unet: nn.Module, sae: SAE, cases: Iterable[Case], loss: Callable[[Case], Tensor], mean: Tensor
) -> Losses:
    """Measure how much of what the block contributes to a loss the SAE keeps ("loss recovered").

    Parameters: ``loss(case)`` runs ``unet`` and gives the loss ``[n]`` of each example of the case; it must give the
    same for the same case, noise included. ``mean [d]`` is the mean of the activations, for the mean ablation. With
    the denoising loss this is the diffusion models' counterpart of the measure for language models (Bricken et al.,
    "Towards Monosemanticity", 2023; Rajamanoharan et al., arXiv 2404.16014).

    Raises `FeaturebrushError` if there are no cases, a loss is not finite, or shapes do not fit.
    """
    if tuple(mean.shape) != (sae.cfg.d_in,):
        raise FeaturebrushError(f"the mean has the shape {list(mean.shape)}: expected [{sae.cfg.d_in}]")
    instead: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda u: u,
        lambda u: reconstruct(sae, u),
        torch.zeros_like,
        lambda u: mean.to(u).expand_as(u),
    )
    totals, examples = [0.0] * len(instead), 0
    for case in cases:
        for i, fn in enumerate(instead):
            with replacing(unet, sae.cfg.block, fn, sae.cfg.site):
                found = loss(case).double()
            totals[i] += found.sum().item()
        examples += found.numel()
    if not examples:
        raise FeaturebrushError("there is nothing to measure a loss on: give at least one case")
    if not all(map(math.isfinite, totals)):
        raise FeaturebrushError(f"the losses are not finite numbers: {totals}")
    return Losses(*(total / examples for total in totals), examples=examples)


@dataclass(frozen=True)
class PictureChange:
    """How far pictures change when the SAE's reconstruction is spliced in; means over the pictures."""

    mse: float
    """Mean squared error of the pixels, whose values are 0..1."""
    ssim: float
    """Structural similarity, 1 for equal pictures; see `ssim`."""
    pictures: int


@torch.no_grad()
def picture_change(unet: nn.Module, sae: SAE, cases: Iterable[Case], render: Callable[[Case], Tensor]) -> PictureChange:
    """Compare the pictures of ``render(case)`` (``[n, 3, h, w]``, 0..1, the same each time) with and without the SAE.

    Raises `FeaturebrushError` if there are no cases.
    """
    mse = similar = 0.0
    pictures = 0
    for case in cases:
        plain = render(case).float()
        with spliced(unet, sae):
            changed = render(case).float()
        mse += (plain - changed).square().mean((1, 2, 3)).double().sum().item()
        similar += ssim(plain, changed).double().sum().item()
        pictures += len(plain)
    if not pictures:
        raise FeaturebrushError("there are no pictures to compare: give at least one case")
    return PictureChange(mse / pictures, similar / pictures, pictures)
