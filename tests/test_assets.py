"""What is shipped: standard, complete, honest about where it comes from, and small."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageChops
from safetensors import safe_open

from canvas import Mask, Painter, Painting
from canvas.concepts import ConceptNames
from canvas.storybook.dictionary import BLOCKS
from sae.atlas_table import TABLE_FILE

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "assets" / "storybook"

pytestmark = pytest.mark.skipif(
    not (MODEL / "model_index.json").exists(), reason="needs the trained model in assets/storybook"
)


@pytest.fixture(scope="module")
def painter():
    return Painter.load()


def weights() -> list[Path]:
    return sorted((ROOT / "assets").rglob("*.safetensors"))


def test_every_weight_says_where_it_comes_from():
    assert len(weights()) >= 5
    for path in weights():
        facts = json.loads((path.parent / "provenance.json").read_text())
        assert {"command", "commit", "seed", "licence", "metrics"} <= set(facts), path
        assert facts["command"].startswith("python -m canvas.storybook train")


def test_weights_are_safetensors_in_half_precision():
    assert not [p for p in (ROOT / "assets").rglob("*") if p.suffix in {".pt", ".pth", ".bin", ".pkl", ".ckpt"}]
    for path in weights():
        if path.name == TABLE_FILE:
            continue  # counts and heatmaps, no weights
        with safe_open(path, "pt") as file:
            named = [n for n in file.keys() if not n.startswith("palette.")]  # noqa: SIM118 - not a dict; running sums
            large = [n for n in named if file.get_tensor(n).numel() > 2**13]
            assert large
            assert {file.get_tensor(n).dtype for n in large} == {torch.float16}, path


def test_a_clone_stays_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    total = sum((ROOT / name).stat().st_size for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())
    assert total < 60e6


@pytest.mark.parametrize("prompt", ["", "a castle at night"])
def test_without_layers_the_picture_is_the_pipelines_bit_for_bit(painter, prompt):
    pipe = StableDiffusionPipeline.from_pretrained(MODEL, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    defaults = painter.defaults
    guidance = defaults.guidance if prompt else 1.0
    expected = pipe(
        prompt, height=defaults.size, width=defaults.size, num_inference_steps=defaults.steps,
        guidance_scale=guidance, generator=torch.Generator("cpu").manual_seed(3),
    ).images[0]  # fmt: skip
    found = painter.render(Painting(prompt=prompt, seed=3))
    assert ImageChops.difference(expected, found).getbbox() is None


def test_there_is_much_to_paint_with(painter):
    assert len(painter.concepts) >= 40
    assert len({c.group for c in painter.concepts}) >= 8
    assert painter.blocks == BLOCKS
    for block in painter.blocks:
        assert len(painter.features(block)) >= 512
        assert sum(bool(f.label) for f in painter.features(block)) >= 20
    for concept in painter.concepts:
        icon = painter.icon(concept.name)
        assert icon.size == (96, 96)
        assert len(icon.getcolors(10_000) or [0] * 99) > 8, f"the icon of {concept.name} is blank"


def test_names_and_synonyms_find_one_concept(painter):
    names = ConceptNames(painter.concepts)
    for concept in painter.concepts:
        assert names.find(concept.name.upper()) == concept
        for synonym in concept.synonyms:
            assert names.find(synonym)


@pytest.mark.parametrize("concept", ["castle", "tree", "pine", "balloon"])
def test_a_stroke_changes_its_place_more_than_the_rest(painter, concept):
    mask = Mask.disc(0.5, 0.5, 0.16)
    plain = Painting(seed=12)
    before, after = painter.render(plain), painter.render(plain.paint(concept, mask))
    difference = ImageChops.difference(before, after).convert("L")
    inside = Image.fromarray(mask.array()).resize(before.size)
    within = _mean(difference, inside)
    without = _mean(difference, ImageChops.invert(inside))
    assert within > 3 * without
    assert within > 4


def _mean(values: Image.Image, weight: Image.Image) -> float:
    total = sum(weight.histogram()[i] * i for i in range(256)) / 255
    return (
        sum(a * b for a, b in zip(values.get_flattened_data(), weight.get_flattened_data(), strict=True))
        / 255
        / max(total, 1)
    )
