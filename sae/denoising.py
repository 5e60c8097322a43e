"""Scenes under the noise that the sampler meets: what the U-Net is asked there, and how wrong its answer is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sae.activations import record
from sae.errors import FeaturebrushError, unknown
from sae.model import Site
from sae.pipelines import Pipeline, decode_latents, default_size, encode_images, schedule, text_conditions
from sae.shards import seeded
from sae.sources import SceneBatch, Scenes

TARGETS = ("epsilon", "v_prediction", "sample")
COVERED = 0.3
"""A position of the grid shows a concept if this share of its pixels does."""


@dataclass(frozen=True)
class Prepared:
    """A batch of scenes as the U-Net knows them, without noise."""

    first: int
    """Number of the first scene; those after it follow without gaps."""
    latents: Tensor
    """``[n, c, h, w]``, scaled."""
    conditions: dict[str, Any]
    """The U-Net's further arguments."""


@dataclass(frozen=True)
class Noised:
    """A batch at one noise level, with all that the U-Net is given."""

    inputs: Tensor
    """``[n, c, h, w]``: noisy latents, scaled as the scheduler wants them."""
    timestep: Tensor
    """``[]``"""
    latents: Tensor
    """``[n, c, h, w]``: without the noise."""
    noise: Tensor
    """``[n, c, h, w]``"""
    conditions: dict[str, Any]


class Denoiser:
    """Asks a pipeline's U-Net what it is asked while sampling, of pictures that are known. Changes nothing of it.

    Parameters: ``steps`` are those of the sampler, whose noise levels are used; ``size`` is that of the pictures, the
    model's own if None.
    """

    def __init__(self, pipeline: Pipeline, steps: int, size: int | None = None):
        if type(steps) is not int or steps < 1:
            raise FeaturebrushError(f"steps must be a whole number of at least 1, not {steps!r}")
        self.steps, self.size = steps, size or default_size(pipeline)
        self._pipe: Any = pipeline
        self._scheduler = schedule(pipeline, steps)
        self._kind = self._scheduler.config.get("prediction_type", "epsilon")
        if self._kind not in TARGETS:
            raise unknown("prediction type", self._kind, TARGETS)

    @property
    def unet(self) -> Any:
        """The U-Net that is asked."""
        return self._pipe.unet

    @property
    def levels(self) -> int:
        """How many noise levels the sampler meets; 0 is the noisiest."""
        return len(self._scheduler.timesteps)

    def prepare(self, scenes: SceneBatch, first: int) -> Prepared:
        """Encode scenes, of which the first has the number ``first``, with their captions and without guidance."""
        images = scenes.images
        if images.shape[2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        conditions = text_conditions(self._pipe, scenes.captions, self.size)
        return Prepared(first, encode_images(self._pipe, images), conditions)

    def noised(self, scenes: Prepared, level: int) -> Noised:
        """Add the noise of ``level``: for one scene and level always the same."""
        scheduler, latents = self._scheduler, scenes.latents
        scheduler.set_timesteps(self.steps, device=self._pipe.device)  # forgets where the level before was
        timestep = scheduler.timesteps[level]
        numbers = range(scenes.first, scenes.first + len(latents))
        drawn = [torch.randn(latents.shape[1:], generator=seeded("measured noise", n, level)) for n in numbers]
        noise, times = torch.stack(drawn).to(latents), timestep.repeat(len(latents))
        inputs = scheduler.scale_model_input(scheduler.add_noise(latents, noise, times), timestep)
        return Noised(inputs, timestep, latents, noise, scenes.conditions)

    def target(self, noised: Noised) -> Tensor:
        """What the U-Net should answer, ``[n, c, h, w]``, by the scheduler's type of prediction."""
        if self._kind != "v_prediction":
            return noised.noise if self._kind == "epsilon" else noised.latents
        if not hasattr(self._scheduler, "get_velocity"):
            raise FeaturebrushError(f"{type(self._scheduler).__name__} does not say what velocity the U-Net predicts")
        return self._scheduler.get_velocity(noised.latents, noised.noise, noised.timestep.repeat(len(noised.latents)))

    @torch.no_grad()
    def predict(self, noised: Noised) -> Tensor:
        """What the U-Net answers, ``[n, c, h, w]``."""
        return self.unet(noised.inputs, noised.timestep, return_dict=False, **noised.conditions)[0]

    def loss(self, noised: Noised) -> Tensor:
        """Mean squared error ``[n]`` of the answer, in the units of what is predicted, without weights by level."""
        return (self.predict(noised) - self.target(noised)).float().square().mean((1, 2, 3))

    @torch.no_grad()
    def render(self, captions: Sequence[str], seeds: Sequence[int], guidance: float) -> Tensor:
        """The sampler's pictures ``[n, 3, h, w]`` on the CPU, 0..1, the same for the same seeds."""
        latents = self._pipe(
            prompt=list(captions),
            num_inference_steps=self.steps,
            guidance_scale=guidance,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            height=self.size,
            width=self.size,
            output_type="latent",
        ).images
        return decode_latents(self._pipe.vae, latents).float().cpu()


@dataclass(frozen=True)
class Seen:
    """What blocks did in one batch of scenes at one noise level."""

    activations: dict[str, Tensor]
    """Block -> ``[n, H, W, d]`` float32, on the U-Net's device."""
    scenes: SceneBatch
    first: int
    """Number of the first scene."""
    level: int
    """0 is the noisiest."""


def look(
    denoiser: Denoiser,
    scenes: Scenes,
    numbers: range,
    batch: int,
    blocks: Sequence[str],
    levels: Callable[[int], Sequence[int]],
    site: Site = "update",
) -> Iterator[Seen]:
    """Run the U-Net on the noised scenes numbered ``numbers``, ``batch`` at a time, and yield what the blocks did.

    ``levels(i)`` says at which noise levels batch i, counted from 0, is seen. No gradients are kept.
    """
    first = numbers.start
    for i, drawn in enumerate(scenes.batches(numbers.start, len(numbers), batch)):
        prepared = denoiser.prepare(drawn, first)
        for level in levels(i):
            with record(denoiser.unet, blocks, site) as recorded:
                denoiser.predict(denoiser.noised(prepared, level))
            yield Seen({name: calls[0] for name, calls in recorded.items()}, drawn, first, level)
        first += len(drawn.captions)


def clear_level(levels: int, number: int) -> int:
    """The level, of the less noisy half, whose turn it is in batch ``number``: there it is settled what is where."""
    return levels // 2 + number % (levels - levels // 2)


def grid_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """Which positions of the grid show which concepts: bool ``[n, C, h, w]`` to bool ``[n, height, width, C]``.

    A position shows a concept if at least the share `COVERED` of its pixels does.
    """
    share = F.adaptive_avg_pool2d(masks.float(), (height, width))
    return (share >= COVERED).permute(0, 2, 3, 1)
