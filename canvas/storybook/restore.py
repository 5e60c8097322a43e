"""A run's checkpoints out of a shipped model, so that training can go on where only the model is left.

What the optimisers remembered is lost, and so is the head that read concepts; both come back within some hundred steps.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from canvas.storybook import generator, training
from canvas.storybook.vocabulary import INDEX
from sae.errors import FeaturebrushError

UNDISTILLED = "undistilled"
"""The folder, in a model's, of the U-Net as it was before it learnt to do with few steps."""


def restore(model: Path, run: Path) -> None:
    """Write ``vae``, ``tokenizer`` and ``generator.pt`` into ``run`` from the pipeline folder ``model``.

    Raises `FeaturebrushError` if the run has a generator already.
    """
    if (run / "generator.pt").exists():
        raise FeaturebrushError(f"{run / 'generator.pt'} is there already; nothing was restored")
    AutoencoderTiny.from_pretrained(model / "vae", torch_dtype=torch.float32).save_pretrained(run / "vae")
    shutil.copytree(model / "tokenizer", run / "tokenizer", dirs_exist_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
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
    modules["unet"].load_state_dict(unet.state_dict())
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", torch_dtype=torch.float32)
    modules["encoder"].load_state_dict(encoder.state_dict())
    _restore_palette(modules["palette"], model)
    done: dict[str, Any] = json.loads((folder / "provenance.json").read_text())["metrics"]
    weights = modules.state_dict()
    state = {
        "weights": weights,
        "optimisers": [stepper.state_dict() for stepper in generator.optimisers(modules, cfg)],
        "average": {"step": done["steps"], "weights": weights},
        "step": done["steps"],
        "samples": done["samples"],
        "elapsed": done["minutes"] * 60,
        "config": asdict(cfg),
    }
    training.save(run / "generator.pt", state)


def _restore_palette(palette: generator.Palette, model: Path) -> None:
    """The mean differences that lie beside the dictionary; a concept's brush is as long as the updates deviate."""
    folder = model / "sae" / generator.COMPOSITION
    palette.differences.counts += 1
    for name, difference in json.loads((folder / "differences.json").read_text()).items():
        palette.differences.sums[0, INDEX[name]] = torch.tensor(difference, dtype=torch.float64)
    tensors = load_file(folder / "sae.safetensors")
    entries = json.loads((model / "concepts.json").read_text())["concepts"]
    entry = next(entry for entry in entries if entry["block"] == generator.COMPOSITION)
    chosen = entry["features"]
    amounts = torch.tensor(entry["weights"]) * tensors["mean"][chosen].float()
    palette.square += (amounts @ tensors["W_dec"][chosen].float()).square().sum()
