"""From checkpoints to a standard pipeline folder, with the provenance of every weight in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline

from canvas.storybook import generator
from canvas.storybook.validation import validate

STEPS, GUIDANCE = 8, 2.0
LICENCE = "Apache-2.0, the authors of Featurebrush; trained only on scenes drawn by canvas/storybook"


def pipeline(run: Path) -> tuple[StableDiffusionPipeline, dict[str, Any]]:
    """The pipeline as trained so far (averaged weights, fp32), and the generator's figures."""
    unet, encoder, tokenizer, figures = generator.averaged(run)
    vae = AutoencoderTiny.from_pretrained(run / "vae").eval()
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet, scheduler=generator.build_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe, figures


def commit() -> str:
    """The commit that the working tree stands on, with ``+`` if it has changes; ``unknown`` outside a repository."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty.strip() else "")


def write_provenance(folder: Path, command: str, seed: int, metrics: dict[str, Any]) -> None:
    """Say beside a weight what made it: command, commit, seed, metrics, licence."""
    facts = {"command": command, "commit": commit(), "seed": seed, "licence": LICENCE, "metrics": metrics}
    (folder / "provenance.json").write_text(json.dumps(facts, indent=2) + "\n")


def export(run: Path, target: Path, command: str, device: str = "cpu", held_out: int = 256) -> None:
    """Write the fp16 pipeline folder. What else lies in ``target`` (dictionaries, icons) stays.

    The generator is measured on ``held_out`` scenes: see `canvas.storybook.validation`.
    """
    pipe, figures = pipeline(run)
    figures |= {"held_out_error": validate(run, held_out, device=device)}
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(target / part, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(target)
    vae_figures = json.loads((run / "vae.json").read_text()) if (run / "vae.json").exists() else {}
    write_provenance(target / "unet", command, 0, figures)
    write_provenance(target / "text_encoder", command, 0, figures)
    write_provenance(target / "vae", command, 10_000_000, vae_figures)
