"""The sparse autoencoder as it is used: frozen, in the units of the activations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sae.errors import FeaturebrushError, unknown

Site = Literal["update", "output"]
Architecture = Literal["batchtopk"]

QUANTILE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""The levels of the columns of ``SAE.quantiles``; part of version 1 of the format."""

BLOCK_NAME = re.compile(r"(down|up)\.\d+\.\d+|mid\.\d+")


@dataclass(frozen=True)
class SAEConfig:
    """What an SAE is, without its weights. Refuses illegal values with `FeaturebrushError`."""

    d_in: int
    """Width d of the activations: channels of the block."""
    n_features: int
    """Number F of features."""
    k: int
    """Features active per position on average, while training: 1..F."""
    block: str = ""
    """The block that the SAE sits at, as in ``down.1.0``; empty if it is tied to none."""
    site: Site = "update"
    """What is encoded: the block's update (output − input) or its output."""
    architecture: Architecture = "batchtopk"
    """How the active features are chosen."""

    def __post_init__(self) -> None:
        for name in ("d_in", "n_features", "k"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise FeaturebrushError(f"{name} must be a whole number of at least 1, not {value!r}")
        if self.k > self.n_features:
            raise FeaturebrushError(f"k = {self.k} is more than n_features = {self.n_features}: give k from 1 to that")
        if not isinstance(self.block, str) or (self.block and not BLOCK_NAME.fullmatch(self.block)):
            raise FeaturebrushError(f"{self.block!r} is no block name: write 'down.i.j', 'mid.j' or 'up.i.j'")
        if self.site not in get_args(Site):
            raise unknown("site", self.site, get_args(Site))
        if self.architecture not in get_args(Architecture):
            raise unknown("architecture", self.architecture, get_args(Architecture))

    def to_dict(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


def tensor_shapes(cfg: SAEConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an SAE, weights first."""
    d, f = cfg.d_in, cfg.n_features
    return {
        "W_enc": (f, d),
        "b_enc": (f,),
        "W_dec": (f, d),
        "b_dec": (d,),
        "threshold": (),
        "mean": (f,),
        "density": (f,),
        "quantiles": (f, len(QUANTILE_LEVELS)),
    }


STATISTICS = ("mean", "density", "quantiles")


class SAE(nn.Module):
    """``a = relu((u − b_dec) W_encᵀ + b_enc)``, ``z = a · (a > threshold)``, ``û = z W_dec + b_dec``.

    A BatchTopK SAE at inference (arXiv 2412.06410, section 3): the batch-wide choice of training is replaced by one
    global threshold, so a position's codes do not depend on the positions beside it. Nothing here requires gradients.

    Tensors, with d = ``cfg.d_in`` and F = ``cfg.n_features``: ``W_enc [F, d]``, ``b_enc [F]``, ``W_dec [F, d]`` (rows
    of unit length: the features' directions), ``b_dec [d]``, ``threshold []`` (≥ 0). Statistics of each feature, zero
    until measured: ``mean [F]`` over the positions where it is active, ``density [F]`` (share of positions where it is
    active, 0..1), ``quantiles [F, Q]`` of its active values at `QUANTILE_LEVELS`. All in the activations' own units.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor
    mean: Tensor
    density: Tensor
    quantiles: Tensor

    def __init__(self, cfg: SAEConfig, tensors: Mapping[str, Tensor]):
        """Take ``tensors`` (copied, as float32) by the names above; the statistics may be left out.

        Raises `FeaturebrushError` for a tensor that is missing, of a wrong shape, not finite, or rows of ``W_dec`` that
        are not of unit length.
        """
        super().__init__()
        self.cfg = cfg
        shapes = tensor_shapes(cfg)
        for name in tensors:
            if name not in shapes:
                raise unknown("SAE tensor", name, shapes)
        for name, shape in shapes.items():
            if name in tensors:
                value = tensors[name].detach().to(torch.float32).clone(memory_format=torch.contiguous_format)
            elif name in STATISTICS:
                value = torch.zeros(shape)
            else:
                raise FeaturebrushError(f"the SAE has no tensor {name!r}: expected {', '.join(shapes)}")
            if tuple(value.shape) != shape:
                raise FeaturebrushError(f"{name} has the shape {list(value.shape)}: expected {list(shape)}")
            if not torch.isfinite(value).all():
                raise FeaturebrushError(f"{name} holds values that are not finite numbers")
            self.register_buffer(name, value)
        off = (self.W_dec.norm(dim=1) - 1).abs().max().item()
        if off > 1e-2:
            raise FeaturebrushError(f"the rows of W_dec must have length 1, but one is off by {off:.3g}")
        if self.threshold.item() < 0:
            raise FeaturebrushError(f"threshold must be 0 or more, not {self.threshold.item():.6g}")
        self.eval()

    def encode(self, u: Tensor) -> Tensor:
        """Codes ``z [..., F]`` ≥ 0 of activations ``u [..., d]``, in the SAE's dtype."""
        if u.shape[-1] != self.cfg.d_in:
            raise FeaturebrushError(f"activations of width {u.shape[-1]} given to an SAE of width {self.cfg.d_in}")
        a = F.linear(u.to(self.W_enc.dtype) - self.b_dec, self.W_enc, self.b_enc).relu()
        return a * (a > self.threshold)

    def decode(self, z: Tensor) -> Tensor:
        """Activations ``û [..., d]`` of codes ``z [..., F]``."""
        return z.to(self.W_dec.dtype) @ self.W_dec + self.b_dec

    def forward(self, u: Tensor) -> Tensor:
        """The reconstruction ``û [..., d]`` of ``u [..., d]``."""
        return self.decode(self.encode(u))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name, as the format writes them."""
        return {name: getattr(self, name) for name in tensor_shapes(self.cfg)}

    def with_statistics(self, mean: Tensor, density: Tensor, quantiles: Tensor) -> SAE:
        """A copy, on the same device, with the given per-feature statistics."""
        device = self.W_dec.device
        return SAE(self.cfg, {**self.tensors(), "mean": mean, "density": density, "quantiles": quantiles}).to(device)

    def save(self, folder: str | Path, half: bool = False) -> None:
        """Write ``cfg.json`` and ``sae.safetensors`` into ``folder``; see `sae.formats.save`."""
        from sae.formats import save

        save(self, folder, half=half)
