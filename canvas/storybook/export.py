"""From checkpoints to a standard pipeline folder, with the provenance of every weight in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline

from canvas.models import UNDISTILLED
from canvas.storybook import distil, generator
from canvas.storybook.validation import fidelity, validate

TRAINING = "training"
"""The folder, in a model's, of a generator that is not finished and ships with nothing yet."""
STEPS, GUIDANCE = distil.STEPS, 1.0
"""Of the shipped sampler: distillation has put guidance into the weights."""
LICENCE = "Apache-2.0, the authors of Featurebrush; trained only on scenes drawn by canvas/storybook"


def pipeline(run: Path, distilled: bool = True) -> tuple[StableDiffusionPipeline, dict[str, Any]]:
    """The pipeline as trained so far (averaged weights, fp32), and its U-Net's figures.

    With ``distilled`` the U-Net is the student, where there is one.
    """
    unet, encoder, tokenizer, figures = generator.averaged(run)
    if distilled and (student := distil.averaged(run)):
        weights, figures = student
        unet.load_state_dict(weights)
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


def export(run: Path, target: Path, command: str, device: str = "cpu", held_out: int = 256, pictures: int = 48) -> None:
    """Write the fp16 pipeline folder. What else lies in ``target`` (dictionaries, icons) stays.

    The generator is measured on ``held_out`` scenes: see `canvas.storybook.validation`. If it was distilled, the
    student is the pipeline's U-Net, compared on ``pictures``, and the generator itself lies beside it in
    ``undistilled``.
    """
    slow, figures = pipeline(run, distilled=False)
    figures |= {"held_out_error": validate(run, held_out, device=device)}
    vae_figures = _vae_figures(run, target)
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", UNDISTILLED, TRAINING):
        shutil.rmtree(target / part, ignore_errors=True)
    pipe, own = pipeline(run)
    if (run / "distilled.pt").exists():
        # measured on another copy: a tokenizer that was used is saved with how
        own |= {"of": figures, "fidelity": fidelity(pipeline(run)[0].to(device), slow.to(device), pictures)}
        slow.unet.to("cpu", torch.float16).save_pretrained(target / UNDISTILLED)
        write_provenance(target / UNDISTILLED, command, 0, figures)
    else:
        own = figures
    pipe.to("cpu", torch.float16).save_pretrained(target)
    write_provenance(target / "unet", command, 0, own)
    write_provenance(target / "text_encoder", command, 0, figures)
    write_provenance(target / "vae", command, 10_000_000, vae_figures)


def _vae_figures(run: Path, target: Path) -> dict[str, Any]:
    """What is known of the autoencoder, from its training or else from the model that it was restored from."""
    if (run / "vae.json").exists():
        return json.loads((run / "vae.json").read_text())
    before = target / "vae" / "provenance.json"
    return json.loads(before.read_text())["metrics"] if before.exists() else {}
