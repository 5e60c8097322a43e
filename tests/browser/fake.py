"""A stand-in for a Painter: paints each layer as a blob of its concept's colour, in a fifth of a second.

``python -m tests.browser.fake --port PORT [--features NUMBER]`` serves the page with it.
"""

from __future__ import annotations

import colorsys
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from canvas.concepts import Feature
from canvas.feature_map import FeatureMap
from canvas.gallery import Example
from canvas.inspection import SeenFeature
from canvas.masks import Mask
from canvas.painting import Brush, Painting
from canvas.registry import Defaults
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
    "style": {"paper": ("papercut",), "ink": ("pen",)},
}
WEAK = ("windmill", "street lamp")
ICON = 48


@dataclass(frozen=True)
class FakeConcept:
    """The fields of a concept that the page reads."""

    name: str
    group: str
    synonyms: tuple[str, ...]
    block: str = "down.1.0"
    score: float = 0.75
    weak: bool = False


class FakePainter:
    """Everything that the page asks of a Painter."""

    model = "storybook"
    groups = tuple(GROUPS)
    concepts = tuple(
        FakeConcept(
            name,
            group,
            words,
            block="up.0.2" if group == "style" else "down.1.0",
            score=0.12 if name in WEAK else 0.8,
            weak=name in WEAK,
        )
        for group, names in GROUPS.items()
        for name, words in names.items()
    )
    blocks = ("down.1.0", "up.0.2")
    defaults = Defaults(steps=4, guidance=1.0, size=SIZE)
    most_steps = 1000

    def __init__(self, seconds: float = 0.2, n_features: int = 256) -> None:
        self.seconds = seconds
        self.n_features = n_features
        self.names = [concept.name for concept in self.concepts]

    def _colour(self, name: str) -> tuple[int, int, int]:
        hue = self.names.index(name) * 0.382 % 1
        red, green, blue = colorsys.hls_to_rgb(hue, 0.5, 0.6)
        return round(255 * red), round(255 * green), round(255 * blue)

    def _colour_of(self, brush: Brush) -> tuple[int, int, int]:
        if brush.name is not None:
            return self._colour(brush.name)
        return self._colour(self.label(brush.features[0][0]))

    def grid(self, block: str) -> tuple[int, int]:
        """16×16 everywhere."""
        return 16, 16

    def label(self, index: int) -> str:
        """Feature i is of concept i, round and round."""
        return self.names[index % len(self.names)]

    def features(self, block: str) -> tuple[Feature, ...]:
        """All of a block, labelled by the concepts in turn."""
        if block not in self.blocks:
            raise unknown("block", block, self.blocks)
        return tuple(Feature(block, i, self.label(i), (i % 100) / 100, 0.1, 1.0, 2.0) for i in range(self.n_features))

    def feature_map(self, block: str) -> FeatureMap:
        """Features in a spiral, feature 0 in the middle; their icons are discs in their concept's colour."""
        if block not in self.blocks:
            raise unknown("block", block, self.blocks)
        n = np.arange(self.n_features)
        radius, angle = 0.5 * np.sqrt(n / self.n_features), 2.399963 * n
        xy = 0.5 + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return FeatureMap(xy.astype(np.float32), n.astype(np.int32), self._sheet, ICON, 128)

    @cached_property
    def _sheet(self) -> Path:
        sheet = Image.new("RGB", (ICON * 128, ICON * -(-self.n_features // 128)), (236, 231, 219))
        draw = ImageDraw.Draw(sheet)
        for i in range(self.n_features):
            x, y = ICON * (i % 128), ICON * (i // 128)
            draw.ellipse((x + 8, y + 8, x + 40, y + 40), fill=self._colour(self.label(i)))
        path = Path(tempfile.mkdtemp()) / "atlas.webp"
        sheet.save(path)
        return path

    def inspect(self, painting: Painting, x: float, y: float, most: int = 3) -> dict[str, tuple[SeenFeature, ...]]:
        """The features whose number the place is, and the painted ones where they are painted."""
        time.sleep(self.seconds)
        cell = int(16 * y) * 16 + int(16 * x)
        rows, columns = np.mgrid[0:16, 0:16]
        disc = 255 * np.exp(-((rows - int(16 * y)) ** 2 + (columns - int(16 * x)) ** 2) / 8)
        heatmap = disc.round().astype(np.uint8)
        found = {
            block: tuple(self._seen(block, cell + i, 3.0 - i, heatmap) for i in range(most)) for block in self.blocks
        }
        for layer in painting.layers:
            if layer.brush.name is not None and layer.mask.coverage(16, 16)[int(16 * y), int(16 * x)] > 0.5:
                painted = self._seen("down.1.0", self.names.index(layer.brush.name), 4.0, heatmap)
                found["down.1.0"] = (painted, *found["down.1.0"][:-1])
        return found

    def _seen(self, block: str, index: int, activation: float, heatmap: np.ndarray) -> SeenFeature:
        index %= self.n_features
        return SeenFeature(block, index, self.label(index), activation, heatmap)

    def check(self, painting: Painting) -> None:
        """Raise for concepts and features that there are not."""
        for layer in painting.layers:
            if layer.brush.name is None:
                if layer.brush.features[0][0] >= len(self.features(str(layer.brush.block))):
                    raise FeaturebrushError(f"unknown feature {layer.brush.features[0][0]}")
            elif layer.brush.name not in self.names:
                raise unknown("concept", layer.brush.name, self.names)

    @property
    def examples(self) -> tuple[Example, ...]:
        """Three paintings of one disc each."""
        paintings = {name: Painting(seed=9).paint(name, Mask.disc(0.5, 0.5, 0.2)) for name in ("castle", "moon", "sea")}
        return tuple(
            Example(f"The {name}", painting, self.render(painting).resize((160, 160)))
            for name, painting in paintings.items()
        )

    def draft(self, painting: Painting, settled: Painting, share: float = 0.5) -> Image.Image:
        """The same picture."""
        return self.render(painting)

    def render(self, painting: Painting) -> Image.Image:
        """A sky and a meadow by seed and prompt, then each layer's colour where its mask is."""
        time.sleep(20 * self.seconds if "slow" in painting.prompt else self.seconds)
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
            colour = (225, 225, 225) if layer.mode == "erase" else self._colour_of(layer.brush)
            picture = picture * (1 - weight) + np.array(colour) * weight
        return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))

    def icon(self, concept_name: str) -> Image.Image:
        """A disc in the concept's colour; none for the cactus."""
        if concept_name == "cactus":
            raise FeaturebrushError("no icon for 'cactus'")
        icon = Image.new("RGB", (96, 96), (236, 231, 219))
        ImageDraw.Draw(icon).ellipse((18, 18, 78, 78), fill=self._colour(concept_name))
        return icon


def serve(port: int, n_features: int = 256) -> None:
    """Serve the page with the stand-in until interrupted."""
    from canvas.ui import page

    painter = FakePainter(n_features=n_features)
    page.launch(page.build(painter, page.opening(painter)), server_port=port)


if __name__ == "__main__":
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    serve(int(options["--port"]), int(options.get("--features", 256)))
