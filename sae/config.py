"""How to train an SAE: every setting, and what is legal."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch

from sae.errors import FeaturebrushError, unknown
from sae.model import SAEConfig, Site

Centre = Literal["mean", "geometric_median"]
Rule = Literal["topk", "batchtopk", "matryoshka", "jumprelu"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Refuses illegal values with `FeaturebrushError`, before anything is computed."""

    n_features: int
    """Number F of features."""
    k: int
    """Features active per position on average (per position exactly, for topk): 1..F."""
    architecture: Rule = "batchtopk"
    """How the active features are chosen; see `sae.rules`."""
    prefixes: tuple[int, ...] = ()
    """For matryoshka, the sizes of the nested dictionaries, ascending, the last F; F/16, F/8, F/4, F/2, F if empty."""
    block: str = ""
    """The block whose activations are given, written into the SAE."""
    site: Site = "update"
    """What the activations are, written into the SAE."""
    steps: int = 3000
    """Optimiser steps."""
    batch: int = 4096
    """Vectors per step, over all processes, where training draws them itself; an iterator's batches stay as they
    come."""
    lr: float = 3e-3
    """Peak learning rate of Adam."""
    warmup: float = 0.02
    """Share of the steps over which the learning rate rises from 0, linearly."""
    decay: float = 0.25
    """Share of the steps, at the end, over which the learning rate falls to 0, linearly."""
    clip: float = 1.0
    """Largest norm of the gradient, over all parameters together."""
    dead_after: int = 250_000
    """A feature that fired in none of this many vectors counts as dead."""
    aux_k: int | None = None
    """Dead features, per vector, that AuxK makes explain the residual; half of d if not given."""
    aux_weight: float = 1 / 32
    """Weight of AuxK's loss, as in 2406.04093; 0 turns it off."""
    threshold_memory: float = 0.99
    """Weight of the past in the running mean of the smallest kept activation, which becomes the threshold."""
    l0_weight: float = 1.0
    """For jumprelu, weight of (L0/k − 1)²."""
    bandwidth: float = 0.05
    """For jumprelu, width of the kernel of its pseudo-derivatives, in units of the normalised activations."""
    centre: Centre = "geometric_median"
    """Where ``b_dec`` begins, of the first vectors."""
    seed: int = 0
    """Of the initial weights and the order of the vectors."""
    device: str = "cpu"
    """Where to compute."""
    report_every: int = 100
    """Steps between two calls of the progress callback; it is also called after the last."""

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Rule):
            raise unknown("architecture", self.architecture, get_args(Rule))
        SAEConfig(1, self.n_features, self.k, self.block, self.site, self.architecture)
        self._check_prefixes()
        for name, least in {"steps": 1, "batch": 1, "dead_after": 1, "report_every": 1, "seed": 0}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise FeaturebrushError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if self.aux_k is not None and (type(self.aux_k) is not int or self.aux_k < 1):
            raise FeaturebrushError(f"aux_k must be None or a whole number of at least 1, not {self.aux_k!r}")
        for name in ("lr", "clip", "bandwidth"):
            if not 0 < getattr(self, name) < float("inf"):
                raise FeaturebrushError(f"{name} must be above 0, not {getattr(self, name)!r}")
        for name in ("aux_weight", "l0_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise FeaturebrushError(f"{name} must be 0 or more, not {getattr(self, name)!r}")
        for name in ("warmup", "decay", "threshold_memory"):
            if not 0 <= getattr(self, name) <= 1:
                raise FeaturebrushError(f"{name} must be from 0 to 1, not {getattr(self, name)!r}")
        if self.warmup + self.decay > 1:
            raise FeaturebrushError(f"warmup {self.warmup} and decay {self.decay} must not exceed 1 together")
        if self.threshold_memory == 1:
            raise FeaturebrushError("threshold_memory must be below 1: at 1 the first batch alone would set it")
        if self.centre not in get_args(Centre):
            raise unknown("centre", self.centre, get_args(Centre))
        try:
            torch.device(self.device)
        except RuntimeError:
            raise FeaturebrushError(f"{self.device!r} is no device: write 'cpu', 'cuda' or 'cuda:1'") from None

    def _check_prefixes(self) -> None:
        ends = self.prefixes
        if ends and self.architecture != "matryoshka":
            raise FeaturebrushError(f"prefixes {ends} are for architecture 'matryoshka', not {self.architecture!r}")
        whole = all(type(end) is int and end > 0 for end in ends)
        rising = whole and all(a < b for a, b in pairwise(ends))
        if ends and not (rising and ends[-1] == self.n_features):
            raise FeaturebrushError(
                f"prefixes must be ascending whole numbers that end in n_features = {self.n_features}, not {ends}"
            )

    @property
    def nested(self) -> tuple[int, ...]:
        """The sizes of the nested dictionaries: only F itself but for matryoshka."""
        if self.architecture != "matryoshka":
            return (self.n_features,)
        return self.prefixes or tuple(sorted({max(1, self.n_features // part) for part in (16, 8, 4, 2, 1)}))

    def lr_at(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        rise = (step + 1) / max(1.0, self.warmup * self.steps)
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.lr * min(1.0, rise, fall)
