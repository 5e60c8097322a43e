"""The drawn world on one sheet."""

from __future__ import annotations

from random import Random

from PIL import Image

from canvas.contact import contact_sheet
from canvas.storybook.captions import caption
from canvas.storybook.world import draw_scene


def world_sheet(seed: int = 0, columns: int = 8, rows: int = 6) -> Image.Image:
    """Consecutive scenes of the drawn world, unselected, with their captions."""
    scenes = [draw_scene(seed + i) for i in range(columns * rows)]
    texts = [caption(scene, Random(scene.seed)) or "(no words)" for scene in scenes]
    return contact_sheet([Image.fromarray(scene.image) for scene in scenes], texts, columns, lines=3)
