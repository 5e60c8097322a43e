"""``python -m sae eval``: how good an SAE is, on activations, or inside its model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae.errors import FeaturebrushError, unknown
from sae.files import read_object
from sae.formats import load
from sae.matching import stability
from sae.metrics import Measures, density_histogram, feature_stats
from sae.model import SAE
from sae.report import Report
from sae.sources import SOURCES, open_scenes

Config = TypeVar("Config")

MODEL_FILE, SETTINGS_FILE = "model_index.json", "featurebrush.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An SAE, and either a file of activations or the model that it belongs to."""
    add_model(parser)
    parser.add_argument(
        "--activations", type=Path, metavar="FILE", help="measure on this safetensors file of activations [..., d]"
    )
    parser.add_argument(
        "--tensor", metavar="NAME", help="which tensor of it; if not given, the SAE's block or the only one there"
    )
    names = ", ".join(SOURCES)
    parser.add_argument("--scenes", default="world", metavar="NAME", help=f"pictures of known content: {names}")
    parser.add_argument("--first", type=int, metavar="N", help="number of the first scene (default: 23000000)")
    parser.add_argument("--count", type=int, metavar="N", help="how many scenes (default: 400)")
    parser.add_argument("--pictures", type=int, metavar="N", help="how many to sample (default: 16)")
    parser.add_argument(
        "--against", type=Path, nargs="+", default=[], metavar="FOLDER", help="SAEs of other seeds: adds stability"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write eval.json and eval.html there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that say which SAE, in which model."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of an SAE, in any format that `sae.load` reads")
    parser.add_argument(
        "--model", metavar="FOLDER", help="the diffusers pipeline around it (default: the one in which FOLDER lies)"
    )
    parser.add_argument("--block", default="", metavar="NAME", help="the SAE's block, where its files do not say")
    parser.add_argument("--steps", type=int, metavar="N", help="of the sampler (default: the model's own, else 8)")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write what was asked for."""
    if options.activations is not None and options.model is not None:
        raise FeaturebrushError("--activations and --model exclude each other: measure on a file or in a model")
    sae = load(options.folder, options.device, options.block)
    others = [load(folder, options.device, options.block) for folder in options.against]
    if options.activations is not None:
        report = on_activations(sae, _activations(options.activations, options.tensor, sae.cfg.block))
    else:
        report = _in_model(sae, options)
    if others:
        report = report.with_stability(stability([one.W_dec[_alive(one)] for one in (sae, *others)]))
    if options.out is not None:
        report.write(options.out)
    print(json.dumps(report.to_dict(), indent=2) if options.json else report.to_text())


def on_activations(sae: SAE, x: Tensor) -> Report:
    """The measures that need only activations ``[..., d]``."""
    measures = Measures(sae)
    measures.add(x)
    density = feature_stats(sae, [x]).density
    return Report(sae.cfg, measures.result(), tuple(measures.channels().tolist()), density_histogram(density))


def model_of(folder: Path) -> Path:
    """The model folder in which the SAE's ``folder`` lies, as in ``MODEL/sae/down.1.0``."""
    for parent in list(folder.resolve().parents)[:3]:
        if (parent / MODEL_FILE).is_file():
            return parent
    raise FeaturebrushError(f"{folder} lies in no model folder: give --model FOLDER, or --activations FILE")


def _in_model(sae: SAE, options: argparse.Namespace) -> Report:
    # diffusers takes seconds to import, and activations alone do not need it.
    from sae.bench import EvalConfig, in_model
    from sae.pipelines import load_pipeline

    model = options.model or model_of(options.folder)
    cfg = config_in(model, EvalConfig, options, ("scenes", "first", "count", "steps", "pictures"))
    return in_model(sae, load_pipeline(model, options.device), open_scenes(cfg.scenes), cfg)


def config_in(model: str | Path, kind: type[Config], options: argparse.Namespace, names: Sequence[str]) -> Config:
    """A configuration: what the options named give, else what the model says of itself, else the kind's defaults.

    A model says how many steps it takes, with what guidance, at what size, in its ``featurebrush.json``, if it has one.
    """
    given = {name: getattr(options, name) for name in names}
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    settings = {name: value for name, value in _settings(Path(model)).items() if name in known}
    return kind(**{**settings, **{name: value for name, value in given.items() if value is not None}})


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}
    defaults = read_object(path).get("defaults")
    names = ("steps", "guidance", "size")
    if not isinstance(defaults, dict) or any(name not in defaults for name in names):
        raise FeaturebrushError(f'{path} needs "defaults": {{"steps", "guidance", "size"}}')
    return {name: defaults[name] for name in names}


def _alive(sae: SAE) -> Tensor:
    """Which features are known to be active at times, ``[F]`` bool; all, if there are no statistics."""
    alive = sae.density > 0
    return alive if bool(alive.any()) else torch.ones_like(alive)


def _activations(path: Path, name: str | None, block: str) -> Tensor:
    if not path.is_file():
        raise FeaturebrushError(f"there is no file {path}: give a safetensors file with activations [..., d]")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if name is None:
                name = names[0] if len(names) == 1 else block
            if name not in names:
                raise unknown("tensor", name, names)
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise FeaturebrushError(f"{path} cannot be read as safetensors: {error}") from error
