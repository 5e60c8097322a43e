"""Reading and writing SAEs, in our own format (a folder with ``cfg.json`` and ``sae.safetensors``) and the field's.

`load` reads every format of `FORMATS`, which it recognises by the configuration's file and keys. Pickles are read for
their tensors alone, and none is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from sae import foreign
from sae.devices import usable
from sae.errors import FeaturebrushError
from sae.files import read_json, read_object, read_pickled, read_tensors, write_atomically, write_json
from sae.model import SAE, SAEConfig, Site

__all__ = [
    "FORMATS",
    "detect",
    "load",
    "read_json",
    "save",
    "save_saelens",
    "save_sparsify",
    "write_atomically",
    "write_json",
]

FORMAT = "featurebrush-sae"
VERSION = 1
CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"
LENGTH_TOLERANCE = 1e-2
"""How far from 1 the length of a row of ``W_dec`` may be in our own format."""


def _ours(config: Mapping[str, Any], tensors: Mapping[str, Any], block: str, site: Site) -> foreign.Parts:
    """The parts of an SAE in our own format, which says its site itself."""
    if config.get("version") != VERSION:
        raise FeaturebrushError(f"{CONFIG_FILE} has the version {config.get('version')!r}: expected {VERSION}")
    names = [field.name for field in fields(SAEConfig)]
    # Files of version 1 that were written before there were matryoshka SAEs say nothing of prefixes.
    given = {"prefixes": (), **config}
    missing = [name for name in names if name not in given]
    if missing:
        raise FeaturebrushError(f"{CONFIG_FILE} has no {', '.join(missing)}: expected {', '.join(names)}")
    if isinstance(given["prefixes"], list):
        given["prefixes"] = tuple(given["prefixes"])
    if block and given["block"] not in ("", block):
        raise FeaturebrushError(f"{CONFIG_FILE} says that the SAE is for the block {given['block']!r}, not {block!r}")
    if given["block"] == "":
        given["block"] = block
    cfg = SAEConfig(**{name: given[name] for name in names})
    decoder = tensors.get("W_dec")
    if decoder is not None and decoder.dim() == 2 and decoder.numel():
        _check_rows(decoder)
        if decoder.dtype != torch.float32:
            # Rounding to float16 moved the rows off the unit sphere by about 1e-4.
            tensors = {**tensors, "W_dec": F.normalize(decoder.to(torch.float32), dim=1)}
    return cfg, dict(tensors)


def _check_rows(W_dec: Tensor) -> None:
    off = (W_dec.to(torch.float32).norm(dim=1) - 1).abs().max().item()
    if off > LENGTH_TOLERANCE:
        raise FeaturebrushError(f"the rows of W_dec must have length 1, but one is off by {off:.3g}")


class Format(NamedTuple):
    """How one format is recognised and read."""

    config: str
    """Name of the file with the configuration, a JSON object."""
    weights: str
    """Name of the file with the tensors: safetensors by that suffix, else what ``torch.save`` writes."""
    keys: str
    """What the configuration must hold, in words."""
    fits: Callable[[Mapping[str, Any]], bool]
    """Whether a configuration is of this format."""
    read: Callable[[Mapping[str, Any], Mapping[str, Any], str, Site], foreign.Parts]
    """Configuration, tensors, block and site to the parts of an SAE."""
    extra: Mapping[str, str] = {}
    """Files that may be there with one tensor each, by the name that ``read`` knows it by."""


FORMATS: dict[str, Format] = {
    "featurebrush": Format(
        CONFIG_FILE, WEIGHTS_FILE, f'"format": "{FORMAT}"', lambda config: config.get("format") == FORMAT, _ours
    ),
    "sdxl-unbox": Format(
        "config.json",
        "state_dict.pth",
        "n_dirs_local, d_model, k",
        lambda config: "n_dirs_local" in config,
        foreign.sdxl_unbox,
        {"mean": "mean.pt"},
    ),
    # Before sparsify: configurations of early versions of SAELens have an expansion_factor too.
    "saelens": Format(
        "cfg.json", "sae_weights.safetensors", "d_in, d_sae", lambda config: "d_sae" in config, foreign.saelens
    ),
    "sparsify": Format(
        "cfg.json",
        "sae.safetensors",
        "d_in, k, expansion_factor or num_latents",
        lambda config: "expansion_factor" in config or "num_latents" in config,
        foreign.sparsify,
    ),
    "dictionary_learning": Format(
        "config.json",
        "ae.pt",
        '"trainer": {"dict_class", ...}',
        lambda config: isinstance(config.get("trainer"), dict),
        foreign.dictionary_learning,
    ),
}
"""The formats that `load` reads, by name, in the order in which they are tried."""


def detect(path: str | Path) -> str:
    """The name in `FORMATS` of the format of the SAE in the folder ``path``, or whose file it is.

    Only the configuration is looked at. Raises `FeaturebrushError`, with what was found and what is known, if it fits
    none.
    """
    return _recognised(Path(path))[0]


def load(path: str | Path, device: str | torch.device | None = None, block: str = "", site: Site = "update") -> SAE:
    """Read the SAE in the folder ``path``, or whose file it is, as float32, onto ``device`` (the CPU if not given).

    It may be of any of `FORMATS`. ``block`` and ``site`` say where it sits if the files do not: only our own format
    does. Codes and reconstructions are those of the library that wrote it (see `sae.foreign`); of its statistics, our
    own format has all, sdxl-unbox the means, the others none.

    Raises `FeaturebrushError` if the format is not known, a file is missing or damaged, what it holds does not fit its
    configuration, or the SAE computes what `SAE` cannot.
    """
    name, folder, config = _recognised(Path(path))
    known = FORMATS[name]
    reader = read_tensors if known.weights.endswith(".safetensors") else read_pickled
    tensors = reader(folder / known.weights)
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict):
        raise FeaturebrushError(f"{folder / known.weights} must hold tensors by name, not {type(tensors).__name__}")
    for tensor, file in known.extra.items():
        if (folder / file).is_file():
            tensors[tensor] = read_pickled(folder / file)
    try:
        sae = SAE(*known.read(config, tensors, block, site))
    except FeaturebrushError as error:
        raise FeaturebrushError(f"{folder}: {error}") from error
    return sae if device is None else sae.to(usable(device))


def _recognised(path: Path) -> tuple[str, Path, dict[str, Any]]:
    """Name of the format, folder and configuration."""
    if not path.exists():
        raise FeaturebrushError(f"there is no folder {path}: give a folder that holds an SAE, or a file in one")
    folder = path if path.is_dir() else path.parent
    configs: dict[str, dict[str, Any] | None] = {}
    for name, known in FORMATS.items():
        if known.config not in configs:
            there = (folder / known.config).is_file()
            configs[known.config] = read_object(folder / known.config) if there else None
        config = configs[known.config]
        if config is not None and known.fits(config):
            files = (known.config, known.weights, *known.extra.values())
            if path.is_file() and path.name not in files:
                raise FeaturebrushError(f"{path} is not read: an SAE of the format {name} is {' and '.join(files)}")
            return name, folder, config
    found = [f"the file {entry.name}" for entry in islice(sorted(folder.iterdir()), 8)]
    for name, config in configs.items():
        if config is not None:
            found.append(f"in {name} the keys {', '.join(islice(config, 12)) or '(none)'}")
    described = (f"{name} ({known.config} with {known.keys}; {known.weights})" for name, known in FORMATS.items())
    raise FeaturebrushError(
        f"{folder} holds no SAE of a known format: found {'; '.join(found) or 'nothing'}. "
        f"Known are {', '.join(described)}"
    )


def save(sae: SAE, folder: str | Path, half: bool = False) -> None:
    """Write ``sae`` into ``folder``, which is made if it is not there; a reader never meets half a file.

    ``half`` stores ``W_enc`` and ``W_dec`` as float16 (half the size); everything else, the threshold above all, stays
    float32. `load` gives float32 in any case.

    Raises `FeaturebrushError` if the rows of ``W_dec`` are not of unit length, which an SAE of another library's may
    be: its codes would be in other units than ours. `save_saelens` takes it.
    """
    folder = Path(folder)
    try:
        _check_rows(sae.W_dec)
    except FeaturebrushError as error:
        raise FeaturebrushError(f"{error}: save it with sae.formats.save_saelens, which keeps any length") from None
    tensors = _tensors(sae)
    if half:
        for name in ("W_enc", "W_dec"):
            tensors[name] = tensors[name].to(torch.float16)
            if not torch.isfinite(tensors[name]).all():
                raise FeaturebrushError(f"{name} has values beyond float16's range: save it with half=False")
    _write(
        folder / WEIGHTS_FILE,
        tensors,
        folder / CONFIG_FILE,
        {"format": FORMAT, "version": VERSION, **sae.cfg.to_dict()},
    )


def save_saelens(sae: SAE, folder: str | Path) -> None:
    """Write ``sae`` into ``folder`` as SAELens (version 6) loads it from disk: topk, standard (for relu) or jumprelu.

    batchtopk and matryoshka become jumprelu with one threshold for all features, as SAELens itself writes them, which
    computes the same; the metadata says how they were trained, from which `load` gives them back as they were. Block,
    site and statistics have no place in that format and are left out.
    """
    cfg, tensors = sae.cfg, _tensors(sae)
    architecture = {"topk": "topk", "relu": "standard"}.get(cfg.architecture, "jumprelu")
    weights = {
        "W_enc": tensors["W_enc"].T.contiguous(),
        **{name: tensors[name] for name in ("b_enc", "W_dec", "b_dec")},
    }
    if architecture == "jumprelu":
        weights["threshold"] = tensors["threshold"].expand(cfg.n_features).contiguous()
    training: dict[str, Any] = {"k": cfg.k}
    if cfg.prefixes:
        training["matryoshka_widths"] = list(cfg.prefixes)
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": cfg.d_in,
        "d_sae": cfg.n_features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            # The version whose form of configuration this is.
            "sae_lens_version": "6.0.0",
            "training_architecture": foreign.SAELENS_NAMES[cfg.architecture],
            "training_architecture_details": training,
        },
    }
    if architecture == "topk":
        config |= {"k": cfg.k, "rescale_acts_by_decoder_norm": False}
    _write(Path(folder) / "sae_weights.safetensors", weights, Path(folder) / "cfg.json", config)


def save_sparsify(sae: SAE, folder: str | Path) -> None:
    """Write the topk SAE ``sae`` into ``folder`` as EleutherAI's sparsify loads it from disk.

    Block, site and statistics have no place in that format and are left out. Raises `FeaturebrushError` for every
    other architecture, which sparsify does not have.
    """
    cfg, tensors = sae.cfg, _tensors(sae)
    if cfg.architecture != "topk":
        raise FeaturebrushError(
            f"sparsify has only topk SAEs, and this one is {cfg.architecture}: save it with sae.formats.save_saelens"
        )
    weights = {
        "encoder.weight": tensors["W_enc"],
        "encoder.bias": tensors["b_enc"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    config = {
        "activation": "topk",
        # Not used where num_latents is given, but every version wants it.
        "expansion_factor": max(1, cfg.n_features // cfg.d_in),
        "normalize_decoder": True,
        "num_latents": cfg.n_features,
        "k": cfg.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": cfg.d_in,
    }
    _write(Path(folder) / "sae.safetensors", weights, Path(folder) / "cfg.json", config)


def _tensors(sae: SAE) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in sae.tensors().items()}


def _write(weights: Path, tensors: dict[str, Tensor], config: Path, data: dict[str, Any]) -> None:
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(weights, lambda path: save_file(tensors, path))
    write_json(config, data)
