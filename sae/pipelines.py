"""The parts of diffusers' pipelines that harvesting needs beside their own call: loading, noise levels, conditions."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers.utils import logging as transformers_logging

from sae.devices import usable
from sae.errors import FeaturebrushError, unknown

Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline

PIPELINES = {"StableDiffusionPipeline": StableDiffusionPipeline, "StableDiffusionXLPipeline": StableDiffusionXLPipeline}

_LOADING = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)
"""What diffusers and transformers raise for folders that they cannot load."""


def load_pipeline(
    model: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    download: bool = False,
) -> Pipeline:
    """Load the pipeline in a folder, or of a hub id, for inference onto ``device``.

    The network is touched only with ``download``; else a hub id must be in the local cache. The VAE computes in
    float32 whatever ``dtype`` is, as that of SDXL overflows in float16. Raises `FeaturebrushError` for what is neither,
    is no pipeline of `PIPELINES`, or cannot be loaded.
    """
    target = usable(device)
    try:
        config: Any = DiffusionPipeline.load_config(str(model), local_files_only=not download)
    except _LOADING as error:
        hub = "a hub id" if download else "a hub id in the local cache"
        raise FeaturebrushError(
            f"there is no pipeline {str(model)!r}: give a folder with model_index.json or {hub} ({_first_line(error)})"
        ) from error
    name = str(config.get("_class_name"))
    if name not in PIPELINES:
        raise unknown("pipeline", name, PIPELINES)
    # XL pipelines have no safety checker.
    checker: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
    options: dict[str, Any] = {
        "local_files_only": not download,
        "use_safetensors": True,
        "dtype": {"default": dtype, "vae": torch.float32},
        **(checker if name == "StableDiffusionPipeline" else {}),
    }
    # Published models often hold their weights twice, or in half precision only.
    first, second = ("fp16", None) if dtype == torch.float16 else (None, "fp16")
    try:
        pipeline: Any = PIPELINES[name].from_pretrained(str(model), variant=first, **options)
    except _LOADING as error:
        try:
            pipeline = PIPELINES[name].from_pretrained(str(model), variant=second, **options)
        except _LOADING:
            raise FeaturebrushError(f"{str(model)!r} cannot be loaded as a {name}: {_first_line(error)}") from error
    pipeline = pipeline.to(target)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def only_errors() -> None:
    """Let diffusers and transformers speak of errors only: they warn of every caption that is too long."""
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def default_size(pipeline: Pipeline) -> int:
    """Height and width, in pixels, of the pictures that the pipeline makes if not asked for others."""
    unet: Any = pipeline.unet
    side = unet.config.sample_size
    return (side if isinstance(side, int) else side[0]) * pipeline.vae_scale_factor


def is_guided(pipeline: Pipeline, guidance: float) -> bool:
    """Whether the U-Net runs on an unconditional and a conditional half, in this order."""
    unet: Any = pipeline.unet
    return guidance > 1 and unet.config.time_cond_proj_dim is None


def schedule(pipeline: Pipeline, steps: int) -> Any:
    """A copy of the pipeline's scheduler, set for sampling in ``steps`` steps."""
    scheduler: Any = copy.deepcopy(pipeline.scheduler)
    try:
        scheduler.set_timesteps(steps, device=pipeline.device)
    except ValueError as error:
        raise FeaturebrushError(f"{type(scheduler).__name__} cannot sample in {steps} steps: {error}") from error
    return scheduler


def scheduler_digest(scheduler: Any) -> dict[str, str]:
    """``{"class", "config"}``: the scheduler's class and the first 12 hex digits of its configuration's SHA-256."""
    config = {name: value for name, value in dict(scheduler.config).items() if not name.startswith("_")}
    text = json.dumps(config, sort_keys=True, default=str)
    return {"class": type(scheduler).__name__, "config": hashlib.sha256(text.encode()).hexdigest()[:12]}


@torch.no_grad()
def encode_images(pipeline: Pipeline, images: Tensor) -> Tensor:
    """Scaled latents ``[n, c, h/f, w/f]`` of ``images [n, 3, h, w]`` in −1..1, in the U-Net's dtype."""
    vae: Any = pipeline.vae
    unet: Any = pipeline.unet
    encoded = vae.encode(images.to(vae.device, vae.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    mean, deviation = _centre(vae, latents)
    return ((latents - mean) * vae.config.scaling_factor / deviation).to(unet.dtype)


def _centre(vae: Any, latents: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """What some autoencoders take from their latents and divide them by: 0 and 1 for most."""
    mean, deviation = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or deviation is None:
        return 0.0, 1.0
    centre, scale = (torch.tensor(v).view(1, -1, 1, 1).to(latents) for v in (mean, deviation))
    return centre, scale


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor, decode: Callable[[Tensor], tuple[Tensor, ...]] | None = None) -> Tensor:
    """Pictures ``[n, 3, h, w]``, 0..1, of scaled ``latents [n, c, h/f, w/f]``, computed in the VAE's own dtype.

    ``decode`` does what the VAE does with latents that are not scaled; None: the VAE itself.
    """
    latents = latents.to(vae.dtype)
    mean, deviation = _centre(vae, latents)
    latents = latents * deviation / vae.config.scaling_factor + mean
    images = decode(latents)[0] if decode else vae.decode(latents, return_dict=False)[0]
    return (images / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def text_conditions(pipeline: Pipeline, captions: list[str], size: int, guided: bool = False) -> dict[str, Any]:
    """What the U-Net is told of ``captions`` and of the picture's size, as its keyword arguments.

    ``guided``: with an unconditional half, which comes first, as the pipelines' own calls have it.
    """
    pipe: Any = pipeline
    if isinstance(pipeline, StableDiffusionXLPipeline):
        text, plain, pooled, plain_pooled = pipe.encode_prompt(
            captions, device=pipe.device, do_classifier_free_guidance=guided
        )
        width = text.shape[-1] if pipe.text_encoder_2 is None else pipe.text_encoder_2.config.projection_dim
        sides = (size, size)
        # Original size, place of the crop, target size: as the pipeline's own call says of an uncropped picture.
        ids = pipe._get_add_time_ids(sides, (0, 0), sides, dtype=text.dtype, text_encoder_projection_dim=width)
        if guided:
            text, pooled = torch.cat([plain, text]), torch.cat([plain_pooled, pooled])
        ids = ids.to(pipe.device).repeat(len(text), 1)
        return {"encoder_hidden_states": text, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
    text, plain = pipe.encode_prompt(captions, pipe.device, 1, guided)
    return {"encoder_hidden_states": torch.cat([plain, text]) if guided else text}
