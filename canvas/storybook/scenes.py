"""The drawn world as a source of scenes: this module is what `sae.sources` calls ``world``."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
import torch

from canvas.storybook.captions import caption
from canvas.storybook.vocabulary import CONCEPTS
from canvas.storybook.world import Scene, draw_scene
from sae.sources import SceneBatch

concepts: tuple[str, ...] = CONCEPTS


def batches(first: int, count: int, batch: int) -> Iterator[SceneBatch]:
    """The ``count`` scenes from the seed ``first`` on, ``batch`` at a time; half of them have an empty caption."""
    for start in range(first, first + count, batch):
        scenes = [draw_scene(seed) for seed in range(start, min(start + batch, first + count))]
        pixels = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
        yield SceneBatch(
            images=pixels.float() / 127.5 - 1,
            captions=[_said(scene) for scene in scenes],
            masks=torch.from_numpy(np.stack([scene.masks for scene in scenes])),
        )


def _said(scene: Scene) -> str:
    # A generator of its own: the one that is seeded with the seed alone has drawn the scene.
    rng = Random(f"caption of scene {scene.seed}")
    return caption(scene, rng) if rng.random() < 0.5 else ""
