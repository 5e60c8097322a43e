from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from canvas import Brush, FeaturebrushError, Layer, Mask, Painting, files

PICTURE = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
BRUSHES = st.one_of(
    st.sampled_from(["castle", "a wave", 'quote"d', "näive"]).map(Brush.concept),
    st.integers(0, 999).map(lambda index: Brush.feature("down.1.0", index)),
    st.dictionaries(st.integers(0, 99), st.floats(-3, 3), min_size=1, max_size=4).map(
        lambda mix: Brush.mix("up.0.2", mix)
    ),
)
LAYERS = st.builds(
    Layer,
    brush=BRUSHES,
    mask=st.builds(Mask.disc, st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.4)),
    strength=st.floats(-3, 3),
    mode=st.sampled_from(["add", "replace", "erase", "scale"]),
    steps=st.sampled_from([(0.0, 1.0), (0.25, 0.5)]),
    visible=st.booleans(),
    locked=st.booleans(),
    name=st.text(max_size=9).filter(lambda name: "\x00" not in name and name.isprintable()),
)
PAINTINGS = st.builds(
    Painting,
    prompt=st.sampled_from(["", "a meadow", "“quotes” and \\ #painting="]),
    seed=st.sampled_from([0, 7, 2**53 + 1, 2**63 - 1]),
    steps=st.sampled_from([None, 4]),
    guidance=st.sampled_from([None, 2.5]),
    keep=st.booleans(),
    layers=st.lists(LAYERS, max_size=3).map(tuple),
)


@given(PAINTINGS)
@settings(max_examples=25)
def test_files_and_links_bring_the_same_painting_back(painting: Painting) -> None:
    assert files.from_bytes(painting.to_json().encode()) == painting
    assert files.from_bytes(files.to_png(painting, PICTURE)) == painting
    link = files.to_link(painting, "https://example.org/x?y=1#old")
    assert link.startswith("https://example.org/x?y=1#painting=") and files.from_link(link) == painting


def test_the_png_is_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "castle.PNG"
    painting = Painting(seed=3).paint("castle", Mask.disc(0.5, 0.5, 0.2))
    files.save(painting, path, PICTURE)
    with Image.open(path) as image:
        assert image.convert("RGB").tobytes() == PICTURE.tobytes()
    assert files.load(path) == painting


def test_a_png_carries_a_painting_of_many_layers_wherever_its_text_stands() -> None:
    noise = np.random.default_rng(0)
    painting = Painting()
    for _ in range(60):
        painting = painting.paint("castle", Mask.from_array(noise.integers(0, 256, (128, 128), dtype=np.uint8)))
    data = files.to_png(painting, PICTURE)
    assert len(painting.to_json()) > 2**20 and files.from_bytes(data) == painting
    start = data.index(b"zTXt") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    behind = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert files.from_bytes(behind) == painting


def test_json_files_come_back(tmp_path: Path) -> None:
    painting = Painting(seed=2**62).paint("moon", Mask.full())
    files.save(painting, tmp_path / "a.json")
    assert files.load(tmp_path / "a.json") == painting
    (tmp_path / "marked.json").write_text(painting.to_json(), encoding="utf-8-sig")
    assert files.load(tmp_path / "marked.json") == painting


def a_png(**texts: str) -> bytes:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    file = io.BytesIO()
    PICTURE.save(file, "PNG", pnginfo=info)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (a_png(), "carries no painting"),
        (a_png(featurebrush="nonsense"), "malformed JSON"),
        (a_png(featurebrush='{"featurebrush": 99}'), "newer"),
        (a_png()[:40], "cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 50, "cannot be read"),
        (b"\xff\xd8\xff", "no painting"),
        (b"", "malformed JSON"),
        (b" " * (files.MAX_JSON + 1), "at most"),
    ],
)
def test_what_is_no_painting_is_refused_in_words(data: bytes, words: str) -> None:
    with pytest.raises(FeaturebrushError, match=words):
        files.from_bytes(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_painting_or_one_kind_of_error(data: bytes) -> None:
    for head in (b"", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(FeaturebrushError):
            files.from_bytes(head + data)


@pytest.mark.parametrize("link", ["", "#painting=", "#painting=!!!", "#painting=eJw", "http://x/#other=abc"])
def test_links_that_carry_none_are_refused(link: str) -> None:
    with pytest.raises(FeaturebrushError):
        files.from_link(link)


def test_a_link_without_its_end_or_too_large_says_so() -> None:
    link = files.to_link(Painting(seed=5).paint("castle", Mask.disc(0.4, 0.4, 0.3)))
    with pytest.raises(FeaturebrushError, match="not whole|unpacked"):
        files.from_link(link[: len(link) // 4 * 3])
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    with pytest.raises(FeaturebrushError, match="too large for a link"):
        files.to_link(Painting().paint("castle", Mask.from_array(noise)))


def test_files_of_other_kinds_and_missing_ones(tmp_path: Path) -> None:
    with pytest.raises(FeaturebrushError, match="picture"):
        files.save(Painting(), tmp_path / "a.png")
    with pytest.raises(FeaturebrushError, match=r"\.json or \.png"):
        files.save(Painting(), tmp_path / "a.jpg", PICTURE)
    with pytest.raises(FeaturebrushError, match="cannot be read"):
        files.load(tmp_path / "none.json")


@given(PAINTINGS)
@settings(max_examples=25)
def test_the_code_paints_the_same(painting: Painting) -> None:
    made: list[Painting] = []

    class Painter:
        @classmethod
        def load(cls, model: str) -> Painter:
            assert model == painting.model
            return cls()

        def render(self, painted: Painting) -> Painter:
            made.append(painted)
            return self

        def save(self, path: str) -> None:
            assert path.endswith(".png")

    stub = types.ModuleType("canvas")
    vars(stub).update(Brush=Brush, Mask=Mask, Painting=Painting, Painter=Painter)
    kept = sys.modules["canvas"]
    sys.modules["canvas"] = stub
    try:
        exec(files.to_code(painting), {})
    finally:
        sys.modules["canvas"] = kept
    assert made == [painting]
