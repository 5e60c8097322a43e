"""The processes that train together: what each must hear from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor


class Processes(Protocol):
    """A group of processes that run the same program, each on its part of every batch."""

    @property
    def count(self) -> int: ...

    @property
    def rank(self) -> int:
        """Which of them this is, 0..count − 1."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over all of them, of the same shape; every one gets it."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """The vectors ``values [n]``, of whatever length each, one after the other; every one gets them."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process."""

    count: int = 1
    rank: int = 0

    def sum(self, value: Tensor) -> Tensor:
        return value

    def gather(self, values: Tensor) -> Tensor:
        return values


class Accelerated:
    """The processes that ``accelerate launch`` started."""

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.accelerator = accelerator or Accelerator()
        self.count: int = self.accelerator.num_processes
        self.rank: int = self.accelerator.process_index

    def sum(self, value: Tensor) -> Tensor:
        return value if self.count == 1 else torch.as_tensor(self.accelerator.reduce(value, "sum"))

    def gather(self, values: Tensor) -> Tensor:
        if self.count == 1:
            return values
        # Of unequal lengths: pad with NaN, which no value is, and take it out again.
        padding: Any = float("nan")
        padded = self.accelerator.pad_across_processes(values, dim=0, pad_index=padding)
        everything = torch.as_tensor(self.accelerator.gather(padded))
        return everything[~everything.isnan()]
