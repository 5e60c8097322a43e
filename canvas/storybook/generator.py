"""The embedded generator: a small text-conditional U-Net that predicts the clean latent, and its training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from canvas.concepts import set_apart
from canvas.storybook import text, training
from canvas.storybook.contrast import Differences
from canvas.storybook.data import COVERED, NOTHING, mirrored
from canvas.storybook.muon import Muon
from canvas.storybook.strokes import PAINTED, THINGS, WIDE, StrokeConfig, lay
from canvas.storybook.vocabulary import CONCEPTS
from sae.activations import block_input, block_module, block_output

COMPOSITION = "down.1.0"
"""The block at which things are painted: early, with ten transformer layers after it."""
APART = 1.0
"""Softness with which concepts' directions are set apart: nearer to 0, they would have less in common."""


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
    batch: int = 16
    learning_rate: float = 2.8e-3
    drop: float = 0.12
    """share of the captions replaced by the empty one"""
    snr_floor: float = 0.25
    snr_ceiling: float = 6.0
    """the loss on the clean latent is weighted by the signal-to-noise ratio, clamped to these (Min-SNR, 2303.09556)"""
    things: float = 3.0
    """weight of the loss on the cells of small things and of what was pasted, against 1 elsewhere: they are little of a
    picture and most of what is looked at"""
    decay: float = 0.999
    align: float = 0.3
    """weight of the alignment of the composition block with the world's masks (after REPA, 2410.06940); 0: none"""
    strokes: StrokeConfig = field(default_factory=StrokeConfig)
    """how the composition block is painted on while training"""
    memory: float = 0.995
    """of the running mean differences that a concept's presence makes, a step"""


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


class Batch(NamedTuple):
    """Scenes to train on."""

    latents: Tensor
    """float32 [n, 8, 32, 32]"""
    ids: Tensor
    """token ids of a caption each [n, 32]"""
    cells: Tensor
    """which cells show which concepts: bool [n, C, 16, 16]"""
    strokes: Tensor
    """which cells are painted with which concepts, times the strength: float32 [n, C, 16, 16]"""
    pasted: Tensor
    """which cells show what was pasted into a collage: bool [n, 1, 16, 16]"""


class Stream:
    """Batches of latents and token ids, shuffled anew every epoch by a seed, continued at any step."""

    def __init__(self, folder: Path, tokenizer: CLIPTokenizer, cfg: GeneratorConfig, batch: int) -> None:
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
        self.coverage = np.load(folder / "coverage.npy", mmap_mode="r")
        self.pasted = np.load(folder / "pasted.npy")
        self.cfg, self.size = cfg, batch

    def batch(self, step: int) -> Batch:
        n, size = len(self.latents), self.size
        epoch, place = divmod(step, n // size)
        order = np.random.default_rng(epoch).permutation(n)[place * size : (place + 1) * size]
        rng = np.random.default_rng((epoch, place))
        coverage = self.coverage[order].astype(np.float32) / 255
        pasted = [int(c) if c != NOTHING else None for c in self.pasted[order]]
        strokes = np.stack([lay(one, rng, self.cfg.strokes, c) for one, c in zip(coverage, pasted, strict=True)])
        ids = self.ids[order, rng.integers(0, self.ids.shape[1], size)]
        drop = np.where(strokes.any((1, 2, 3)), self.cfg.strokes.drop, self.cfg.drop)
        ids[rng.random(size) < drop] = self.empty
        shown = [np.zeros(one.shape[1:]) if c is None else one[c] for one, c in zip(coverage, pasted, strict=True)]
        return Batch(
            torch.from_numpy(self.latents[order]).float(),
            torch.from_numpy(ids),
            torch.from_numpy(coverage >= COVERED),
            torch.from_numpy(strokes),
            torch.from_numpy(np.stack(shown)[:, None] >= COVERED),
        )


class Palette(nn.Module):
    """What things are painted with while training: the running mean differences that concepts make to the updates,
    set apart from each other.

    The same that the dictionary's concepts are made of afterwards, so the model is trained under the strokes that it
    will be painted with. No gradient passes through it.
    """

    square: Tensor

    def __init__(self, d: int, memory: float) -> None:
        super().__init__()
        self.differences = Differences(d, memory)
        self.memory = memory
        self.register_buffer("square", torch.zeros(()))

    @torch.no_grad()
    def see(self, updates: Tensor, cells: Tensor) -> None:
        """``updates`` [n, d, 16, 16] before they are painted, and ``cells`` bool [n, C, 16, 16]."""
        self.differences.add(updates.permute(0, 2, 3, 1), cells.permute(0, 2, 3, 1))
        found = updates.var((0, 2, 3)).sum()
        self.square += (1 - self.memory if self.square else 1.0) * (found - self.square)

    @torch.no_grad()
    def paint(self, strokes: Tensor) -> Tensor:
        """What is added to the output, [n, d, 16, 16], for ``strokes`` [n, C, 16, 16].

        A stroke of strength 1 is as long as the updates deviate from their mean, root mean square.
        """
        directions = own_directions(self.differences.all()).float() * self.square.sqrt()
        return torch.einsum("ncij,cd->ndij", strokes, directions)


def own_directions(differences: Tensor) -> Tensor:
    """What is each painted concept's own in ``differences`` [C, d]: unit vectors; 0 for what is unknown or not painted.

    Much of a mean difference says no more than that there is a thing: see `canvas.concepts.set_apart`.
    """
    known = torch.from_numpy(PAINTED).to(differences.device) & differences.any(1)
    own = torch.zeros_like(differences)
    own[known] = set_apart(differences[known], APART).to(differences.dtype)
    return own


def build_modules(cfg: GeneratorConfig, tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """U-Net, text encoder; for training, the head that reads concepts off the composition block, and the palette."""
    return nn.ModuleDict(
        {
            "unet": build(cfg),
            "encoder": text.build_encoder(tokenizer, cfg.width),
            "head": nn.Conv2d(cfg.width, len(CONCEPTS), 1),
            "palette": Palette(cfg.width, cfg.memory),
        }
    )


class Losses(NamedTuple):
    error: Tensor
    """squared error of the predicted clean latents, weighted by the noise level"""
    misread: Tensor
    """cross-entropy, in nats per cell and concept, of the head that reads concepts off the composition block"""


def losses_of(modules: nn.ModuleDict, signal: Tensor, batch: Batch, cfg: GeneratorConfig) -> Losses:
    """The losses on one batch, its strokes laid at the composition block; ``signal`` is ᾱ [timesteps]."""
    latents = batch.latents
    n = len(latents)
    # one time from each of n equal strata: less variance than n independent ones
    t = ((torch.arange(n, device=latents.device) + torch.rand(n, device=latents.device)) / n * len(signal)).long()
    a = signal[t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * latents + (1 - a).sqrt() * torch.randn_like(latents)
    words = modules["encoder"](batch.ids).last_hidden_state
    updates: list[Tensor] = []

    def paint(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple[Tensor]:
        out = block_output(output)
        updates.append(out - block_input(args, kwargs))
        return (out + modules["palette"].paint(batch.strokes),)

    handle = block_module(modules["unet"], COMPOSITION).register_forward_hook(paint, with_kwargs=True)
    try:
        predicted = modules["unet"](noisy, t, encoder_hidden_states=words, return_dict=False)[0]
    finally:
        handle.remove()
    weight = (a / (1 - a)).clamp(cfg.snr_floor, cfg.snr_ceiling) * emphasis(batch, cfg.things, latents.shape[-1])
    error = (weight * (predicted.float() - latents).square()).mean()
    modules["palette"].see(updates[0].detach(), batch.cells)
    return Losses(error, F.binary_cross_entropy_with_logits(modules["head"](updates[0]), batch.cells.float()))


def emphasis(batch: Batch, weight: float, size: int) -> Tensor:
    """The weight of the loss at every place of a latent, [n, 1, size, size]: ``weight`` on small things and on what was
    pasted, else 1."""
    chosen = small_things(batch.cells) | batch.pasted
    return F.interpolate(1 + (weight - 1) * chosen.float(), size=(size, size))


def small_things(cells: Tensor) -> Tensor:
    """Which of the ``cells``, bool [n, C, 16, 16], show a thing that fills at most ``strokes.WIDE`` of them: bool
    [n, 1, 16, 16]."""
    things = torch.from_numpy(THINGS).to(cells.device) & (cells.sum((2, 3)) <= WIDE)
    return (cells & things[:, :, None, None]).any(1, keepdim=True)


def sorted_parameters(modules: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The inner weight matrices, and the rest: embeddings, first and last layers, biases, norms."""
    inner, rest = [], []
    for name, p in modules.named_parameters():
        edge = any(part in name for part in ("embedding", "conv_in", "conv_out"))
        (inner if p.ndim >= 2 and not edge else rest).append(p)
    return inner, rest


def optimisers(
    modules: nn.Module, cfg: GeneratorConfig, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """Muon for the inner weight matrices, Adam for the rest.

    ``dtype`` is what Muon's products are computed in.
    """
    inner, rest = sorted_parameters(modules)
    return [
        Muon(inner, cfg.learning_rate, weight_decay=0.02, dtype=dtype),
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
    if not (folder / "tokenizer").is_dir():
        captions = [t for said in json.loads((folder / "captions.json").read_text()) for t in said]
        text.save_tokenizer(text.train_tokenizer(captions), folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    modules = build_modules(cfg, tokenizer).to(device)
    dtype = training.best_dtype(device)
    # on a CPU, bfloat16 is slow in the backward pass of the fused attention
    slow = device == "cpu" and dtype == torch.bfloat16
    modules["unet"].set_attn_processor(AttnProcessor() if slow else AttnProcessor2_0())
    stream = Stream(folder, tokenizer, cfg, cfg.batch)
    signal = build_scheduler().alphas_cumprod.to(device)

    def losses(step: int) -> dict[str, Tensor]:
        batch = Batch(*(x.to(device) for x in stream.batch(step)))
        error, misread = losses_of(modules, signal, batch, cfg)
        return {"loss": error + cfg.align * misread, "error": error.detach(), "misread": misread.detach()}

    training.fit(
        modules, [(stepper, cfg.learning_rate) for stepper in optimisers(modules, cfg, dtype)], losses, minutes,
        checkpoint=folder / "generator.pt", device=device, batch=cfg.batch, dtype=dtype, decay=cfg.decay,
        config=asdict(cfg), log=folder / "generator.jsonl",
    )  # fmt: skip


def config_of(saved: dict[str, Any]) -> GeneratorConfig:
    """The configuration that a checkpoint holds as a dictionary."""
    return GeneratorConfig(**saved | {"strokes": StrokeConfig(**saved["strokes"])})


def trained(folder: Path) -> tuple[nn.ModuleDict, CLIPTokenizer, GeneratorConfig]:
    """All modules with the averaged weights of the checkpoint in ``folder``."""
    modules, tokenizer, state = _trained(folder)
    return modules, tokenizer, config_of(state["config"])


def averaged(folder: Path) -> tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer, dict[str, Any]]:
    """The averaged weights of the checkpoint in ``folder``, and how far it had come."""
    modules, tokenizer, state = _trained(folder)
    figures = {"steps": state["step"], "samples": state["samples"], "minutes": round(state["elapsed"] / 60, 1)}
    return modules["unet"].eval(), modules["encoder"].eval(), tokenizer, figures | {"config": state["config"]}


def _trained(folder: Path) -> tuple[nn.ModuleDict, CLIPTokenizer, dict[str, Any]]:
    state = torch.load(folder / "generator.pt", map_location="cpu", weights_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    modules = build_modules(config_of(state["config"]), tokenizer)
    modules.load_state_dict(state["average"]["weights"])
    return modules, tokenizer, state
