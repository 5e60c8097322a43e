"""The generator's training set: scenes as latents, with their mirror images and several captions each."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderTiny
from tqdm import tqdm

from canvas.storybook.captions import caption
from canvas.storybook.collage import Collage, collage
from canvas.storybook.vocabulary import CONCEPTS, INDEX
from canvas.storybook.world import draw_scene

CAPTIONS = 4
GRID = 16
"""Side of the grid on which things are painted."""
COVERED = 0.3
"""A cell of the grid shows a concept if this share of its pixels does."""
NOTHING = -1
"""Instead of a concept: that nothing was pasted."""


def coverage_of(masks: np.ndarray) -> np.ndarray:
    """What share of every cell of the grid shows which concept: bool [C, size, size] to [C, 16, 16], 0..1."""
    c, size, _ = masks.shape
    cell = size // GRID
    return masks.reshape(c, GRID, cell, GRID, cell).mean((2, 4))


class Drawn(NamedTuple):
    image: np.ndarray
    """uint8 [256, 256, 3]"""
    captions: list[str]
    coverage: np.ndarray
    """0..255: uint8 [C, 16, 16]"""
    pasted: int
    """the concept that a collage has from another scene, or `NOTHING`"""


def draw(seed: int, pasted: bool = False) -> Drawn:
    """The scene of ``seed``, or the collage, as training takes it."""
    made = collage(seed) if pasted else Collage(draw_scene(seed), "")
    rng = Random(seed * 7919 + 1)
    said = [caption(made.scene, rng) for _ in range(CAPTIONS)]
    shares = np.round(255 * coverage_of(made.scene.masks)).astype(np.uint8)
    return Drawn(made.scene.image, said, shares, INDEX.get(made.concept, NOTHING))


def mirrored(text: str) -> str:
    """The caption of the mirror image: left and right change places."""
    swap = {"left": "right", "right": "left"}
    return re.sub(r"\b(left|right)\b", lambda m: swap[m.group()], text)


@torch.no_grad()
def encode(vae: AutoencoderTiny, images: np.ndarray, device: str) -> np.ndarray:
    """Scaled latents of pictures: uint8 [n, h, w, 3] to float16 [n, 8, h/8, w/8]."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return (vae.encode(pixels).latents * vae.config.scaling_factor).half().cpu().numpy()


def prepare(
    folder: Path, scenes: int, device: str, first: int = 0, portion: int = 500, batch: int = 20, collages: int = 0
) -> None:
    """Draw and encode ``scenes`` scenes from seed ``first`` into ``folder``, then ``collages`` from seed
    ``first + scenes``, and behind all of these n the mirror image of each.

    Writes ``latents.npy``, float16 [2n, 8, 32, 32]; ``coverage.npy``, the share of every cell that shows a concept,
    0..255, uint8 [2n, C, 16, 16]; ``pasted.npy``, which concept of a collage is from elsewhere, else `NOTHING`,
    int16 [2n]; and at the end ``captions.json``, n lists of captions. Drawing and encoding take turns, a ``portion`` at
    a time: both use all cores.
    """
    if (folder / "captions.json").exists():
        return
    vae = AutoencoderTiny.from_pretrained(folder / "vae").to(device).eval()
    n = scenes + collages

    def rows(name: str, dtype: type, *shape: int) -> np.ndarray:
        return np.lib.format.open_memmap(folder / name, "w+", dtype, (2 * n, *shape))

    latents = rows("latents.npy", np.float16, vae.config.latent_channels, 32, 32)
    coverage = rows("coverage.npy", np.uint8, len(CONCEPTS), GRID, GRID)
    pasted = rows("pasted.npy", np.int16)
    texts: list[list[str]] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool, tqdm(total=n, desc="scenes", mininterval=5) as bar:
        for start in range(0, n, portion):
            stop = min(start + portion, n)
            seeds = range(first + start, first + stop)
            drawn = list(pool.map(draw, seeds, [i >= scenes for i in range(start, stop)], chunksize=16))
            texts += [one.captions for one in drawn]
            shares = np.stack([one.coverage for one in drawn])
            coverage[start:stop] = shares
            coverage[n + start : n + stop] = shares[..., ::-1]
            pasted[start:stop] = pasted[n + start : n + stop] = [one.pasted for one in drawn]
            for at in range(start, stop, batch):
                stack = np.stack([one.image for one in drawn[at - start : at - start + batch]])
                end = at + len(stack)
                latents[at:end] = encode(vae, stack, device)
                latents[n + at : n + end] = encode(vae, np.ascontiguousarray(stack[:, :, ::-1]), device)
                bar.update(len(stack))
    (folder / "captions.json").write_text(json.dumps(texts))
