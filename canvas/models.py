"""Which models there are, and the loading of one from its folder. Local files only: the network is never touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from canvas.concepts import Concept, read_concepts, read_object
from canvas.painting import MAX_GUIDANCE, MAX_STEPS
from sae import SAE
from sae import load as load_sae
from sae.activations import block_module
from sae.devices import chosen
from sae.errors import FeaturebrushError, unknown

MODELS: dict[str, Path] = {"storybook": Path(__file__).resolve().parents[1] / "assets" / "storybook"}
"""The models known by name, with their folders."""

SETTINGS = "featurebrush.json"
CONCEPTS = "concepts.json"
ICONS = "icons.webp"
_PIPELINE_PARTS = ("model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a painting's None stands for, and the model's size."""

    steps: int
    guidance: float
    size: int
    """Height and width of its pictures in pixels."""


@dataclass(frozen=True)
class Model:
    """A loaded model: a diffusers pipeline with the SAEs of its blocks."""

    name: str
    """What a painting's ``model`` says to mean this one."""
    folder: Path
    pipeline: StableDiffusionPipeline
    saes: Mapping[str, SAE]
    """By block, in the order of ``featurebrush.json``."""
    defaults: Defaults
    groups: tuple[str, ...]
    """The groups of the concepts in the order in which to show them."""
    concepts: tuple[Concept, ...]


def folder_of(model: str | Path) -> Path:
    """The folder of a model by its known name, or by the folder's own path.

    Raises ``FeaturebrushError`` if it is neither.
    """
    folder = MODELS.get(str(model), Path(model))
    if folder.is_dir():
        return folder
    if str(model) in MODELS:
        raise FeaturebrushError(f"the model {str(model)!r} is not installed: its folder {folder} is missing")
    if folder.name != str(model):
        raise FeaturebrushError(f"there is no model folder {str(model)!r}; models known by name: {', '.join(MODELS)}")
    raise unknown("model", str(model), MODELS)


def load(model: str | Path = "storybook", device: str | torch.device | None = None) -> Model:
    """Load a model, in float32, onto ``device`` (None: CUDA if it is there, else the CPU).

    Parameters: ``model`` is a known name or the path of a folder as docs/architecture.md describes it; a model from a
    path is called after its folder. Raises ``FeaturebrushError`` that says which part is missing or does not fit.
    """
    folder = folder_of(model)
    target = chosen(device)
    missing = [part for part in (*_PIPELINE_PARTS, SETTINGS, CONCEPTS) if not (folder / part).exists()]
    if missing:
        raise FeaturebrushError(f"the model folder {folder} is not complete: missing {', '.join(missing)}")
    defaults, blocks, groups = _settings(folder / SETTINGS)
    pipeline = _pipeline(folder).to(target)
    _check_size(folder / SETTINGS, defaults.size, pipeline)
    saes = {block: _sae(folder / "sae" / block, block, pipeline, target) for block in blocks}
    concepts = read_concepts(folder / CONCEPTS)
    for concept in concepts:
        _check_concept(folder / CONCEPTS, concept, saes)
    if any(concept.icon is not None for concept in concepts) and not (folder / ICONS).is_file():
        raise FeaturebrushError(f"the model folder {folder} is not complete: missing {ICONS}")
    name = str(model) if str(model) in MODELS else folder.resolve().name
    return Model(name, folder, pipeline, saes, defaults, groups, concepts)


def _pipeline(folder: Path) -> StableDiffusionPipeline:
    try:
        with _quiet():
            pipeline = StableDiffusionPipeline.from_pretrained(
                str(folder),
                safety_checker=None,
                requires_safety_checker=False,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise FeaturebrushError(f"{folder} cannot be loaded as a StableDiffusionPipeline: {error}") from error
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    return pipeline


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' progress bars and remarks on loading (a VAE other than AutoencoderKL is one to them)."""
    bars = (diffusers_logging, transformers_logging)
    shown = [library for library in bars if library.is_progress_bar_enabled()]
    verbosity = diffusers_logging.get_verbosity()
    for library in bars:
        library.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(verbosity)
        for library in shown:
            library.enable_progress_bar()


def _settings(path: Path) -> tuple[Defaults, tuple[str, ...], tuple[str, ...]]:
    document = read_object(path)
    defaults = document.get("defaults")
    if not isinstance(defaults, dict):
        raise FeaturebrushError(f'{path} needs "defaults": {{"steps", "guidance", "size"}}')
    values: tuple[Any, ...] = tuple(defaults.get(name) for name in ("steps", "guidance", "size"))
    steps, guidance, size = values
    if type(steps) is not int or not 1 <= steps <= MAX_STEPS:
        raise FeaturebrushError(f'{path}: the default "steps" is a whole number in 1..{MAX_STEPS}, not {steps!r}')
    if type(guidance) not in (int, float) or not 0 <= guidance <= MAX_GUIDANCE:
        raise FeaturebrushError(f'{path}: the default "guidance" is a number in 0..{MAX_GUIDANCE:g}, not {guidance!r}')
    if type(size) is not int or size < 8 or size % 8:
        raise FeaturebrushError(f'{path}: the default "size" is a multiple of 8 pixels, not {size!r}')
    return Defaults(steps, float(guidance), size), _names(path, document, "blocks"), _names(path, document, "groups")


def _names(path: Path, document: dict[str, Any], key: str) -> tuple[str, ...]:
    names = document.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FeaturebrushError(f'{path}: "{key}" is a list of names, not {names!r}')
    return tuple(dict.fromkeys(names))


def _check_size(path: Path, size: int, pipeline: Any) -> None:
    if size % pipeline.vae_scale_factor:
        factor = pipeline.vae_scale_factor
        raise FeaturebrushError(f'{path}: "size" must be a multiple of the VAE\'s factor {factor}, not {size}')


def _sae(folder: Path, block: str, pipeline: Any, device: torch.device) -> SAE:
    module: Any = block_module(pipeline.unet, block)
    sae = load_sae(folder, device)
    width = module.config.in_channels
    if sae.cfg.d_in != width:
        raise FeaturebrushError(f"{folder}: its SAE is for {sae.cfg.d_in} channels, but {block} has {width}")
    if sae.cfg.block not in ("", block):
        raise FeaturebrushError(f"{folder}: its SAE is for the block {sae.cfg.block!r}, not {block!r}")
    return sae


def _check_concept(path: Path, concept: Concept, saes: Mapping[str, SAE]) -> None:
    if concept.block not in saes:
        raise FeaturebrushError(
            f"{path}: the concept {concept.name!r} is of the block {concept.block!r} without an SAE"
        )
    last = saes[concept.block].cfg.n_features - 1
    if max(concept.features) > last:
        wrong = max(concept.features)
        raise FeaturebrushError(f"{path}: the concept {concept.name!r} has a feature {wrong}; the last is {last}")
