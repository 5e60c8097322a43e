"""The picture's code: an ``AutoencoderTiny`` of 8 channels at 1/8 of the side, trained on drawn scenes."""

from __future__ import annotations

import json
import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from tqdm import tqdm

from canvas.storybook import training
from canvas.storybook.muon import Muon
from canvas.storybook.world import draw_scene

SEEDS = 10_000_000
"""First seed of the scenes on which the autoencoder is trained; the generator's scenes have smaller seeds."""
HELD_OUT = 11_000_000
"""First seed of the scenes on which it is judged."""


@dataclass(frozen=True)
class VaeConfig:
    width: int = 32
    """channels of every layer"""
    channels: int = 8
    """channels of the latents"""
    scenes: int = 3000
    """drawn scenes to train on"""
    crop: int = 64
    """side of the training crops, pixels"""
    batch: int = 10
    learning_rate: float = 5e-3
    """Muon's; Adam, for the first and last layers and the biases, takes a quarter"""
    noise: float = 0.1
    """standard deviation of the noise on the latents while training, so that near latents decode alike"""
    whiten: float = 0.02
    """weight of the loss that gives every channel of the latents zero mean and unit deviation"""


def build(cfg: VaeConfig) -> AutoencoderTiny:
    """About 6 GFLOP to encode and decode 256×256; no nonlinear layer at full resolution."""
    return AutoencoderTiny(
        encoder_block_out_channels=(cfg.width,) * 4,
        decoder_block_out_channels=(cfg.width,) * 4,
        num_encoder_blocks=(0, 1, 2, 3),
        num_decoder_blocks=(3, 2, 2, 0),
        latent_channels=cfg.channels,
    )


def _draw(seed: int) -> np.ndarray:
    return draw_scene(seed, masks=False).image


def draw_many(first: int, count: int) -> np.ndarray:
    """Draw scenes on all cores: uint8 [count, 256, 256, 3]."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        images = pool.map(_draw, range(first, first + count), chunksize=32)
        return np.stack(list(tqdm(images, total=count, desc="draw", unit="scene", mininterval=5)))


def loss_of(target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of pixels, of their differences to right and below, and of the picture at a quarter size."""
    error = output - target
    return (
        error.abs().mean()
        + 0.5 * (error[..., 1:] - error[..., :-1]).abs().mean()
        + 0.5 * (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        + 0.5 * F.avg_pool2d(error, 4).abs().mean()
    )


def whiteness_loss(latents: torch.Tensor) -> torch.Tensor:
    """Squared distance of every channel's mean from 0 and of its deviation from 1, summed over channels."""
    return latents.mean((0, 2, 3)).square().sum() + (latents.std((0, 2, 3)) - 1).square().sum()


def optimisers(vae: AutoencoderTiny, peak: float) -> list[torch.optim.Optimizer]:
    """Muon for the inner convolutions, Adam for the rest."""
    wanted = [p for p in vae.parameters() if p.requires_grad]
    inner = [p for p in wanted if p.ndim == 4 and min(p.shape[:2]) > 8]
    chosen = {id(p) for p in inner}
    rest = [p for p in wanted if id(p) not in chosen]
    return [Muon(inner, peak), torch.optim.Adam(rest, peak / 4, betas=(0.9, 0.98))]


def train(
    folder: Path, minutes: float, cfg: VaeConfig | None = None, device: str | None = None, decoder_only: bool = False
) -> AutoencoderTiny:
    """Train the autoencoder for a budget, from the checkpoint in ``folder`` if there is one, and save it there.

    ``decoder_only`` keeps the latents as they are (a generator may already be trained on them) and starts a budget of
    its own. A budget that was spent to the end is not taken up again: what comes after depends on these very weights.
    """
    cfg = cfg or VaeConfig()
    device = device or training.best_device()
    part = "decoder" if decoder_only else "autoencoder"
    known = json.loads((folder / "vae.json").read_text()) if (folder / "vae.json").exists() else {}
    if part in known and known[part]["minutes"] >= round(minutes, 1):
        return AutoencoderTiny.from_pretrained(folder / "vae").to(device)
    checkpoint = folder / ("decoder.pt" if decoder_only else "vae.pt")
    torch.manual_seed(SEEDS + decoder_only)
    vae = build(cfg).to(device)
    if decoder_only:
        vae.load_state_dict(AutoencoderTiny.from_pretrained(folder / "vae").state_dict())
        vae.encoder.requires_grad_(False)
    peak = cfg.learning_rate * (0.5 if decoder_only else 1.0)
    images = draw_many(SEEDS, cfg.scenes)
    side = images.shape[1] - cfg.crop + 1

    def losses(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((SEEDS, step))
        picks = zip(
            rng.integers(0, len(images), cfg.batch),
            rng.integers(0, side, cfg.batch),
            rng.integers(0, side, cfg.batch),
            strict=True,
        )
        crops = np.stack([images[i, y : y + cfg.crop, x : x + cfg.crop] for i, y, x in picks])
        target = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = vae.encode(target).latents
        output = vae.decode(latents + cfg.noise * torch.randn_like(latents)).sample
        mse = (output.detach().clamp(-1, 1) - target).square().mean() / 4
        loss = loss_of(target, output) + cfg.whiten * whiteness_loss(latents)
        return {"loss": loss, "psnr": -10 * mse.log10()}

    fitted = training.fit(
        vae, list(zip(optimisers(vae, peak), (peak, peak / 4), strict=True)), losses, minutes,
        checkpoint=checkpoint, device=device, batch=cfg.batch, decay=0.998,
    )  # fmt: skip
    vae.load_state_dict(fitted.average)
    vae.eval()
    if not decoder_only:
        vae.register_to_config(scaling_factor=round(1.0 / latent_deviation(vae, images[:256], device), 4))
    else:
        vae.register_to_config(scaling_factor=AutoencoderTiny.load_config(folder / "vae")["scaling_factor"])
    vae.save_pretrained(folder / "vae")
    figures = {
        "minutes": fitted.minutes,
        "steps": fitted.steps,
        "psnr_db": round(fidelity(vae, HELD_OUT, 64, device), 2),
    }
    known[part] = figures
    (folder / "vae.json").write_text(json.dumps(known, indent=2) + "\n")
    return vae


@torch.no_grad()
def fidelity(vae: AutoencoderTiny, first: int, count: int, device: str) -> float:
    """Peak signal-to-noise ratio in dB of encoded and decoded scenes that no training saw."""
    total = 0.0
    for seed in range(first, first + count):
        pixels = torch.from_numpy(_draw(seed)).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
        total += (vae.decode(vae.encode(pixels).latents).sample.clamp(-1, 1) - pixels).square().mean().item()
    return 10 * math.log10(4 / (total / count))


@torch.no_grad()
def latent_deviation(vae: AutoencoderTiny, images: np.ndarray, device: str) -> float:
    """Standard deviation of the latents about zero."""
    total, count = 0.0, 0
    for i in range(0, len(images), 16):
        pixels = torch.from_numpy(images[i : i + 16]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = vae.encode(pixels).latents
        total, count = total + latents.square().sum().item(), count + latents.numel()
    return (total / count) ** 0.5
