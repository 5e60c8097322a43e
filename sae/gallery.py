"""Pictures with what a block did in each: what an atlas shows and labels are made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae.activations import record
from sae.denoising import Denoiser, clear_level, grid_masks, look
from sae.errors import FeaturebrushError
from sae.model import SAE
from sae.sources import Scenes, Source


@dataclass(frozen=True)
class GalleryConfig:
    """Which pictures. Refuses illegal values with `FeaturebrushError`."""

    first: int = 22_000_000
    """Number of the first scene; of prompts' pictures, the seed of the first."""
    count: int = 600
    steps: int = 8
    """Of the sampler; scenes get one of the noise levels of its less noisy half."""
    size: int | None = None
    """Height and width in pixels; the model's own if None."""
    batch: int = 8

    def __post_init__(self) -> None:
        for name, bound in {"first": 0, "count": 2, "steps": 1, "batch": 1}.items():
            value = getattr(self, name)
            if type(value) is not int or value < bound:
                raise FeaturebrushError(f"{name} must be a whole number of at least {bound}, not {value!r}")
        if self.size is not None and (type(self.size) is not int or self.size < 8 or self.size % 8):
            raise FeaturebrushError(f"size must be a multiple of 8 pixels, not {self.size!r}")


@dataclass(frozen=True)
class Shown:
    """Some pictures, and the block's activations in them at one step."""

    activations: Tensor
    """``[n, H, W, d]`` float32."""
    images: Tensor
    """``[n, 3, h, w]`` float32, −1..1."""
    captions: list[str]
    masks: Tensor | None
    """``[n, H, W, C]`` bool, where the truth is known."""


def gallery(denoiser: Denoiser, source: Source, sae: SAE, cfg: GalleryConfig) -> Iterator[Shown]:
    """The pictures of ``cfg``, ``cfg.batch`` at a time: scenes under a little noise, or prompts' pictures as sampled.

    Batch after batch the noise levels, or steps, of the less noisy half take turns.
    """
    if isinstance(source, Sequence):
        return _sampled(denoiser, source, sae, cfg)
    return _scenes(denoiser, source, sae, cfg)


def _scenes(denoiser: Denoiser, source: Scenes, sae: SAE, cfg: GalleryConfig) -> Iterator[Shown]:
    block, numbers = sae.cfg.block, range(cfg.first, cfg.first + cfg.count)

    def levels(number: int) -> list[int]:
        return [clear_level(denoiser.levels, number)]

    for seen in look(denoiser, source, numbers, cfg.batch, [block], levels, sae.cfg.site):
        found = seen.activations[block]
        masks = grid_masks(seen.scenes.masks, found.shape[1], found.shape[2]) if source.concepts else None
        yield Shown(found, seen.scenes.images, seen.scenes.captions, masks)


def _sampled(denoiser: Denoiser, prompts: Sequence[str], sae: SAE, cfg: GalleryConfig) -> Iterator[Shown]:
    block = sae.cfg.block
    for number, start in enumerate(range(cfg.first, cfg.first + cfg.count, cfg.batch)):
        seeds = range(start, min(start + cfg.batch, cfg.first + cfg.count))
        said = [prompts[seed % len(prompts)] for seed in seeds]
        with record(denoiser.unet, [block], sae.cfg.site) as recorded:
            images = denoiser.render(said, seeds, 1.0)
        calls = recorded[block]
        yield Shown(calls[clear_level(len(calls), number)], images * 2 - 1, said, None)


def deviation(batches: Iterable[Tensor]) -> float:
    """Root mean square distance of vectors ``[..., d]`` from their mean."""
    count, total, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for batch in batches:
        rows = batch.flatten(0, -2).double()
        count += len(rows)
        total = total + rows.sum(0)
        squares = squares + rows.square().sum()
    if not count:
        raise FeaturebrushError("there are no vectors: give at least one batch")
    return (squares / count - (total / count).square().sum()).clamp(min=0).sqrt().item()
