"""What paper, brush and light do to the finished drawing."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageFilter

TILE = 512


@cache
def _grain(cells: int) -> np.ndarray:
    """Smooth noise with about ``cells`` bumps across a tile: float32 [TILE, TILE], zero mean, unit deviation."""
    rough = np.random.default_rng(cells).random((cells, cells), dtype=np.float32)
    image = Image.fromarray(rough).resize((TILE, TILE), Image.Resampling.BICUBIC)
    noise = np.asarray(image, np.float32)
    return (noise - noise.mean()) / noise.std()


def _crop(cells: int, size: int, rng: Random) -> np.ndarray:
    y, x = rng.randrange(TILE - size + 1), rng.randrange(TILE - size + 1)
    return _grain(cells)[y : y + size, x : x + size, None]


def finish(image: np.ndarray, style: str, rng: Random) -> np.ndarray:
    """Add the style's texture to a picture: uint8 [size, size, 3] (size at most 512) in and out."""
    size = image.shape[0]
    pixels = image.astype(np.float32)
    match style:
        case "paper":
            pixels += 1.2 * _crop(256, size, rng)
        case "watercolour":
            pixels += 4.0 * _crop(10, size, rng) + 1.2 * _crop(40, size, rng)
            pixels = 255 - (255 - pixels) * (1 + 0.012 * _crop(160, size, rng))
        case "glow":
            bloom = Image.fromarray(image).resize((size // 4, size // 4), Image.Resampling.BOX)
            bloom = bloom.filter(ImageFilter.GaussianBlur(2.2)).resize((size, size), Image.Resampling.BICUBIC)
            light = np.asarray(bloom, np.float32)
            pixels = 255 - (255 - pixels) * (255 - light * 0.55) / 255
        case "ink":
            pixels += 1.0 * _crop(256, size, rng) + 2.0 * _crop(20, size, rng)
    return np.clip(pixels, 0, 255).astype(np.uint8)
