"""From layers to edits of what a block puts out: pure tensor functions.

At a block with input h, output o and update u = o − h, a layer with mask m, strength s, features f with weights w and
means μ edits the output (Surkov et al. 2410.22366 for add and scale):

- add: ``o += m·s·Σ w_f μ_f W_dec[f]``
- replace: ``o += m·(b_dec + s·Σ w_f μ_f W_dec[f] − u)``
- scale: ``o += m·Σ_f (s − 1)·z_f·W_dec[f]`` with the codes z of u; erase is scale with s = 0.

Where the masks of replacing layers sum to more than 1 they are divided by the sum, so that u is taken away once.
For an SAE of the site "output", u is the output itself. All edits are computed from the unedited o and then summed,
and never pass through a decode of all codes: what the SAE does not explain of the activation stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from canvas.masks import Mask
from canvas.painting import Layer, Mode
from sae import SAE
from sae.errors import FeaturebrushError


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Weighted features of one block: what a brush comes down to."""

    block: str
    features: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """One layer, resolved to features of the block at which it acts."""

    features: FeatureSet
    mask: Mask
    strength: float
    mode: Mode
    steps: tuple[float, float]

    @classmethod
    def of(cls, layer: Layer, features: FeatureSet) -> Edit:
        """The edit that ``layer`` makes with the features that its brush stands for."""
        return cls(features, layer.mask, 0.0 if layer.mode == "erase" else layer.strength, layer.mode, layer.steps)

    def is_active(self, step: int, n_steps: int) -> bool:
        """Whether it acts at sampling step ``step`` (from 0) of ``n_steps``."""
        return self.steps[0] <= step / n_steps < self.steps[1]


def brush_vector(sae: SAE, features: FeatureSet) -> Tensor:
    """``Σ w_f μ_f W_dec[f]``, ``[d]`` in the SAE's dtype: what a layer of strength 1 adds under its mask."""
    index = torch.tensor(features.features, device=sae.W_dec.device)
    if len(index) == 0 or int(index.max()) >= sae.cfg.n_features:
        raise FeaturebrushError(
            f"features of {features.block} are 0..{sae.cfg.n_features - 1}, not {features.features}"
        )
    weights = torch.tensor(features.weights, device=sae.W_dec.device, dtype=sae.W_dec.dtype)
    return (weights * sae.mean[index]) @ sae.W_dec[index]


def reach(edits: Iterable[Edit], height: int, width: int) -> Tensor:
    """How far edits may be felt: ``[1, 1, height, width]``, 1 under their masks and about one cell of a 16×16 grid
    around them, falling to 0 over another.
    """
    covered = np.zeros((height, width), np.float32)
    for edit in edits:
        covered = np.maximum(covered, edit.mask.coverage(height, width))
    cell = max(1, height // 16)
    grown = F.max_pool2d(torch.from_numpy(covered)[None, None], 2 * cell + 1, 1, cell)
    return F.avg_pool2d(grown, 2 * cell + 1, 1, cell, count_include_pad=False)


class BlockEdits:
    """Every edit at one block, ready to be applied at each step of one picture.

    Parameters: ``vectors`` holds the brush vector ``[d]`` of each edit, in the order of ``edits``. The masks' part of
    the work is done at the first use of a grid size and kept.
    """

    def __init__(self, sae: SAE, edits: Sequence[Edit], vectors: Sequence[Tensor]):
        self.sae = sae
        self.edits = tuple(edits)
        self.vectors = tuple(vectors)
        self._parts: dict[tuple[tuple[int, ...], int, int], _Parts] = {}

    def is_active(self, step: int, n_steps: int) -> bool:
        """Whether any edit acts at sampling step ``step`` of ``n_steps``."""
        return any(edit.is_active(step, n_steps) for edit in self.edits)

    def delta(self, h: Tensor, o: Tensor, step: int, n_steps: int) -> Tensor:
        """What the edits of this step add to the output.

        Parameters: ``h`` and ``o`` are the block's input and output ``[B, d, H, W]``. Returns ``[B, d, H, W]``, or
        ``[1, d, H, W]`` where nothing depends on the activations, in the dtype and on the device of ``o``.
        """
        active = tuple(i for i, edit in enumerate(self.edits) if edit.is_active(step, n_steps))
        height, width = o.shape[-2:]
        key = (active, height, width)
        if key not in self._parts:
            self._parts[key] = self._prepare(active, height, width)
        parts = self._parts[key]
        delta = parts.constant
        if parts.replaced is not None or parts.scaled is not None:
            site = o if self.sae.cfg.site == "output" else o - h
            x = site.to(parts.constant).flatten(2).transpose(1, 2)
            if parts.replaced is not None:
                delta = delta - parts.replaced * x
            if parts.scaled is not None:
                delta = delta + (self.sae.encode(x, parts.features) * parts.scaled) @ self.sae.W_dec[parts.features]
        return delta.transpose(1, 2).unflatten(2, (height, width)).to(device=o.device, dtype=o.dtype)

    def _prepare(self, active: Sequence[int], height: int, width: int) -> _Parts:
        weights = self.sae.W_dec
        edits = [self.edits[i] for i in active]
        covered = np.stack([edit.mask.coverage(height, width).ravel() for edit in edits], axis=1)
        masks = torch.from_numpy(covered).to(weights)
        replacing = torch.tensor([edit.mode == "replace" for edit in edits], device=weights.device)
        # where replacing layers overlap they share the update: it can be taken away only once
        masks[:, replacing] /= masks[:, replacing].sum(dim=1, keepdim=True).clamp_min(1)
        vectors, replaced, features, scaled = [], [], [], []
        for column, (i, edit) in enumerate(zip(active, edits, strict=True)):
            vector = torch.zeros_like(self.vectors[i])
            if edit.mode in ("add", "replace"):
                vector = edit.strength * self.vectors[i]
            if edit.mode == "replace":
                vector = vector + self.sae.b_dec
                replaced.append(masks[:, column])
            if edit.mode in ("scale", "erase"):
                used = [f for f, w in zip(edit.features.features, edit.features.weights, strict=True) if w != 0]
                features += used
                scaled += [masks[:, column] * (edit.strength - 1)] * len(used)
            vectors.append(vector)
        return _Parts(
            constant=(masks @ torch.stack(vectors))[None],
            replaced=torch.stack(replaced, dim=1).sum(dim=1, keepdim=True) if replaced else None,
            scaled=torch.stack(scaled, dim=1) if scaled else None,
            features=torch.tensor(features, dtype=torch.long, device=weights.device),
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What of a block's edits depends on the masks only; P = H·W positions, d channels, n scaled features."""

    constant: Tensor
    """``[1, P, d]``: added whatever the activations are."""
    replaced: Tensor | None
    """``[P, 1]``: how much of the update is taken away."""
    scaled: Tensor | None
    """``[P, n]``: coverage · (s − 1) of each scaled feature."""
    features: Tensor
    """``[n]``: the scaled features."""
