"""What every training stage shares: a budget in minutes, atomic checkpoints, a schedule, averages of the weights."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm


class Budget:
    """Counts the minutes that a stage has trained, over all its runs, against what it may.

    Iterating gives step numbers until the budget is spent; ``progress`` is the share spent, 0..1, and drives the
    learning rate, so that a schedule fits machines of any speed.
    """

    def __init__(self, minutes: float, step: int = 0, elapsed: float = 0.0, every: float = 180.0) -> None:
        self.seconds = minutes * 60.0
        self.step = step
        self.elapsed = elapsed
        self.every = every
        self._saved = elapsed

    @property
    def progress(self) -> float:
        return min(1.0, self.elapsed / self.seconds)

    def learning_rate(self, peak: float, warmup: int = 60) -> float:
        """Linear warm-up over ``warmup`` steps, then a cosine to 1% of the peak at the end of the budget."""
        decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.progress))
        return peak * min(1.0, (self.step + 1) / warmup) * decay

    def due(self) -> bool:
        """Whether a checkpoint is due; saying so once counts as having made it."""
        if self.elapsed - self._saved < self.every:
            return False
        self._saved = self.elapsed
        return True

    def __iter__(self) -> Iterator[int]:
        with tqdm(
            total=round(self.seconds), initial=round(self.elapsed), unit="s", dynamic_ncols=True, mininterval=5
        ) as bar:
            self.bar = bar
            while self.progress < 1.0:
                started = time.monotonic()
                yield self.step
                spent = time.monotonic() - started
                self.elapsed += spent
                self.step += 1
                bar.update(round(self.elapsed) - bar.n)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    torch.save(state, scratch)
    os.replace(scratch, path)


def load(path: Path, device: str) -> dict[str, Any] | None:
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


class Average:
    """Exponential moving average of a module's weights, with the usual ramp (1 + t) / (10 + t) at the start."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.step = 0
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                self.weights[key].lerp_(value, 1 - decay)
            else:
                self.weights[key].copy_(value)

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        self.step = int(state["step"])
        self.weights = state["weights"]


def best_dtype(device: str) -> torch.dtype:
    """What matrix products are fastest in, to enough precision: bfloat16 where there are units for it."""
    units = torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.bfloat16 if units else torch.float32


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
