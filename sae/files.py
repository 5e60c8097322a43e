"""Files: written in one step, read with errors that say what is wrong."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae.errors import FeaturebrushError


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


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, or a `FeaturebrushError`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FeaturebrushError(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FeaturebrushError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise FeaturebrushError(f"{path} must hold a JSON object, not {type(data).__name__}")
    return data


def read_json(path: Path, kind: str, version: int) -> dict[str, Any]:
    """The JSON object in ``path`` that says ``{"format": kind, "version": version}``, or a `FeaturebrushError`."""
    data = read_object(path)
    if data.get("format") != kind:
        raise FeaturebrushError(f"{path} has the format {data.get('format')!r}: expected {kind!r}")
    if data.get("version") != version:
        raise FeaturebrushError(f"{path} has the version {data.get('version')!r}: expected {version}")
    return data


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file by its name, on the CPU, or a `FeaturebrushError`."""
    if not path.is_file():
        raise FeaturebrushError(f"{path.parent} has no {path.name}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise FeaturebrushError(f"{path} cannot be read as safetensors: {error}") from error


def read_pickled(path: Path) -> Any:
    """What ``torch.save`` wrote to ``path``, on the CPU, or a `FeaturebrushError`.

    Only tensors and plain containers are accepted: nothing that a pickle may ask to be run is run.
    """
    if not path.is_file():
        raise FeaturebrushError(f"{path.parent} has no {path.name}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle make the reader fail with nearly any class of error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FeaturebrushError(f"{path} cannot be read as saved tensors: {reason}") from error
