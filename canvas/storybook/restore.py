"""A run's checkpoints out of a model's folder, so that training can go on where only the repository is left.

Either a generator was kept in the middle of its training, with all of its parts; or it comes from the shipped model,
without the head that read concepts. What the optimisers remembered is lost too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from canvas.bench.reader import Reader
from canvas.models import UNDISTILLED
from canvas.storybook import generator, reader, training
from canvas.storybook.export import TRAINING, write_provenance
from canvas.storybook.vocabulary import INDEX
from sae.errors import FeaturebrushError

SEEN = 5000
"""Cells that a restored mean difference counts for: about what a running mean remembers of a concept."""


def keep(run: Path, model: Path, command: str) -> None:
    """Put the generator of ``run``, as far as it has come, beside the pipeline in the folder ``model``."""
    state = torch.load(run / "generator.pt", map_location="cpu", weights_only=True)
    folder = model / TRAINING
    folder.mkdir(exist_ok=True)
    weights = {name: _small(tensor) for name, tensor in state["average"]["weights"].items()}
    save_file(weights, folder / "generator.safetensors")
    figures = {"steps": state["step"], "samples": state["samples"], "minutes": round(state["elapsed"] / 60, 1)}
    write_provenance(folder, command, 0, figures | {"config": state["config"]})


def _small(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.dtype == torch.float32 and tensor.numel() > 2**13 else tensor.contiguous()


def restore(model: Path, run: Path) -> None:
    """Write ``vae``, ``tokenizer`` and ``generator.pt`` into ``run`` from the pipeline folder ``model``.

    Raises `FeaturebrushError` if the run has a generator already.
    """
    if (run / "generator.pt").exists():
        raise FeaturebrushError(f"{run / 'generator.pt'} is there already; nothing was restored")
    AutoencoderTiny.from_pretrained(model / "vae", torch_dtype=torch.float32).save_pretrained(run / "vae")
    shutil.copytree(model / "tokenizer", run / "tokenizer", dirs_exist_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    if (model / TRAINING).is_dir():
        folder = model / TRAINING
        done: dict[str, Any] = json.loads((folder / "provenance.json").read_text())["metrics"]
        cfg = generator.config_of(done["config"])
        modules = generator.build_modules(cfg, tokenizer)
        kept = load_file(folder / "generator.safetensors")
        modules.load_state_dict({name: kept[name].to(tensor.dtype) for name, tensor in modules.state_dict().items()})
    else:
        modules, cfg, done = _shipped(model, tokenizer)
    steppers = generator.optimisers(modules, cfg)
    training.save(run / "generator.pt", _checkpoint(modules, steppers, done, asdict(cfg)))
    if (model / "reader").is_dir():
        restore_reader(model / "reader", run)


def restore_reader(folder: Path, run: Path) -> None:
    """Write ``reader.pt`` into ``run`` from the reader in ``folder``."""
    net = Reader.load(folder).net
    done: dict[str, Any] = json.loads((folder / "provenance.json").read_text())["metrics"]["training"]
    cfg = reader.ReaderConfig(widths=tuple(net.net.config.block_out_channels))
    steppers = [stepper for stepper, _ in reader.steppers(net, cfg)]
    training.save(run / reader.CHECKPOINT, _checkpoint(net, steppers, done, asdict(cfg)))


def _checkpoint(
    module: nn.Module, steppers: Sequence[torch.optim.Optimizer], done: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """As `training.fit` leaves one at the end of a budget, of ``done`` steps, samples and minutes."""
    weights = module.state_dict()
    return {
        "weights": weights,
        "optimisers": [stepper.state_dict() for stepper in steppers],
        "average": {"step": done["steps"], "weights": weights},
        "step": done["steps"],
        "samples": done["samples"],
        "elapsed": done["minutes"] * 60,
        "minutes": done["minutes"],
        "config": config,
    }


def _shipped(model: Path, tokenizer: CLIPTokenizer) -> tuple[nn.ModuleDict, generator.GeneratorConfig, dict[str, Any]]:
    folder = model / UNDISTILLED if (model / UNDISTILLED).is_dir() else model / "unet"
    unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)
    shape = unet.config
    cfg = generator.GeneratorConfig(
        width=shape.block_out_channels[1],
        outer_width=shape.block_out_channels[0],
        layers=shape.layers_per_block[1],
        depth=shape.transformer_layers_per_block,
    )
    modules = generator.build_modules(cfg, tokenizer)
    # the head is new: while it reads nothing, it does not move what it reads
    nn.init.zeros_(modules["head"].weight)
    nn.init.zeros_(modules["head"].bias)
    modules["unet"].load_state_dict(unet.state_dict())
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", torch_dtype=torch.float32)
    modules["encoder"].load_state_dict(encoder.state_dict())
    _restore_palette(modules["palette"], model)
    done: dict[str, Any] = json.loads((folder / "provenance.json").read_text())["metrics"]
    return modules, cfg, done


def _restore_palette(palette: generator.Palette, model: Path) -> None:
    """The mean differences that lie beside the dictionary, and the length of its strokes."""
    folder = model / "sae" / generator.COMPOSITION
    palette.differences.counts += SEEN
    for name, difference in json.loads((folder / "differences.json").read_text()).items():
        palette.differences.sums[0, INDEX[name]] = SEEN * torch.tensor(difference, dtype=torch.float64)
    palette.square += json.loads((folder / "provenance.json").read_text())["metrics"]["stroke_length"] ** 2
