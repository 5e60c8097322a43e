"""The loading of a model: a pipeline with the SAEs of its blocks, from folders or the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from transformers.utils import logging as transformers_logging

from canvas.concepts import Concept, read_concepts, read_object
from canvas.painting import MAX_GUIDANCE, MAX_STEPS
from canvas.registry import REGISTRY, Defaults, Known, find_saes
from sae import SAE
from sae import load as load_sae
from sae.activations import block_module
from sae.devices import chosen
from sae.errors import FeaturebrushError, unknown
from sae.pipelines import Pipeline, default_size, load_pipeline

SETTINGS = "featurebrush.json"
CONCEPTS = "concepts.json"
ICONS = "icons.webp"
UNDISTILLED = "undistilled"
"""The folder, in a model's, of the U-Net as it was before it learnt to do with few steps."""
_log = logging.getLogger(__name__)
_PIPELINE_PARTS = ("model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler")
OTHERS = Defaults(25, 7.5, 0)
"""Of pipelines that nobody has said more of; their size is the one that they were made for."""


@dataclass(frozen=True)
class Model:
    """A loaded model: a diffusers pipeline with the SAEs of its blocks."""

    name: str
    """What a painting's ``model`` says to mean this one."""
    folder: Path | None
    """Where its concepts and icons lie, if it has a folder of its own."""
    pipeline: Pipeline
    saes: Mapping[str, SAE]
    """By block."""
    sae_folders: Mapping[str, Path]
    """By block: where the SAE lies, and its atlas if there is one."""
    defaults: Defaults
    groups: tuple[str, ...]
    """The groups of the concepts in the order in which to show them."""
    concepts: tuple[Concept, ...]
    sketcher: AutoencoderTiny | None = None
    """A small decoder of the pipeline's latents, for drafts, where its own is large and one is at hand."""


def load(
    model: str | Path = "storybook",
    device: str | torch.device | None = None,
    saes: str | Path | Mapping[str, str | Path] | None = None,
    download: bool = False,
) -> Model:
    """Load a model onto ``device`` (None: CUDA if it is there, else the CPU).

    Parameters: ``model`` is a name in `REGISTRY`; the path of a model folder as docs/architecture.md describes it, or
    of any folder of a Stable Diffusion or SDXL pipeline; or the id of one on the hub. A model from a path is called
    after its folder. ``saes`` are the folders of the SAEs to paint with, by block, or one folder that holds them (see
    `canvas.registry.find_saes`); None: those that the model folder or the registry names. The network is touched with
    ``download`` only. Models of a folder of ours compute in float32, others in float16 on CUDA.

    Raises ``FeaturebrushError`` that says which part is missing or does not fit.
    """
    target = chosen(device)
    name, known = _named(model)
    source = Path(known.source if known else model)
    ours = (source / SETTINGS).is_file() or (known is not None and known.defaults is None)
    if ours or (known is None and source.is_dir() and saes is None):
        own = name if known else source.resolve().name
        return _from_folder(own, source, target, saes)
    if known is None and source.is_dir():
        name = source.resolve().name
    places = _sae_folders(saes) if saes is not None else _published(name, known, download)
    dtype = torch.float16 if target.type == "cuda" else torch.float32
    pipeline = _pipeline(known.source if known else str(model), target, dtype, download)
    defaults = known.defaults if known and known.defaults else None
    if defaults is None:
        defaults = Defaults(OTHERS.steps, OTHERS.guidance, default_size(pipeline))
    loaded = {block: _sae(folder, block, pipeline, target) for block, folder in places.items()}
    sketcher = _sketcher(known.sketcher, pipeline, download) if known and known.sketcher else None
    return Model(name, None, pipeline, loaded, places, defaults, (), (), sketcher)


def _named(model: str | Path) -> tuple[str, Known | None]:
    """The name of ``model``, and what the registry says of it, which it finds by its name or its id on the hub; None if
    it is another folder or id. Raises for what can be neither."""
    for name, known in REGISTRY.items():
        if str(model) in (name, known.source):
            return name, known
    if Path(model).is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        return str(model), None
    if Path(model).name != str(model):
        raise FeaturebrushError(f"there is no model folder {str(model)!r}; models known by name: {', '.join(REGISTRY)}")
    raise unknown("model", str(model), REGISTRY)


def _from_folder(
    name: str, folder: Path, device: torch.device, saes: str | Path | Mapping[str, str | Path] | None
) -> Model:
    """A folder of ours, with settings and concepts."""
    if not folder.is_dir():
        raise FeaturebrushError(f"the model {name!r} is not installed: its folder {folder} is missing")
    missing = [part for part in (*_PIPELINE_PARTS, SETTINGS, CONCEPTS) if not (folder / part).exists()]
    if missing:
        hint = "; of a plain pipeline, give the folders of SAEs too (saes=, or --saes)" if SETTINGS in missing else ""
        raise FeaturebrushError(f"the model folder {folder} is not complete: missing {', '.join(missing)}{hint}")
    defaults, blocks, groups = _settings(folder / SETTINGS)
    places = {block: folder / "sae" / block for block in blocks} if saes is None else _sae_folders(saes)
    pipeline = _pipeline(str(folder), device, torch.float32, download=False)
    _check_size(folder / SETTINGS, defaults.size, pipeline)
    loaded = {block: _sae(place, block, pipeline, device) for block, place in places.items()}
    concepts = read_concepts(folder / CONCEPTS) if saes is None else ()
    for concept in concepts:
        _check_concept(folder / CONCEPTS, concept, loaded)
    if any(concept.icon is not None for concept in concepts) and not (folder / ICONS).is_file():
        raise FeaturebrushError(f"the model folder {folder} is not complete: missing {ICONS}")
    return Model(name, folder, pipeline, loaded, places, defaults, groups, concepts)


def _sae_folders(saes: str | Path | Mapping[str, str | Path]) -> dict[str, Path]:
    if isinstance(saes, Mapping):
        return {block: Path(folder) for block, folder in saes.items()}
    return find_saes(saes)


def _published(name: str, known: Known | None, download: bool) -> dict[str, Path]:
    """The folders of the SAEs that the registry names, in the local cache of the hub."""
    if known is None or not known.saes:
        raise FeaturebrushError(f"no SAEs are known for {name!r}: give their folders (saes=, or --saes)")
    patterns = [f"{folder}/{part}" for folder in known.blocks.values() for part in ("*", "final/*")]
    try:
        root = Path(snapshot_download(known.saes, allow_patterns=patterns, local_files_only=not download))
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_here(name, f"the SAEs {known.saes}", download, error) from error
    found = find_saes(root)
    if missing := [block for block in known.blocks if block not in found]:
        raise _not_here(name, f"the SAEs {known.saes} for {', '.join(missing)}", download)
    return {block: found[block] for block in known.blocks}


def _not_here(name: str, what: str, download: bool, error: Exception | None = None) -> FeaturebrushError:
    if download:
        return FeaturebrushError(f"{what}, which {name!r} needs, cannot be downloaded: {error or 'they are not there'}")
    return FeaturebrushError(
        f"{name!r} needs {what}, which are not in the local cache of the hub: allow the download "
        "(download=True, or --download), or give folders"
    )


def _pipeline(source: str, device: torch.device, dtype: torch.dtype, download: bool) -> Pipeline:
    with nullcontext() if download else _quiet():
        return load_pipeline(source, device, dtype, download)


def _sketcher(source: str, pipeline: Any, download: bool) -> AutoencoderTiny | None:
    """The small decoder of that id; None, with a word in the log, where it is not at hand: drafts do without it."""
    try:
        with nullcontext() if download else _quiet():
            found: Any = AutoencoderTiny.from_pretrained(
                source, local_files_only=not download, use_safetensors=True, torch_dtype=pipeline.unet.dtype
            )
    except (OSError, ValueError, RuntimeError) as error:
        _log.info("drafts are decoded by the model's own VAE, as %s is not at hand: %s", source, error)
        return None
    return found.to(pipeline.device).eval().requires_grad_(False)


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
