"""The embedded generator: a small text-conditional U-Net that predicts the clean latent, and its training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from canvas.storybook import text, training
from canvas.storybook.data import GRID, mirrored
from canvas.storybook.muon import Muon
from canvas.storybook.vocabulary import CONCEPTS
from sae.activations import block_module, block_output

COMPOSITION = "down.1.0"
"""The block at which things are painted: early, with ten transformer layers after it."""


@dataclass(frozen=True)
class GeneratorConfig:
    width: int = 96
    """channels at the 16×16 level, and of the text encoder"""
    outer_width: int = 48
    """channels at the 32×32 level"""
    layers: int = 2
    """residual + attention pairs in the 16×16 down block (one more on the way up)"""
    depth: int = 2
    """transformer layers in each attention block"""
    batch: int = 8
    learning_rate: float = 2e-3
    drop: float = 0.12
    """share of the captions replaced by the empty one"""
    snr_floor: float = 0.25
    snr_ceiling: float = 6.0
    """the loss on the clean latent is weighted by the signal-to-noise ratio, clamped to these (Min-SNR, 2303.09556)"""
    decay: float = 0.999
    align: float = 0.3
    """weight of the alignment of the composition block with the world's masks (after REPA, 2410.06940); 0: none"""


def build(cfg: GeneratorConfig) -> UNet2DConditionModel:
    """Two levels: convolutions at 32×32; at 16×16 all transformer layers (``down.1.*``, ``mid.0``, ``up.0.*``)."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=8,
        out_channels=8,
        block_out_channels=(cfg.outer_width, cfg.width),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=(1, cfg.layers),
        transformer_layers_per_block=cfg.depth,
        cross_attention_dim=cfg.width,
        attention_head_dim=cfg.width // 32,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise levels, rescaled to end in pure noise (2305.08891); the clean latent is predicted."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="sample",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


class _Stream:
    """Batches of latents and token ids, shuffled anew every epoch by a seed, continued at any step."""

    def __init__(self, folder: Path, tokenizer: CLIPTokenizer, cfg: GeneratorConfig) -> None:
        self.latents = np.load(folder / "latents.npy", mmap_mode="r")
        captions: list[list[str]] = json.loads((folder / "captions.json").read_text())
        captions = captions + [[mirrored(t) for t in said] for said in captions]
        said = len(captions[0])
        ids = tokenizer(
            [t for row in captions for t in row],
            padding="max_length",
            truncation=True,
            max_length=text.LENGTH,
            return_tensors="np",
        )
        self.ids = ids["input_ids"].reshape(len(captions), said, text.LENGTH).astype(np.int64)
        self.empty = np.asarray(tokenizer([""], padding="max_length", max_length=text.LENGTH)["input_ids"][0], np.int64)
        self.cells = np.load(folder / "cells.npy", mmap_mode="r") if cfg.align else None
        self.cfg = cfg

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [n, 8, 32, 32], token ids [n, 32], and which cells show which concepts, 0 or 1 [n, C, 16, 16]."""
        n, size = len(self.latents), self.cfg.batch
        epoch, place = divmod(step, n // size)
        order = np.random.default_rng(epoch).permutation(n)[place * size : (place + 1) * size]
        rng = np.random.default_rng((epoch, place))
        ids = self.ids[order, rng.integers(0, self.ids.shape[1], size)]
        ids[rng.random(size) < self.cfg.drop] = self.empty
        cells = self.cells[order] if self.cells is not None else np.zeros((size, len(CONCEPTS), GRID, GRID))
        latents = torch.from_numpy(self.latents[order]).float()
        return latents, torch.from_numpy(ids), torch.from_numpy(cells).float()


def build_modules(cfg: GeneratorConfig, tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """U-Net, text encoder, and the head that reads concepts off the composition block while training."""
    head = nn.Conv2d(cfg.width, len(CONCEPTS), 1)
    return nn.ModuleDict({"unet": build(cfg), "encoder": text.build_encoder(tokenizer, cfg.width), "head": head})


class Losses(NamedTuple):
    error: Tensor
    """squared error of the predicted clean latents, weighted by the noise level"""
    misread: Tensor
    """cross-entropy, in nats per cell and concept, of the head that reads concepts off the composition block"""


def losses_of(
    modules: nn.ModuleDict, signal: Tensor, latents: Tensor, ids: Tensor, cells: Tensor, cfg: GeneratorConfig
) -> Losses:
    """The losses on one batch; ``signal`` is ᾱ [timesteps]."""
    n = len(latents)
    # one time from each of n equal strata: less variance than n independent ones
    t = ((torch.arange(n, device=latents.device) + torch.rand(n, device=latents.device)) / n * len(signal)).long()
    a = signal[t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * latents + (1 - a).sqrt() * torch.randn_like(latents)
    words = modules["encoder"](ids).last_hidden_state
    seen: list[Tensor] = []
    handle = block_module(modules["unet"], COMPOSITION).register_forward_hook(
        lambda _module, _args, output: seen.append(block_output(output))
    )
    try:
        predicted = modules["unet"](noisy, t, encoder_hidden_states=words, return_dict=False)[0]
    finally:
        handle.remove()
    weight = (a / (1 - a)).clamp(cfg.snr_floor, cfg.snr_ceiling)
    error = (weight * (predicted - latents).square()).mean()
    return Losses(error, F.binary_cross_entropy_with_logits(modules["head"](seen[0]), cells))


def optimisers(modules: nn.Module, cfg: GeneratorConfig) -> list[torch.optim.Optimizer]:
    """Muon for the inner weight matrices, Adam for the rest (embeddings, first and last layers, biases, norms)."""
    inner, rest = [], []
    for name, p in modules.named_parameters():
        edge = any(part in name for part in ("embedding", "conv_in", "conv_out"))
        (inner if p.ndim >= 2 and not edge else rest).append(p)
    return [
        Muon(inner, cfg.learning_rate, weight_decay=0.02),
        torch.optim.Adam(rest, cfg.learning_rate, betas=(0.9, 0.98)),
    ]


def train(
    folder: Path,
    minutes: float,
    cfg: GeneratorConfig | None = None,
    device: str | None = None,
) -> None:
    """Train U-Net and text encoder for a budget, from the checkpoint if there is one; write modules to ``folder``."""
    cfg = cfg or GeneratorConfig()
    device = device or training.best_device()
    torch.manual_seed(0)
    captions = [t for said in json.loads((folder / "captions.json").read_text()) for t in said]
    tokenizer = text.train_tokenizer(captions)
    text.save_tokenizer(tokenizer, folder / "tokenizer")
    modules = build_modules(cfg, tokenizer).to(device)
    steppers = optimisers(modules, cfg)
    average = training.Average(modules, cfg.decay)
    budget, samples = training.Budget(minutes), 0
    checkpoint = folder / "generator.pt"
    if state := training.load(checkpoint, device):
        modules.load_state_dict(state["weights"])
        for stepper, saved in zip(steppers, state["optimisers"], strict=True):
            stepper.load_state_dict(saved)
        average.restore(state["average"])
        budget = training.Budget(minutes, state["step"], state["elapsed"])
        samples = state["samples"]
        torch.manual_seed(budget.step)
    stream = _Stream(folder, tokenizer, cfg)
    signal = build_scheduler().alphas_cumprod.to(device)
    log = (folder / "generator.jsonl").open("a")
    modules.train()
    running: list[float] = []

    def checkpoint_now() -> None:
        state = {
            "weights": modules.state_dict(),
            "optimisers": [s.state_dict() for s in steppers],
            "average": average.state(),
            "step": budget.step,
            "samples": samples,
            "elapsed": budget.elapsed,
            "config": asdict(cfg),
        }
        training.save(checkpoint, state)

    for step in budget:
        latents, ids, cells = (x.to(device) for x in stream.batch(step))
        losses = losses_of(modules, signal, latents, ids, cells, cfg)
        loss = losses.error + cfg.align * losses.misread
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = budget.learning_rate(cfg.learning_rate)
            stepper.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
        average.update(modules)
        samples += cfg.batch
        found = [value.item() for value in losses]
        running = [r + (f - r) * 0.01 for r, f in zip(running or found, found, strict=True)]
        if budget.step % 50 == 0:
            rate = samples / max(budget.elapsed, 1e-9)
            budget.bar.set_postfix(
                loss=f"{running[0]:.4f}", misread=f"{running[1]:.4f}", samples=samples, rate=f"{rate:.1f}/s"
            )
            log.write(
                json.dumps(
                    {
                        "step": budget.step,
                        "samples": samples,
                        "elapsed": round(budget.elapsed, 1),
                        "loss": round(running[0], 5),
                        "misread": round(running[1], 5),
                        "rate": round(rate, 2),
                    }
                )
                + "\n"
            )
            log.flush()
        if budget.due():
            checkpoint_now()
    checkpoint_now()


def averaged(folder: Path) -> tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer, dict[str, Any]]:
    """The averaged weights of the checkpoint in ``folder``, and how far it had come."""
    state = torch.load(folder / "generator.pt", map_location="cpu", weights_only=True)
    cfg = GeneratorConfig(**state["config"])
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    modules = build_modules(cfg, tokenizer)
    modules.load_state_dict(state["average"]["weights"])
    figures = {"steps": state["step"], "samples": state["samples"], "minutes": round(state["elapsed"] / 60, 1)}
    return modules["unet"].eval(), modules["encoder"].eval(), tokenizer, figures | {"config": state["config"]}
