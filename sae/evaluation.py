"""``python -m sae eval``: how good an SAE is, on activations, or inside its model."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae.devices import chosen
from sae.errors import FeaturebrushError, unknown
from sae.files import read_object
from sae.formats import load
from sae.matching import stability
from sae.metrics import Measures, density_histogram, feature_stats
from sae.model import SAE, Site
from sae.report import Report
from sae.sources import SOURCES, open_source

if TYPE_CHECKING:
    from sae.pipelines import Pipeline

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
    add_pictures(parser, 400)
    parser.add_argument("--guidance", type=float, help="of the spliced pictures (default: the model's own, else 1)")
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
    parser.add_argument("--download", action="store_true", help="let a model that is not here come from the hub")
    parser.add_argument("--block", default="", metavar="NAME", help="the SAE's block, where its files do not say")
    parser.add_argument(
        "--site", choices=get_args(Site), default="update", help="what the SAE is of, where its files do not say"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="of the sampler (default: the model's own, else 8)")
    parser.add_argument("--size", type=int, help="height and width of the pictures (default: the model's own)")
    parser.add_argument("--device", help="where to compute (default: cuda if it is there, else cpu)")


def add_pictures(parser: argparse.ArgumentParser, count: int) -> None:
    """The options that say which pictures to look at."""
    scenes = " or ".join(map(repr, SOURCES))
    parser.add_argument(
        "--prompts", default="world", metavar="FILE", help=f"a prompt on each line, or {scenes} (default: 'world')"
    )
    parser.add_argument(
        "--first", type=int, metavar="N", help="number of the first scene, or seed of the first picture"
    )
    parser.add_argument("--count", type=int, metavar="N", help=f"how many pictures (default: {count})")


def given_sae(options: argparse.Namespace, folder: Path) -> SAE:
    """The SAE in ``folder``, where and as the options say."""
    return load(folder, chosen(options.device), options.block, options.site)


def given_model(options: argparse.Namespace) -> Pipeline:
    """The pipeline that the options name, or the one in which the SAE lies."""
    # diffusers takes seconds to import, and activations alone do not need it.
    from sae.pipelines import load_pipeline, only_errors

    only_errors()
    return load_pipeline(options.model or model_of(options.folder), chosen(options.device), download=options.download)


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write what was asked for."""
    if options.activations is not None and options.model is not None:
        raise FeaturebrushError("--activations and --model exclude each other: measure on a file or in a model")
    sae = given_sae(options, options.folder)
    others = [given_sae(options, folder) for folder in options.against]
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
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
    from sae.bench import EvalConfig, in_model

    source, name = open_source(options.prompts)
    cfg = config_in(EvalConfig, options, source=name)
    return in_model(sae, given_model(options), source, cfg)


def config_in(kind: type[Config], options: argparse.Namespace, **more: Any) -> Config:
    """A configuration: what the options give, else what the model says of itself, else the kind's defaults.

    A model says how many steps it takes, with what guidance, at what size, in its ``featurebrush.json``, if it has one.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    given = {name: value for name, value in {**vars(options), **more}.items() if name in known}
    model = Path(options.model or model_of(options.folder))
    settings = {name: value for name, value in _settings(model).items() if name in known}
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
