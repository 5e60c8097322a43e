"""The generator's training set: drawn scenes as latents, each beside its mirror image, with several captions a scene."""

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
from canvas.storybook.world import draw_scene

CAPTIONS = 4


def _draw(seed: int) -> tuple[np.ndarray, list[str]]:
    scene = draw_scene(seed)
    rng = Random(seed * 7919 + 1)
    return scene.image, [caption(scene, rng) for _ in range(CAPTIONS)]


def mirrored(text: str) -> str:
    """The caption of the mirror image: left and right change places."""
    swap = {"left": "right", "right": "left"}
    return re.sub(r"\b(left|right)\b", lambda m: swap[m.group()], text)


@torch.no_grad()
def encode(vae: AutoencoderTiny, images: np.ndarray, device: str) -> np.ndarray:
    """Scaled latents of pictures: uint8 [n, h, w, 3] to float16 [n, 4, h/8, w/8]."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return (vae.encode(pixels).latents * vae.config.scaling_factor).half().cpu().numpy()


def prepare(folder: Path, scenes: int, device: str, first: int = 0, batch: int = 32) -> None:
    """Draw and encode ``scenes`` scenes from seed ``first`` into ``folder/latents.npy`` and ``folder/captions.json``."""
    if (folder / "captions.json").exists():
        return
    vae = AutoencoderTiny.from_pretrained(folder / "vae").to(device).eval()
    latents = np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float16, (2 * scenes, 4, 32, 32))
    texts: list[list[str]] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = pool.map(_draw, range(first, first + scenes), chunksize=16)
        images: list[np.ndarray] = []
        for image, said in tqdm(drawn, total=scenes, desc="scenes", mininterval=5):
            texts.append(said)
            images.append(image)
            if len(images) == batch or len(texts) == scenes:
                start = len(texts) - len(images)
                stack = np.stack(images)
                latents[start : len(texts)] = encode(vae, stack, device)
                latents[scenes + start : scenes + len(texts)] = encode(vae, np.ascontiguousarray(stack[:, :, ::-1]), device)
                images = []
    latents.flush()
    (folder / "captions.json").write_text(json.dumps(texts))
