"""What every training stage shares: a budget in minutes, the loop, atomic checkpoints, averages of the weights."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

RESTART = 0.5
"""Of the peak learning rate, when a budget that was spent is extended."""


@dataclass(frozen=True)
class Place:
    """Where in its training a stage is."""

    step: int = 0
    elapsed: float = 0.0
    """seconds trained, over all runs"""
    began: tuple[int, float] = (0, 0.0)
    """step and seconds at which the last extension of the budget began; 0 at first"""

    def extended(self) -> Place:
        """The same place, as the beginning of a further budget."""
        return replace(self, began=(self.step, self.elapsed))


class Budget:
    """Counts the minutes that a stage has trained, over all its runs, against what it may.

    Iterating gives step numbers until the budget is spent; ``progress`` is the share spent since the budget was last
    extended, 0..1, and drives the learning rate, so that a schedule fits machines of any speed.
    """

    def __init__(self, minutes: float, place: Place | None = None, every: float = 180.0) -> None:
        place = place or Place()
        self.seconds = minutes * 60.0
        self.step = place.step
        self.elapsed = place.elapsed
        self.began = place.began
        self.every = every
        self._saved = self.elapsed

    @property
    def progress(self) -> float:
        start = self.began[1]
        return min(1.0, (self.elapsed - start) / max(1e-9, self.seconds - start))

    def learning_rate(self, peak: float, warmup: int = 60) -> float:
        """Linear warm-up over ``warmup`` steps, then a cosine to 1% of the peak at the end of the budget.

        An extension of the budget warms up again, to ``RESTART`` of the peak (1608.03983).
        """
        peak *= RESTART if self.began[0] else 1.0
        decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.progress))
        return peak * min(1.0, (self.step - self.began[0] + 1) / warmup) * decay

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


@dataclass(frozen=True)
class Fitted:
    """What a training came to."""

    average: dict[str, Tensor]
    """the averaged weights"""
    steps: int
    samples: int
    minutes: float


def fit(
    module: nn.Module,
    steppers: Sequence[tuple[torch.optim.Optimizer, float]],
    losses: Callable[[int], Mapping[str, Tensor]],
    minutes: float,
    *,
    checkpoint: Path,
    device: str,
    batch: int,
    dtype: torch.dtype = torch.float32,
    decay: float = 0.999,
    config: dict[str, Any] | None = None,
    log: Path | None = None,
) -> Fitted:
    """Train ``module`` for a budget of minutes, from ``checkpoint`` if it is there; the last step leaves one.

    A budget larger than the one that the checkpoint was begun with is an extension: the learning rate and the average
    of the weights start anew from there.

    Parameters: ``steppers`` are optimisers with their peak learning rates; ``losses(step)`` gives what to descend under
    the name ``loss`` and, under other names, what else to report, computed under autocast to ``dtype``; ``log`` is a
    JSONL file of running means.
    """
    average = Average(module, decay)
    budget, samples = Budget(minutes), 0
    if state := load(checkpoint, device):
        module.load_state_dict(state["weights"])
        for (stepper, _), saved in zip(steppers, state["optimisers"], strict=True):
            stepper.load_state_dict(saved)
        average.restore(state["average"])
        place, samples = Place(state["step"], state["elapsed"], tuple(state.get("began", (0, 0.0)))), state["samples"]
        if minutes > state.get("minutes", state["elapsed"] / 60):
            place = place.extended()
            module.load_state_dict(average.weights)
            average.step = 0
        budget = Budget(minutes, place)
        torch.manual_seed(budget.step)

    def save_now() -> None:
        state = {
            "weights": module.state_dict(),
            "optimisers": [stepper.state_dict() for stepper, _ in steppers],
            "average": average.state(),
            "step": budget.step,
            "samples": samples,
            "elapsed": budget.elapsed,
            "began": list(budget.began),
            "minutes": minutes,
            "config": config or {},
        }
        save(checkpoint, state)

    module.train()
    running: dict[str, float] = {}
    with ExitStack() as stack:
        out = stack.enter_context(log.open("a", encoding="utf-8")) if log else None
        for step in budget:
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                found = losses(step)
            for stepper, peak in steppers:
                for group in stepper.param_groups:
                    group["lr"] = budget.learning_rate(peak)
                stepper.zero_grad(set_to_none=True)
            found["loss"].backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            for stepper, _ in steppers:
                stepper.step()
            average.update(module)
            samples += batch
            for name, value in found.items():
                running[name] = running.get(name, value.item()) * 0.99 + value.item() * 0.01
            if budget.step % 50 == 0:
                facts = {name: round(value, 5) for name, value in running.items()}
                rate = round(samples / max(budget.elapsed, 1e-9), 2)
                budget.bar.set_postfix(facts | {"samples": samples, "rate": f"{rate}/s"})
                if out:
                    place = {"step": budget.step, "samples": samples, "elapsed": round(budget.elapsed, 1)}
                    print(json.dumps(place | facts | {"rate": rate}), file=out, flush=True)
            if budget.due():
                save_now()
    save_now()
    return Fitted(average.weights, budget.step, samples, round(budget.elapsed / 60, 1))


def best_dtype(device: str) -> torch.dtype:
    """What matrix products are fastest in, to enough precision: bfloat16 where there are units for it."""
    units = torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.bfloat16 if units else torch.float32


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
