"""The generator's training set: scenes as latents, with their mirror images and several captions each."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderTiny
from tqdm import tqdm

from canvas.storybook.captions import caption
from canvas.storybook.vocabulary import CONCEPTS
from canvas.storybook.world import draw_scene

CAPTIONS = 4
GRID = 16
"""Side of the grid on which things are painted."""
COVERED = 0.3
"""A cell of the grid shows a concept if this share of its pixels does."""


def coverage_of(masks: np.ndarray) -> np.ndarray:
    """What share of every cell of the grid shows which concept: bool [C, size, size] to [C, 16, 16], 0..1."""
    c, size, _ = masks.shape
    cell = size // GRID
    return masks.reshape(c, GRID, cell, GRID, cell).mean((2, 4))


def _draw(seed: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    scene = draw_scene(seed)
    rng = Random(seed * 7919 + 1)
    said = [caption(scene, rng) for _ in range(CAPTIONS)]
    return scene.image, said, np.round(255 * coverage_of(scene.masks)).astype(np.uint8)


def mirrored(text: str) -> str:
    """The caption of the mirror image: left and right change places."""
    swap = {"left": "right", "right": "left"}
    return re.sub(r"\b(left|right)\b", lambda m: swap[m.group()], text)


@torch.no_grad()
def encode(vae: AutoencoderTiny, images: np.ndarray, device: str) -> np.ndarray:
    """Scaled latents of pictures: uint8 [n, h, w, 3] to float16 [n, 8, h/8, w/8]."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return (vae.encode(pixels).latents * vae.config.scaling_factor).half().cpu().numpy()


def prepare(folder: Path, scenes: int, device: str, first: int = 0, portion: int = 500, batch: int = 20) -> None:
    """Draw and encode ``scenes`` scenes from seed ``first`` into ``folder``, the mirror images behind the others.

    Writes ``latents.npy``, float16 [2n, 8, 32, 32]; ``coverage.npy``, the share of every cell that shows a concept,
    0..255, uint8 [2n, C, 16, 16]; and at the end ``captions.json``, n lists of captions. Drawing and encoding take
    turns, a ``portion`` at a time: both use all cores.
    """
    if (folder / "captions.json").exists():
        return
    vae = AutoencoderTiny.from_pretrained(folder / "vae").to(device).eval()
    latents = np.lib.format.open_memmap(
        folder / "latents.npy", "w+", np.float16, (2 * scenes, vae.config.latent_channels, 32, 32)
    )
    coverage = np.lib.format.open_memmap(
        folder / "coverage.npy", "w+", np.uint8, (2 * scenes, len(CONCEPTS), GRID, GRID)
    )
    texts: list[list[str]] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool, tqdm(total=scenes, desc="scenes", mininterval=5) as bar:
        for start in range(0, scenes, portion):
            stop = min(start + portion, scenes)
            drawn = list(pool.map(_draw, range(first + start, first + stop), chunksize=16))
            texts += [said for _, said, _ in drawn]
            shares = np.stack([share for _, _, share in drawn])
            coverage[start:stop] = shares
            coverage[scenes + start : scenes + stop] = shares[..., ::-1]
            for at in range(start, stop, batch):
                stack = np.stack([image for image, _, _ in drawn[at - start : at - start + batch]])
                end = at + len(stack)
                latents[at:end] = encode(vae, stack, device)
                latents[scenes + at : scenes + end] = encode(vae, np.ascontiguousarray(stack[:, :, ::-1]), device)
                bar.update(len(stack))
    latents.flush()
    coverage.flush()
    (folder / "captions.json").write_text(json.dumps(texts))
