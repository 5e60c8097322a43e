from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from canvas import FeaturebrushError, Painting, gallery
from canvas.concepts import ConceptNames, read_concepts

STORYBOOK = Path(__file__).parents[1] / "assets" / "storybook"


def coloured(painting: Painting) -> Image.Image:
    return Image.new("RGB", (64, 64), ((painting.seed * 10) % 256, 40, 90))


def test_what_is_written_is_read_in_order_with_its_own_thumbnail(tmp_path: Path) -> None:
    gallery.write(tmp_path, coloured)
    examples = gallery.read(tmp_path)
    assert [example.name for example in examples] == list(gallery.SKETCHES)
    for example, sketch in zip(examples, gallery.SKETCHES.values(), strict=True):
        assert example.painting == sketch()
        shown = np.asarray(example.thumbnail.resize((1, 1)))[0, 0].astype(int)
        assert np.abs(shown - coloured(example.painting).getpixel((0, 0))).max() < 12
    gallery.write(tmp_path, coloured)
    assert len(gallery.read(tmp_path)) == len(gallery.SKETCHES), "old files do not stay"


def test_a_folder_without_one_has_none_and_a_broken_one_is_said(tmp_path: Path) -> None:
    assert gallery.read(tmp_path) == ()
    gallery.write(tmp_path, coloured)
    (tmp_path / gallery.FOLDER / gallery.THUMBNAILS).unlink()
    with pytest.raises(FeaturebrushError, match="gallery"):
        gallery.read(tmp_path)


def test_the_storybook_has_eight_or_more_and_knows_what_they_are_painted_with() -> None:
    examples = gallery.read(STORYBOOK)
    assert len(examples) >= 8
    names = ConceptNames(read_concepts(STORYBOOK / "concepts.json"))
    for example in examples:
        for layer in example.painting.layers:
            names.find(str(layer.brush.name))
