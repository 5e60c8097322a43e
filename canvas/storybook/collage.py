"""Scenes with a thing of another scene in them: pictures that are painted on, with ground truth.

A stroke puts a thing where the rest of the picture stays as it is, and that is seldom where the world would have drawn
it. So part of the training set are scenes into which something of another scene of the same style and hour is pasted,
cut out along its mask (Copy-Paste, arXiv 2012.07177). No caption speaks of it; only a stroke does.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label

from canvas.storybook.strokes import PAINTED
from canvas.storybook.vocabulary import CONCEPTS, INDEX, OBJECTS, TIMES
from canvas.storybook.world import Scene, draw_scene

DONORS = 50_000_000
"""First seed of the scenes that things are taken from."""
TRIES = 10
"""Donors that are drawn for a concept that no scene can be told to have."""
LEAST = 60
"""Pixels of 256×256 that must be seen of what is pasted."""
EDGE = 0.7
"""Deviation, in pixels, of the blur of the cut."""


class Collage(NamedTuple):
    scene: Scene
    """with another's thing in its picture and its masks"""
    concept: str
    """what was pasted"""


def collage(seed: int, donors: int = DONORS) -> Collage:
    """The scene of ``seed`` with something pasted that it does not have, out of one of the ten million scenes from
    ``donors`` on; the same for the same seed.
    """
    base, rng = draw_scene(seed), Random(seed * 7919 + 2)
    absent = [c for c, name in enumerate(CONCEPTS) if PAINTED[c] and not base.masks[c].any()]
    while True:
        concept = CONCEPTS[rng.choice(absent)]
        for _ in range(1 if concept in OBJECTS else TRIES):
            donor = draw_scene(
                donors + rng.randrange(10_000_000),
                style=base.style,
                time=_hour(concept, base.time),
                hero=concept if concept in OBJECTS else None,
            )
            cut = _cut(donor.masks, concept, rng)
            if cut.sum() >= LEAST:
                return Collage(_pasted(base, donor, cut), concept)


def _hour(concept: str, time: str) -> str:
    """When there is such a thing: as in the scene that it comes to, if the world has it then."""
    return concept if concept in TIMES else "night" if concept in ("moon", "stars") else time


def _cut(masks: NDArray[np.bool_], concept: str, rng: Random) -> NDArray[np.bool_]:
    """One whole thing, or what an oval dab covers of stuff: bool [n, n], empty where there is none."""
    mask = masks[INDEX[concept]]
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return mask
    pick = rng.randrange(len(rows))
    y, x = rows[pick], columns[pick]
    if concept in OBJECTS:
        parts, _ = label(mask, np.ones((3, 3)))
        return np.asarray(parts == parts[y, x], np.bool_)
    if concept == "stars":  # with the sky between them
        mask = masks[INDEX["night"]]
    size = mask.shape[0] / 16
    height, width = (size * rng.uniform(1.5, 5) for _ in range(2))
    down, right = np.ogrid[: mask.shape[0], : mask.shape[1]]
    return np.asarray(mask & (((down - y) / height) ** 2 + ((right - x) / width) ** 2 <= 1), np.bool_)


def _pasted(base: Scene, donor: Scene, cut: NDArray[np.bool_]) -> Scene:
    alpha = gaussian_filter(cut.astype(np.float32), EDGE)[..., None]
    image = np.round(base.image + alpha * (donor.image.astype(np.float32) - base.image)).astype(np.uint8)
    return replace(base, image=image, masks=np.where(cut, donor.masks, base.masks))
