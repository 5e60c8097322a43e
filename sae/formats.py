"""Reading and writing SAEs: a folder with ``cfg.json`` and ``sae.safetensors``, never a pickle."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sae.errors import FeaturebrushError
from sae.model import SAE, SAEConfig

FORMAT = "featurebrush-sae"
VERSION = 1
CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"


def save(sae: SAE, folder: str | Path, half: bool = False) -> None:
    """Write ``sae`` into ``folder``, which is made if it is not there; a reader never meets half a file.

    ``half`` stores ``W_enc`` and ``W_dec`` as float16 (half the size); everything else, the threshold above all, stays
    float32. `load` gives float32 in any case.
    """
    folder = Path(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in sae.tensors().items()}
    if half:
        for name in ("W_enc", "W_dec"):
            tensors[name] = tensors[name].to(torch.float16)
            if not torch.isfinite(tensors[name]).all():
                raise FeaturebrushError(f"{name} has values beyond float16's range: save it with half=False")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path))
    write_json(folder / CONFIG_FILE, {"format": FORMAT, "version": VERSION, **sae.cfg.to_dict()})


def load(folder: str | Path, device: str | torch.device | None = None) -> SAE:
    """Read the SAE in ``folder``, as float32, onto ``device`` (the CPU if none is given).

    Raises `FeaturebrushError` if the folder or one of its two files is missing or damaged, if it is of another format
    or version, or if its tensors do not fit its configuration.
    """
    folder = Path(folder)
    cfg = _read_config(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise FeaturebrushError(f"{folder} has no {WEIGHTS_FILE}: an SAE's folder holds {CONFIG_FILE} and that")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise FeaturebrushError(f"{path} cannot be read as safetensors: {error}") from error
    decoder = tensors.get("W_dec")
    if decoder is not None and decoder.dim() == 2 and decoder.dtype != torch.float32:
        # Rounding to float16 moved the rows off the unit sphere by about 1e-4; a row of zeros stays one and is refused.
        tensors["W_dec"] = torch.nn.functional.normalize(decoder.to(torch.float32), dim=1)
    try:
        sae = SAE(cfg, tensors)
    except FeaturebrushError as error:
        raise FeaturebrushError(f"{path}: {error}") from error
    return sae if device is None else sae.to(device)


def _read_config(folder: Path) -> SAEConfig:
    if not folder.is_dir():
        raise FeaturebrushError(f"there is no folder {folder}: give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    path = folder / CONFIG_FILE
    data = read_json(path, FORMAT, VERSION)
    names = [field.name for field in fields(SAEConfig)]
    missing = [name for name in names if name not in data]
    if missing:
        raise FeaturebrushError(f"{path} has no {', '.join(missing)}: expected {', '.join(names)}")
    try:
        return SAEConfig(**{name: data[name] for name in names})
    except FeaturebrushError as error:
        raise FeaturebrushError(f"{path}: {error}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in ``path``'s place in one step."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    beside = Path(name)
    try:
        write(beside)
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, data: dict[str, Any], indent: int | None = 2) -> None:
    """Write a JSON object atomically; without ``indent`` it takes one line."""
    separators = None if indent else (",", ":")
    text = json.dumps(data, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def read_json(path: Path, kind: str, version: int) -> dict[str, Any]:
    """The JSON object in ``path`` that says ``{"format": kind, "version": version}``, or a `FeaturebrushError`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FeaturebrushError(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FeaturebrushError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise FeaturebrushError(f"{path} must hold a JSON object, not {type(data).__name__}")
    if data.get("format") != kind:
        raise FeaturebrushError(f"{path} has the format {data.get('format')!r}: expected {kind!r}")
    if data.get("version") != version:
        raise FeaturebrushError(f"{path} has the version {data.get('version')!r}: expected {version}")
    return data
