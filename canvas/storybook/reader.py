"""The reader: a small segmentation network that says of every pixel of a picture which concepts it shows.

It judges what the generator paints, so nothing that trains the generator touches it, and it is trained on scenes of
its own: drawn ones, made worse in the ways in which generated pictures are worse.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from canvas.bench.pictures import CAPTIONS, SCENES
from canvas.bench.reader import FACTS, SIDE, WEIGHTS, Reader, ReaderNet
from canvas.storybook import training
from canvas.storybook.captions import caption, named
from canvas.storybook.data import encode
from canvas.storybook.muon import Muon
from canvas.storybook.vocabulary import CONCEPTS
from canvas.storybook.world import draw_scene

SEEDS, CHECKED, HELD_OUT, COMPARED = 30_000_000, 31_000_000, 32_000_000, 33_000_000
"""First seeds of the scenes that train it, that choose its thresholds, on which it is judged, and with which pictures
are compared."""


@dataclass(frozen=True)
class ReaderConfig:
    widths: tuple[int, ...] = (64, 96, 128, 160)
    """channels at 1/4, 1/8, 1/16 and 1/32 of the side"""
    batch: int = 8
    learning_rate: float = 2e-3
    scenes: int = 6000
    """drawn scenes to train on, each with its mirror image"""
    worsened: float = 0.75
    """share of the pictures that are made worse"""


def masks_at(masks: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Masks [C, 256, 256] bool to [C, side, side]: what at least half of each cell shows."""
    c, size, _ = masks.shape
    cell = size // side
    return masks.reshape(c, side, cell, side, cell).mean((2, 4)) >= 0.5


def _draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    scene = draw_scene(seed)
    return scene.image, np.packbits(masks_at(scene.masks), axis=-1)


def draw(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scenes uint8 [n, 256, 256, 3] and their masks as bits uint8 [n, C, 128, 16]."""
    with ProcessPoolExecutor() as pool:
        drawn = pool.map(_draw, range(first, first + count), chunksize=16)
        images, masks = zip(*tqdm(drawn, total=count, desc="draw", unit="scene", mininterval=5), strict=True)
    return np.stack(images), np.stack(masks)


def worsen(pictures: Tensor, vae: AutoencoderTiny, generator: torch.Generator) -> Tensor:
    """Pictures [n, 3, 256, 256] in −1..1 with the faults of generated ones: coded and decoded from noisy latents,
    blurred, with noise, and with drifted colours; each by an amount of its own."""
    n = len(pictures)

    def amounts(high: float) -> Tensor:
        return high * torch.rand(n, 1, 1, 1, generator=generator).to(pictures.device)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    with torch.no_grad():
        latents = vae.encode(pictures).latents
        latents = latents + amounts(0.5) * noise(latents)
        coded = vae.decode(latents).sample.float()
    blurred = F.interpolate(F.avg_pool2d(coded, 4), scale_factor=4, mode="bilinear")
    pictures = torch.lerp(coded, blurred, amounts(0.8))
    gain = 1 + 0.15 * noise(pictures[:, :, :1, :1])
    offset = 0.1 * noise(pictures[:, :, :1, :1])
    return (pictures * gain + offset + amounts(0.08) * noise(pictures)).clamp(-1, 1)


def loss_of(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy by pixel and concept, and 1 − Dice by concept over the batch, where small things weigh as much."""
    logits = logits.float()
    chance = logits.sigmoid()
    both = (chance * truth).sum((0, 2, 3))
    dice = (2 * both + 1) / (chance.sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1)
    there = truth.amax((0, 2, 3)) > 0
    return F.binary_cross_entropy_with_logits(logits, truth) + 0.1 * (1 - dice[there]).mean()


def train(
    run: Path, out: Path, minutes: float, device: str, cfg: ReaderConfig | None = None
) -> dict[str, dict[str, float]]:
    """Train for a budget, choose each concept's threshold, judge on held-out scenes, and write the folder ``out``."""
    cfg = cfg or ReaderConfig()
    torch.manual_seed(SEEDS)
    dtype = training.best_dtype(device)
    reader = ReaderNet(len(CONCEPTS), cfg.widths).to(device)
    vae = AutoencoderTiny.from_pretrained(run / "vae").to(device).eval()
    inner = [p for name, p in reader.named_parameters() if p.ndim >= 2 and "conv_in" not in name and "out" not in name]
    chosen = {id(p) for p in inner}
    rest = [p for p in reader.parameters() if id(p) not in chosen]
    steppers: list[tuple[torch.optim.Optimizer, float]] = [
        (Muon(inner, cfg.learning_rate, weight_decay=0.02, dtype=dtype), cfg.learning_rate),
        (torch.optim.Adam(rest, cfg.learning_rate, betas=(0.9, 0.98)), cfg.learning_rate),
    ]
    images, masks = draw(SEEDS, cfg.scenes)

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((SEEDS, step))
        generator = torch.Generator().manual_seed(step)
        picks = rng.integers(0, len(images), cfg.batch)
        pictures = torch.from_numpy(images[picks]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        truth = torch.from_numpy(np.unpackbits(masks[picks], axis=-1)).to(device).float()
        if rng.random() < 0.5:
            pictures, truth = pictures.flip(-1), truth.flip(-1)
        worse = torch.from_numpy(rng.random((cfg.batch, 1, 1, 1)) < cfg.worsened).to(device)
        pictures = torch.where(worse, worsen(pictures, vae, generator), pictures)
        return {"loss": loss_of(reader(pictures), truth)}

    fitted = training.fit(
        reader, steppers, losses, minutes, checkpoint=run / "reader.pt", device=device, batch=cfg.batch, dtype=dtype,
        config=asdict(cfg), log=run / "reader.jsonl",
    )  # fmt: skip
    reader.load_state_dict(fitted.average)
    reader.eval()
    thresholds = choose_thresholds(reader, device)
    figures = judge(reader, thresholds, device)
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in reader.state_dict().items()}, out / WEIGHTS)
    write_held_out(Reader(reader, CONCEPTS, list(thresholds.values())), vae, out)
    facts = {"config": asdict(cfg), "concepts": list(CONCEPTS), "thresholds": thresholds, "iou": figures["iou"]}
    (out / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
    return figures | {"training": {"steps": fitted.steps, "samples": fitted.samples, "minutes": fitted.minutes}}


def write_held_out(reader: Reader, vae: AutoencoderTiny, out: Path, scenes: int = 1000, captions: int = 200) -> None:
    """Leave beside the reader what the benchmarks of pictures compare with: see `canvas.bench.pictures.HeldOut`."""
    said = []
    for seed in range(COMPARED, COMPARED + scenes):
        if len(said) == captions:
            break
        text = caption(draw_scene(seed), Random(seed))
        if concepts := named(text):
            said.append({"text": text, "concepts": concepts})
    images, _ = draw(COMPARED, scenes)
    device = str(next(vae.parameters()).device)
    decoded = []
    for at in range(0, scenes, 20):
        latents = torch.from_numpy(encode(vae, images[at : at + 20], device)).to(device).float()
        with torch.no_grad():
            pixels = vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1)
        decoded.append(((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())

    def features(pictures: Iterable[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack([reader.read(Image.fromarray(one)).features for one in pictures])).half()

    drawn = {"drawn": features(images), "decoded": features(np.concatenate(decoded))}
    save_file(drawn, out / SCENES)
    (out / CAPTIONS).write_text(json.dumps(said, indent=1) + "\n")


LEVELS = tuple(i / 20 for i in range(3, 18))


@torch.no_grad()
def _chances(reader: ReaderNet, first: int, count: int, device: str, batch: int = 16) -> tuple[Tensor, Tensor]:
    """Chances as uint8 percent and truth as bool, [n, C, 128, 128] each, on drawn scenes as they are."""
    images, masks = draw(first, count)
    chances = []
    for at in range(0, count, batch):
        pictures = torch.from_numpy(images[at : at + batch]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        chances.append((reader(pictures).sigmoid() * 100).round().byte().cpu())
    return torch.cat(chances), torch.from_numpy(np.unpackbits(masks, axis=-1)).bool()


def iou_at(chances: Tensor, truth: Tensor, level: float) -> Tensor:
    """Intersection over union of every concept over all scenes, [C]; NaN where nothing shows it."""
    claimed = chances >= round(100 * level)
    both, either = (claimed & truth).sum((0, 2, 3)), (claimed | truth).sum((0, 2, 3))
    return torch.where(truth.any(3).any(2).any(0), both / either.clamp(min=1), torch.nan)


def choose_thresholds(reader: ReaderNet, device: str, count: int = 300) -> dict[str, float]:
    """The chance from which on the reader claims a concept: the one of best IoU on scenes kept for that."""
    chances, truth = _chances(reader, CHECKED, count, device)
    scores = torch.stack([iou_at(chances, truth, level) for level in LEVELS]).nan_to_num(0)
    return {name: LEVELS[int(scores[:, c].argmax())] for c, name in enumerate(CONCEPTS)}


def judge(
    reader: ReaderNet, thresholds: dict[str, float], device: str, count: int = 400
) -> dict[str, dict[str, float]]:
    """IoU of every concept, and their mean, on held-out scenes."""
    chances, truth = _chances(reader, HELD_OUT, count, device)
    iou = {
        name: round(iou_at(chances[:, c : c + 1], truth[:, c : c + 1], thresholds[name])[0].item(), 4)
        for c, name in enumerate(CONCEPTS)
    }
    return {"iou": iou | {"mean": round(float(np.nanmean(list(iou.values()))), 4)}}
