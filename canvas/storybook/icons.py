"""Icons of concepts, drawn by the world itself: for each the clearest of some scenes that hold it, cropped to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from canvas.storybook.vocabulary import CONCEPTS, GROUPS, INDEX, OBJECTS
from canvas.storybook.world import Scene, draw_scene

SIDE = 96
COLUMNS = 8
SEED = 40_000_000
WHOLE = {
    "day",
    "sunset",
    "night",
    "stars",
    "rain",
    "snowfall",
    "fog",
    "sea",
    "lake",
    "river",
    "meadow",
    "hill",
    "desert",
    "beach",
    "road",
    *GROUPS["style"],
}
"""Concepts that are shown by a whole scene or a large part of one."""
TRIES = 14
"""Scenes from which the clearest is taken; more, until one of them holds the concept at all."""
AT_MOST = 400


def _crop(scene: Scene, concept: str) -> tuple[float, Image.Image]:
    """How clearly the scene shows the concept, and the square around its largest part."""
    mask = scene.masks[INDEX[concept]]
    picture = Image.fromarray(scene.image)
    if concept in ("rain", "snowfall"):  # close up, or drops and flakes are lost at this size
        return float(mask.mean()), picture.crop((64, 40, 192, 168))
    if concept in WHOLE:
        return float(mask.mean()), picture.crop((16, 16, 240, 240)) if concept not in GROUPS["style"] else picture
    labels, count = _parts(mask)
    if count == 0:
        return -1.0, picture
    sizes = np.bincount(labels.ravel())[1:]
    largest = int(sizes.argmax()) + 1
    ys, xs = np.nonzero(labels == largest)
    side = max(ys.max() - ys.min(), xs.max() - xs.min()) * 1.24 + 8
    cx, cy = (xs.min() + xs.max()) / 2, (ys.min() + ys.max()) / 2
    side = min(side, 250.0)
    x = min(max(cx - side / 2, 0), 256 - side)
    y = min(max(cy - side / 2, 0), 256 - side)
    whole = xs.min() > 1 and xs.max() < 254 and ys.min() > 1 and ys.max() < 254
    return float(sizes.max()) * (1.0 if whole else 0.2), picture.crop((int(x), int(y), int(x + side), int(y + side)))


def _parts(mask: np.ndarray) -> tuple[np.ndarray, int]:
    from scipy.ndimage import label

    labels, count = label(mask)  # type: ignore[misc]
    return labels, count


def concept_icon(concept: str) -> Image.Image:
    """The icon of one concept, RGB, 96×96."""
    times = {
        "night": "night",
        "sunset": "sunset",
        "stars": "night",
        "moon": "night",
        "campfire": "night",
        "lit window": "night",
        "street lamp": "sunset",
    }
    hero = (
        concept
        if concept in OBJECTS
        else {
            "snowcap": "mountain",
            "lit window": "house",
            "sea": "boat",
            "beach": "palm",
            "desert": "cactus",
            "road": "car",
            "river": "bridge",
            "lake": "fish",
        }.get(concept)
    )
    style = concept if concept in GROUPS["style"] else "paper"
    best = (-2.0, Image.new("RGB", (SIDE, SIDE)))
    for i in range(1 if concept in GROUPS["style"] else AT_MOST):
        if i >= TRIES and best[0] > 0:
            break
        scene = draw_scene(
            SEED + (5 if concept in GROUPS["style"] else i),
            style=style,
            time=times.get(concept, "day"),
            hero="castle" if concept in GROUPS["style"] else hero,
        )
        best = max(best, _crop(scene, concept), key=lambda pair: pair[0])
    return best[1].resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def icon_sheet() -> Image.Image:
    """All concepts' icons in the vocabulary's order, 8 a row."""
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(CONCEPTS) // COLUMNS) * SIDE))
    for i, concept in enumerate(CONCEPTS):
        sheet.paste(concept_icon(concept), (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
    return sheet


def write_icons(folder: Path) -> None:
    icon_sheet().save(folder / "icons.webp", quality=88, method=6)
