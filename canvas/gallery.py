"""Example paintings: files beside a model, each with a thumbnail.

``python -m canvas gallery`` paints them again, which is needed after a model has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from canvas.masks import Mask
from canvas.painting import Painting
from sae.errors import FeaturebrushError

FOLDER = "gallery"
THUMBNAILS = "thumbnails.webp"
SIDE = 160
"""Of a thumbnail, in pixels."""
A_ROW = 5


@dataclass(frozen=True)
class Example:
    """A painting that comes with a model."""

    name: str
    painting: Painting
    thumbnail: Image.Image


def _stroke(*points: tuple[float, float], r: float = 0.08) -> Mask:
    return Mask.stroke(points, r)


def _hill() -> Painting:
    return Painting(prompt="a meadow by day", seed=21).paint("castle", Mask.ellipse(0.5, 0.52, 0.2, 0.22))


def _harbour() -> Painting:
    sea = Painting(prompt="the sea by day", seed=4)
    return sea.paint("lighthouse", Mask.ellipse(0.75, 0.5, 0.09, 0.3)).paint(
        "boat", Mask.ellipse(0.33, 0.62, 0.16, 0.17)
    )


def _dusk() -> Painting:
    desert = Painting(prompt="the desert at sunset", seed=11)
    return desert.paint("cactus", Mask.ellipse(0.3, 0.6, 0.12, 0.2)).paint("sun", Mask.disc(0.66, 0.33, 0.09))


def _winter() -> Painting:
    snow = Painting(prompt="mountains in the snow by day", seed=5)
    return snow.paint("house", Mask.ellipse(0.36, 0.66, 0.18, 0.15)).paint("pine", Mask.ellipse(0.74, 0.6, 0.1, 0.22))


def _fair() -> Painting:
    sky = Painting(prompt="hills by day", seed=14)
    return sky.paint("balloon", Mask.ellipse(0.3, 0.32, 0.13, 0.2)).paint("balloon", Mask.ellipse(0.72, 0.4, 0.1, 0.16))


def _farm() -> Painting:
    meadow = Painting(prompt="a meadow by day", seed=8)
    farm = meadow.paint("windmill", Mask.ellipse(0.32, 0.52, 0.16, 0.26)).paint(
        "cow", Mask.ellipse(0.7, 0.74, 0.15, 0.1)
    )
    return farm.paint("cloud", _stroke((0.62, 0.16), (0.8, 0.16), r=0.07))


def _camp() -> Painting:
    night = Painting(prompt="a meadow at night under the stars", seed=3)
    return night.paint("campfire", Mask.ellipse(0.5, 0.74, 0.11, 0.13)).paint("moon", Mask.disc(0.75, 0.22, 0.08))


def _island() -> Painting:
    beach = Painting(prompt="the sea at sunset", seed=16)
    return beach.paint("palm", Mask.ellipse(0.26, 0.56, 0.16, 0.28)).paint("boat", Mask.ellipse(0.68, 0.6, 0.13, 0.15))


def _drive() -> Painting:
    road = Painting(prompt="a road in a meadow by day", seed=19)
    return road.paint("car", Mask.ellipse(0.45, 0.8, 0.18, 0.1)).paint("tree", Mask.ellipse(0.78, 0.52, 0.14, 0.24))


def _rain() -> Painting:
    lake = Painting(prompt="a lake by day", seed=9)
    return lake.paint("rainbow", Mask.ellipse(0.5, 0.34, 0.34, 0.2)).paint(
        "mountain", Mask.ellipse(0.5, 0.45, 0.4, 0.14)
    )


SKETCHES: dict[str, Callable[[], Painting]] = {
    "A castle on a hill": _hill,
    "The harbour": _harbour,
    "Desert dusk": _dusk,
    "A cabin in the snow": _winter,
    "The balloon fair": _fair,
    "The mill": _farm,
    "By the fire": _camp,
    "An island": _island,
    "A drive": _drive,
    "After the rain": _rain,
}
"""What the storybook's gallery shows."""


def write(folder: Path, render: Callable[[Painting], Image.Image]) -> None:
    """Write the gallery into the model's ``folder``: numbered files of paintings, and their thumbnails."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob("*.json"):
        old.unlink()
    rows = -(-len(SKETCHES) // A_ROW)
    sheet = Image.new("RGB", (A_ROW * SIDE, rows * SIDE))
    for i, (name, sketch) in enumerate(SKETCHES.items()):
        painting = sketch()
        (place / f"{i:02} {name}.json").write_text(painting.to_json(indent=1) + "\n", encoding="utf-8")
        small = render(painting).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(small, (i % A_ROW * SIDE, i // A_ROW * SIDE))
    sheet.save(place / THUMBNAILS, quality=88, method=6)


def read(folder: Path) -> tuple[Example, ...]:
    """The examples in a model's ``folder``, if it has a gallery; raises ``FeaturebrushError`` for a broken one."""
    files = sorted((folder / FOLDER).glob("*.json"))
    if not files:
        return ()
    try:
        with Image.open(folder / FOLDER / THUMBNAILS) as opened:
            sheet = opened.convert("RGB")
        paintings = [Painting.from_json(file.read_text(encoding="utf-8")) for file in files]
    except (OSError, UnicodeDecodeError) as error:
        raise FeaturebrushError(f"the gallery in {folder} cannot be read: {error}") from error

    def thumbnail(i: int) -> Image.Image:
        left, top = i % A_ROW * SIDE, i // A_ROW * SIDE
        return sheet.crop((left, top, left + SIDE, top + SIDE))

    names = [file.stem.split(" ", 1)[-1] for file in files]
    return tuple(
        Example(name, painting, thumbnail(i)) for i, (name, painting) in enumerate(zip(names, paintings, strict=True))
    )
