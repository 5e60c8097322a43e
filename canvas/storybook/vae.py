"""The picture's code: an ``AutoencoderTiny`` of 4 channels at 1/8 of the side, trained on drawn scenes."""

from __future__ import annotations

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
from canvas.storybook.world import draw_scene

SEEDS = 10_000_000
"""First seed of the scenes on which the autoencoder is trained; the generator's scenes have smaller seeds."""


@dataclass(frozen=True)
class VaeConfig:
    width: int = 32
    """channels of every layer"""
    scenes: int = 3000
    """drawn scenes to train on"""
    crop: int = 96
    """side of the training crops, pixels"""
    batch: int = 8
    learning_rate: float = 1.5e-3
    noise: float = 0.08
    """standard deviation of the noise on the latents while training, so that near latents decode alike"""
    decay: float = 2e-3
    """weight of the latents' mean square in the loss"""


def build(cfg: VaeConfig) -> AutoencoderTiny:
    """About 6 GFLOP to encode and decode 256×256; no nonlinear layer at full resolution."""
    return AutoencoderTiny(
        encoder_block_out_channels=(cfg.width,) * 4,
        decoder_block_out_channels=(cfg.width,) * 4,
        num_encoder_blocks=(0, 1, 2, 3),
        num_decoder_blocks=(3, 2, 2, 0),
        latent_channels=4,
    )


def _draw(seed: int) -> np.ndarray:
    return draw_scene(seed).image


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
        + (error[..., 1:] - error[..., :-1]).abs().mean()
        + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        + 0.5 * F.avg_pool2d(error, 4).abs().mean()
    )


def train(folder: Path, minutes: float, cfg: VaeConfig | None = None, device: str | None = None, decoder_only: bool = False) -> AutoencoderTiny:  # fmt: skip
    """Train the autoencoder for a budget, from the checkpoint in ``folder`` if there is one, and save it there.

    ``decoder_only`` keeps the latents as they are (a generator may already be trained on them) and starts a budget of
    its own.
    """
    cfg = cfg or VaeConfig()
    device = device or training.best_device()
    checkpoint = folder / ("decoder.pt" if decoder_only else "vae.pt")
    torch.manual_seed(SEEDS + decoder_only)
    vae = build(cfg).to(device)
    if decoder_only:
        vae.load_state_dict(AutoencoderTiny.from_pretrained(folder / "vae").state_dict())
        vae.encoder.requires_grad_(False)
    optimiser = torch.optim.Adam([p for p in vae.parameters() if p.requires_grad], cfg.learning_rate, betas=(0.9, 0.98))
    average = training.Average(vae, 0.998)
    budget = training.Budget(minutes)
    if state := training.load(checkpoint, device):
        vae.load_state_dict(state["vae"])
        optimiser.load_state_dict(state["optimiser"])
        average.restore(state["average"])
        budget = training.Budget(minutes, state["step"], state["elapsed"])
    images = draw_many(SEEDS, cfg.scenes)
    rng = np.random.default_rng(SEEDS + budget.step)
    side = images.shape[1] - cfg.crop + 1
    vae.train()
    for _ in budget:
        picks = zip(rng.integers(0, len(images), cfg.batch), rng.integers(0, side, cfg.batch), rng.integers(0, side, cfg.batch), strict=True)
        crops = np.stack([images[i, y : y + cfg.crop, x : x + cfg.crop] for i, y, x in picks])
        target = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = vae.encode(target).latents
        output = vae.decode(latents + cfg.noise * torch.randn_like(latents)).sample
        loss = loss_of(target, output) + cfg.decay * latents.square().mean()
        for group in optimiser.param_groups:
            group["lr"] = budget.learning_rate(cfg.learning_rate * (0.5 if decoder_only else 1.0))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        average.update(vae)
        if budget.step % 50 == 0:
            mse = (output.detach().clamp(-1, 1) - target).square().mean().item() / 4
            budget.bar.set_postfix(loss=f"{loss.item():.4f}", psnr=f"{-10 * np.log10(mse):.2f}", step=budget.step)
        if budget.due():
            training.save(checkpoint, {"vae": vae.state_dict(), "optimiser": optimiser.state_dict(), "average": average.state(),
                                       "step": budget.step, "elapsed": budget.elapsed})  # fmt: skip
    vae.load_state_dict(average.weights)
    vae.eval()
    if not decoder_only:
        vae.register_to_config(scaling_factor=round(1.0 / latent_deviation(vae, images[:256], device), 4))
    else:
        vae.register_to_config(scaling_factor=AutoencoderTiny.load_config(folder / "vae")["scaling_factor"])
    vae.save_pretrained(folder / "vae")
    return vae


@torch.no_grad()
def latent_deviation(vae: AutoencoderTiny, images: np.ndarray, device: str) -> float:
    """Standard deviation of the latents about zero."""
    total, count = 0.0, 0
    for i in range(0, len(images), 16):
        pixels = torch.from_numpy(images[i : i + 16]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = vae.encode(pixels).latents
        total, count = total + latents.square().sum().item(), count + latents.numel()
    return (total / count) ** 0.5
