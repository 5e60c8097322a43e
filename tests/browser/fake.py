"""A stand-in for a Painter: paints each layer as a blob of its concept's colour, in a fifth of a second.

``python -m tests.browser.fake --port PORT`` serves the page with it.
"""

from __future__ import annotations

import colorsys
import sys
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from canvas.painting import Painting
from sae.errors import FeaturebrushError, unknown

SIZE = 256
GROUPS = {
    "sky": {"day": (), "sunset": ("dusk",), "night": ("dark",), "sun": ("sunshine",), "moon": ("crescent",)},
    "weather": {"cloud": ("clouds",), "rain": ("shower",), "rainbow": (), "fog": ("mist",)},
    "terrain": {"mountain": ("peak",), "hill": (), "meadow": ("grass",), "desert": ("dunes",), "beach": ("sand",)},
    "water": {"sea": ("ocean", "waves"), "lake": ("pond",), "river": ("stream",), "waterfall": ("cascade",)},
    "plants": {"pine": ("fir",), "tree": ("oak",), "palm": (), "cactus": (), "flower": ("tulip",)},
    "buildings": {"house": ("cottage",), "castle": ("fortress", "palace"), "lighthouse": ("beacon",), "windmill": ()},
    "moving": {"boat": ("ship",), "balloon": ("hot-air balloon",), "street lamp": ("lantern",)},
}


@dataclass(frozen=True)
class FakeConcept:
    """The fields of a concept that the page reads."""

    name: str
    group: str
    synonyms: tuple[str, ...]


class FakePainter:
    """Everything that the page asks of a Painter."""

    model = "storybook"
    groups = tuple(GROUPS)
    concepts = tuple(
        FakeConcept(name, group, words) for group, names in GROUPS.items() for name, words in names.items()
    )

    def __init__(self, seconds: float = 0.2) -> None:
        self.seconds = seconds
        self.names = [concept.name for concept in self.concepts]

    def _colour(self, name: str) -> tuple[int, int, int]:
        hue = self.names.index(name) * 0.382 % 1
        red, green, blue = colorsys.hls_to_rgb(hue, 0.5, 0.6)
        return round(255 * red), round(255 * green), round(255 * blue)

    def check(self, painting: Painting) -> None:
        """Raise for concepts that there are not."""
        for layer in painting.layers:
            if layer.brush.name not in self.names:
                raise unknown("concept", layer.brush.name, self.names)

    def render(self, painting: Painting) -> Image.Image:
        """A sky and a meadow by seed and prompt, then each layer's colour where its mask is."""
        time.sleep(self.seconds)
        if "fail" in painting.prompt:
            raise FeaturebrushError("this prompt cannot be painted")
        if "crash" in painting.prompt:
            raise RuntimeError("a fault in the model")
        rng = np.random.default_rng(painting.seed + len(painting.prompt))
        y, x = np.mgrid[0:1:256j, 0:1:256j]
        hill = y > 0.6 + 0.08 * np.sin(6 * x + rng.uniform(0, 6))
        sky = np.stack([120 + 90 * y, 165 + 60 * y, 215 + 20 * y], -1)
        picture = np.where(hill[..., None], np.array([126, 158, 92]) - 40 * (y[..., None] - 0.6), sky)
        picture += rng.normal(0, 2, picture.shape)
        for layer in painting.layers:
            if not layer.has_effect:
                continue
            weight = layer.mask.coverage(SIZE, SIZE)[..., None] * min(1.0, 0.8 * layer.strength)
            colour = (225, 225, 225) if layer.mode == "erase" else self._colour(layer.brush.name)
            picture = picture * (1 - weight) + np.array(colour) * weight
        return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))

    def icon(self, concept_name: str) -> Image.Image:
        """A disc in the concept's colour; none for the cactus."""
        if concept_name == "cactus":
            raise FeaturebrushError("no icon for 'cactus'")
        icon = Image.new("RGB", (96, 96), (236, 231, 219))
        ImageDraw.Draw(icon).ellipse((18, 18, 78, 78), fill=self._colour(concept_name))
        return icon


def serve(port: int) -> None:
    """Serve the page with the stand-in until interrupted."""
    from canvas.ui import page

    painter = FakePainter()
    page.launch(page.build(painter, page.opening(painter)), server_port=port)


if __name__ == "__main__":
    serve(int(sys.argv[2]))
