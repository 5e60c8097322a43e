"""The reader: a small segmentation network that says of every pixel of a picture which concepts it shows.

It judges what the generator paints, so nothing that trains the generator touches it, and it is trained on scenes of
its own: drawn ones, made worse in the ways in which generated pictures are worse. Half of them are collages: one that
had only met cacti in deserts would not find any that was painted elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

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
from canvas.storybook.collage import Collage, collage
from canvas.storybook.data import NOTHING, encode
from canvas.storybook.muon import Muon
from canvas.storybook.vocabulary import CONCEPTS, INDEX
from canvas.storybook.world import draw_scene

SEEDS, CHECKED, HELD_OUT, COMPARED = 30_000_000, 31_000_000, 32_000_000, 33_000_000
"""First seeds of the scenes that train it, that choose its thresholds, on which it is judged, and with which pictures
are compared."""
DONORS = 60_000_000
"""First seed of the scenes from which things are pasted into collages: others than those that train the generator."""
CHECKPOINT = "reader.pt"


@dataclass(frozen=True)
class ReaderConfig:
    widths: tuple[int, ...] = (64, 96, 128, 160)
    """channels at 1/4, 1/8, 1/16 and 1/32 of the side"""
    batch: int = 8
    learning_rate: float = 2e-3
    scenes: int = 3000
    """drawn scenes to train on, each with its mirror image"""
    collages: int = 3000
    """drawn beside those (`canvas.storybook.collage`)"""
    worsened: float = 0.75
    """share of the pictures that are made worse"""
    checked: int = 300
    """scenes that choose its thresholds, half of them collages"""
    judged: int = 400
    """scenes on which it is judged, and as many collages"""
    compared: int = 1000
    """scenes with which pictures are compared"""


def masks_at(masks: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Masks [C, 256, 256] bool to [C, side, side]: what at least half of each cell shows."""
    c, size, _ = masks.shape
    cell = size // side
    return masks.reshape(c, side, cell, side, cell).mean((2, 4)) >= 0.5


class Scenes(NamedTuple):
    """Drawn scenes."""

    images: np.ndarray
    """uint8 [n, 256, 256, 3]"""
    masks: np.ndarray
    """as bits: uint8 [n, C, 128, 16]"""
    pasted: np.ndarray
    """the concept that a collage has from another scene, or `NOTHING`: int [n]"""

    def truth(self) -> Tensor:
        """bool [n, C, 128, 128]"""
        return torch.from_numpy(np.unpackbits(self.masks, axis=-1)).bool()


def joined(*parts: Scenes) -> Scenes:
    return Scenes(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _draw(seed: int, collages: bool) -> tuple[np.ndarray, np.ndarray, int]:
    made = collage(seed, DONORS) if collages else Collage(draw_scene(seed), "")
    return made.scene.image, np.packbits(masks_at(made.scene.masks), axis=-1), INDEX.get(made.concept, NOTHING)


def draw(first: int, count: int, collages: bool = False) -> Scenes:
    """The scenes of ``count`` seeds, or collages of these."""
    with ProcessPoolExecutor() as pool:
        drawn = pool.map(partial(_draw, collages=collages), range(first, first + count), chunksize=16)
        drawn = tqdm(drawn, total=count, desc="collages" if collages else "scenes", mininterval=5)
        return Scenes(*(np.stack(part) for part in zip(*drawn, strict=True)))


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
    drawn = joined(draw(SEEDS, cfg.scenes), draw(SEEDS + cfg.scenes, cfg.collages, collages=True))

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((SEEDS, step))
        generator = torch.Generator().manual_seed(step)
        picks = rng.integers(0, len(drawn.images), cfg.batch)
        pictures = torch.from_numpy(drawn.images[picks]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        truth = torch.from_numpy(np.unpackbits(drawn.masks[picks], axis=-1)).to(device).float()
        if rng.random() < 0.5:
            pictures, truth = pictures.flip(-1), truth.flip(-1)
        if (worse := torch.from_numpy(rng.random(cfg.batch) < cfg.worsened).to(device)).any():
            pictures[worse] = worsen(pictures[worse], vae, generator)
        return {"loss": loss_of(reader(pictures), truth)}

    fitted = training.fit(
        reader, steppers(reader, cfg, dtype), losses, minutes,
        checkpoint=run / CHECKPOINT, device=device, batch=cfg.batch, dtype=dtype,
        config=asdict(cfg), log=run / "reader.jsonl",
    )  # fmt: skip
    reader.load_state_dict(fitted.average)
    reader.eval()
    thresholds = choose_thresholds(reader, device, cfg.checked)
    figures = judge(reader, thresholds, device, cfg.judged)
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in reader.state_dict().items()}, out / WEIGHTS)
    write_held_out(Reader(reader, CONCEPTS, list(thresholds.values())), vae, out, cfg.compared)
    facts = {"config": asdict(cfg), "concepts": list(CONCEPTS), "thresholds": thresholds, "iou": figures["iou"]}
    (out / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
    return figures | {"training": {"steps": fitted.steps, "samples": fitted.samples, "minutes": fitted.minutes}}


def steppers(
    reader: ReaderNet, cfg: ReaderConfig, dtype: torch.dtype = torch.float32
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Optimisers with their peak learning rates: Muon for the inner weights, Adam for the rest."""
    inner = [p for name, p in reader.named_parameters() if p.ndim >= 2 and "conv_in" not in name and "out" not in name]
    chosen = {id(p) for p in inner}
    rest = [p for p in reader.parameters() if id(p) not in chosen]
    return [
        (Muon(inner, cfg.learning_rate, weight_decay=0.02, dtype=dtype), cfg.learning_rate),
        (torch.optim.Adam(rest, cfg.learning_rate, betas=(0.9, 0.98)), cfg.learning_rate),
    ]


def write_held_out(reader: Reader, vae: AutoencoderTiny, out: Path, scenes: int, captions: int = 200) -> None:
    """Leave beside the reader what the benchmarks of pictures compare with: see `canvas.bench.pictures.HeldOut`."""
    said = []
    for seed in range(COMPARED, COMPARED + scenes):
        if len(said) == captions:
            break
        text = caption(draw_scene(seed), Random(seed))
        if concepts := named(text):
            said.append({"text": text, "concepts": concepts})
    images = draw(COMPARED, scenes).images
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
def _chances(reader: ReaderNet, scenes: Scenes, device: str, batch: int = 16) -> Tensor:
    """As uint8 percent, [n, C, 128, 128], on drawn scenes as they are."""
    chances = []
    for images in np.array_split(scenes.images, -(-len(scenes.images) // batch)):
        pictures = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        chances.append((reader(pictures).sigmoid() * 100).round().byte().cpu())
    return torch.cat(chances)


def iou_at(chances: Tensor, truth: Tensor, level: float) -> Tensor:
    """Intersection over union of every concept over all scenes, [C]; NaN where nothing shows it."""
    claimed = chances >= round(100 * level)
    both, either = (claimed & truth).sum((0, 2, 3)), (claimed | truth).sum((0, 2, 3))
    return torch.where(truth.any(3).any(2).any(0), both / either.clamp(min=1), torch.nan)


def choose_thresholds(reader: ReaderNet, device: str, count: int) -> dict[str, float]:
    """The chance from which on the reader claims a concept: the one of best IoU on scenes kept for that, one half of
    them collages."""
    scenes = joined(draw(CHECKED, count // 2), draw(CHECKED + count, count // 2, collages=True))
    chances, truth = _chances(reader, scenes, device), scenes.truth()
    scores = torch.stack([iou_at(chances, truth, level) for level in LEVELS]).nan_to_num(0)
    return {name: LEVELS[int(scores[:, c].argmax())] for c, name in enumerate(CONCEPTS)}


def judge(reader: ReaderNet, thresholds: dict[str, float], device: str, count: int) -> dict[str, dict[str, float]]:
    """IoU of every concept, and their mean, on held-out scenes; and on held-out collages, over those into which the
    concept was pasted."""
    scenes, collages = draw(HELD_OUT, count), draw(HELD_OUT + count, count, collages=True)
    chances, truth = _chances(reader, scenes, device), scenes.truth()
    iou, pasted = {}, {}
    for c, name in enumerate(CONCEPTS):
        iou[name] = iou_at(chances[:, c : c + 1], truth[:, c : c + 1], thresholds[name])[0].item()
    chances, truth = _chances(reader, collages, device), collages.truth()
    for c, name in enumerate(CONCEPTS):
        there = torch.from_numpy(collages.pasted == c)
        if there.any():
            pasted[name] = iou_at(chances[there, c : c + 1], truth[there, c : c + 1], thresholds[name])[0].item()
    return {"iou": _with_mean(iou), "iou_pasted": _with_mean(pasted)}


def _with_mean(figures: dict[str, float]) -> dict[str, float]:
    mean = float(np.nanmean(list(figures.values())))
    return {name: round(value, 4) for name, value in (figures | {"mean": mean}).items()}
