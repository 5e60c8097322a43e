"""The sparse autoencoder as it is used: frozen, in the units of the activations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sae.errors import FeaturebrushError, unknown

Site = Literal["update", "output"]
Architecture = Literal["topk", "batchtopk", "matryoshka", "jumprelu", "relu"]

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
    """Features active per position, 1..F: exactly (where as many are positive) for topk, on average while training for
    batchtopk and matryoshka; for jumprelu and relu the nominal L0, F where it is not known."""
    block: str = ""
    """The block that the SAE sits at, as in ``down.1.0``; empty if it is tied to none."""
    site: Site = "update"
    """What is encoded: the block's update (output − input) or its output."""
    architecture: Architecture = "batchtopk"
    """How the active features are chosen; see `SAE`."""
    prefixes: tuple[int, ...] = ()
    """Sizes of a matryoshka SAE's nested dictionaries, ascending, the last one F; empty where they are not known, and
    for every other architecture."""

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
        self._check_prefixes()

    def _check_prefixes(self) -> None:
        sizes = self.prefixes
        if not isinstance(sizes, tuple) or any(type(size) is not int or size < 1 for size in sizes):
            raise FeaturebrushError(f"prefixes must be a tuple of whole numbers of at least 1, not {sizes!r}")
        if sizes and self.architecture != "matryoshka":
            raise FeaturebrushError(f"prefixes {sizes} are for architecture 'matryoshka', not {self.architecture!r}")
        if sizes and (sizes[-1] != self.n_features or any(a >= b for a, b in pairwise(sizes))):
            raise FeaturebrushError(f"prefixes must ascend and end with n_features = {self.n_features}, not {sizes}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {**asdict(self), "prefixes": list(self.prefixes)}


def tensor_shapes(cfg: SAEConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an SAE, weights first."""
    d, f = cfg.d_in, cfg.n_features
    return {
        "W_enc": (f, d),
        "b_enc": (f,),
        "W_dec": (f, d),
        "b_dec": (d,),
        "threshold": (f,) if cfg.architecture == "jumprelu" else (),
        "mean": (f,),
        "density": (f,),
        "quantiles": (f, len(QUANTILE_LEVELS)),
    }


STATISTICS = ("mean", "density", "quantiles")
WITHOUT_THRESHOLD = ("topk", "relu")
"""Architectures that do not use ``threshold``."""


class SAE(nn.Module):
    """``a = relu((u − b_dec) W_encᵀ + b_enc)``, ``z = choose(a)``, ``û = z W_dec + b_dec``.

    What is chosen, by ``cfg.architecture``; the rest of a is set to 0, and a position's codes never depend on the
    positions beside it:

    - topk: the k largest, all if fewer are positive (Gao et al., arXiv 2406.04093)
    - batchtopk: ``a > threshold``, which stands in for the batch-wide choice of training (Bussmann et al., 2412.06410)
    - matryoshka: the same; training also reconstructed from nested prefixes of the features (Bussmann et al.,
      2503.17547)
    - jumprelu: ``a > threshold``, one for each feature (Rajamanoharan et al., 2407.14435)
    - relu: ``a > 0``

    Tensors, with d = ``cfg.d_in`` and F = ``cfg.n_features``: ``W_enc [F, d]``, ``b_enc [F]``, ``W_dec [F, d]`` (rows:
    the features' directions; of unit length in our own format), ``b_dec [d]``, ``threshold`` (≥ 0; ``[F]`` for
    jumprelu, else ``[]``; topk and relu do not use it). Statistics of each feature, zero until measured: ``mean [F]``
    over the positions where it is active, ``density [F]`` (share of positions where it is active, 0..1), ``quantiles
    [F, Q]`` of its active values at `QUANTILE_LEVELS`. All in the activations' own units. Nothing requires gradients.
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
        """Take ``tensors`` (copied, as float32) by the names above.

        The statistics may be left out; for topk and relu, ``threshold`` too. Raises `FeaturebrushError` for a tensor
        that is missing, unknown, of a wrong shape or not finite, and for a threshold below 0.
        """
        super().__init__()
        self.cfg = cfg
        shapes = tensor_shapes(cfg)
        optional = {*STATISTICS, *(["threshold"] if cfg.architecture in WITHOUT_THRESHOLD else [])}
        for name in tensors:
            if name not in shapes:
                raise unknown("SAE tensor", name, shapes)
        for name, shape in shapes.items():
            if name in tensors:
                value = tensors[name].detach().to(torch.float32).clone(memory_format=torch.contiguous_format)
            elif name in optional:
                value = torch.zeros(shape)
            else:
                raise FeaturebrushError(f"the SAE has no tensor {name!r}: expected {', '.join(shapes)}")
            if tuple(value.shape) != shape:
                raise FeaturebrushError(f"{name} has the shape {list(value.shape)}: expected {list(shape)}")
            if not torch.isfinite(value).all():
                raise FeaturebrushError(f"{name} holds values that are not finite numbers")
            self.register_buffer(name, value)
        lowest = self.threshold.min().item()
        if lowest < 0:
            raise FeaturebrushError(f"threshold must be 0 or more, not {lowest:.6g}")
        self.eval()

    def encode(self, u: Tensor, features: Tensor | None = None) -> Tensor:
        """Codes ``z [..., F]`` ≥ 0 of activations ``u [..., d]``, in the SAE's dtype.

        With ``features [n]`` (indices), only theirs, ``[..., n]``, and only theirs are computed, but for topk, where
        the choice of one depends on all.
        """
        if u.shape[-1] != self.cfg.d_in:
            raise FeaturebrushError(f"activations of width {u.shape[-1]} given to an SAE of width {self.cfg.d_in}")
        W_enc, b_enc, threshold = self.W_enc, self.b_enc, self.threshold
        partly = features is not None and self.cfg.architecture != "topk"
        if partly:
            W_enc, b_enc = W_enc[features], b_enc[features]
            threshold = threshold[features] if threshold.dim() else threshold
        a = F.linear(u.to(W_enc.dtype) - self.b_dec, W_enc, b_enc).relu()
        match self.cfg.architecture:
            case "topk":
                top = a.topk(self.cfg.k, dim=-1, sorted=False)
                a = torch.zeros_like(a).scatter_(-1, top.indices, top.values)
            case "batchtopk" | "matryoshka" | "jumprelu":
                a = a * (a > threshold)
        return a if features is None or partly else a[..., features]

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
