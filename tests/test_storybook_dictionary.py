"""From codes and masks to concepts, on codes whose meaning is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import build_sae

from canvas.masks import Mask
from canvas.storybook import icons
from canvas.storybook.contrast import Differences, outside_of
from canvas.storybook.dictionary import concept_entry
from canvas.storybook.paintsheet import cases, change
from canvas.storybook.vocabulary import CONCEPTS, INDEX

SAE = build_sae("down.1.0", seed=0)


def scene_masks(*shown: str, images: int = 4) -> torch.Tensor:
    """Every concept named is in the left half of the even images."""
    masks = torch.zeros(images, 16, 16, len(CONCEPTS), dtype=torch.bool)
    for name in shown:
        masks[::2, :, :8, INDEX[name]] = True
    return masks


def test_a_thing_is_contrasted_with_the_rest_of_its_own_scenes():
    masks = scene_masks("castle")
    outside = outside_of("castle", masks)
    assert outside[0, :, 8:].all()
    assert not outside[0, :, :8].any()
    assert not outside[1].any()


@pytest.mark.parametrize(("concept", "rival"), [("night", "day"), ("ink", "paper")])
def test_hours_and_styles_are_contrasted_with_their_rivals(concept, rival):
    masks = scene_masks(concept)
    masks[1, :, :, INDEX[rival]] = True
    outside = outside_of(concept, masks)
    assert outside[1].all()
    assert not outside[0].any()
    assert not outside[3].any()


def test_the_difference_of_means_does_not_depend_on_how_scenes_are_batched():
    codes = torch.rand(4, 16, 16, 6, generator=torch.Generator().manual_seed(0))
    masks = scene_masks("castle", "moon")
    at_once, one_by_one = Differences(6), Differences(6)
    at_once.add(codes, masks)
    for i in range(4):
        one_by_one.add(codes[i : i + 1], masks[i : i + 1])
    torch.testing.assert_close(at_once.of("castle"), one_by_one.of("castle"))
    expected = codes[::2, :, :8].double().mean((0, 1, 2)) - codes[::2, :, 8:].double().mean((0, 1, 2))
    torch.testing.assert_close(at_once.of("castle"), expected)


def test_a_concept_is_the_features_that_come_closest_to_its_difference():
    difference = 3.0 * SAE.W_dec[5] + 2.0 * SAE.W_dec[9]
    entry = concept_entry("castle", "down.1.0", SAE, difference, 8, 7.0, 0.5)
    weights = dict(zip(entry["features"], entry["weights"], strict=True))
    assert {5, 9} <= set(weights)
    assert all(weight > 0 for weight in weights.values())
    features = torch.tensor(entry["features"])
    painted = (torch.tensor(entry["weights"]) * SAE.mean[features]) @ SAE.W_dec[features]
    assert painted.norm().item() == pytest.approx(7, rel=1e-3)
    assert torch.cosine_similarity(painted, difference, dim=0).item() == pytest.approx(1, abs=1e-3)
    assert entry["group"] == "buildings"


def test_means_that_forget_follow_what_was_seen_last():
    masks = scene_masks("castle")
    differences = Differences(2, decay=0.5)
    for value in (10.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        vectors = torch.zeros(4, 16, 16, 2)
        vectors[:, :, :8, 0] = value
        differences.add(vectors, masks)
    assert differences.of("castle")[0].item() == pytest.approx(1, abs=0.01)
    assert differences.of("moon").abs().max() == 0, "never seen"


def test_the_fifty_cases_are_fifty():
    assert len({(name, x, y) for name, x, y, _ in cases()}) == 50
    assert len({seed for *_, seed in cases()}) == 50


def test_change_is_measured_inside_and_outside():
    before = Image.new("RGB", (256, 256))
    after = before.copy()
    after.paste((90, 90, 90), (0, 0, 128, 256))
    found = change(before, after, Mask.rect(0, 0, 0.5, 1))
    assert found["inside"] == pytest.approx(90)
    assert found["outside"] == pytest.approx(0)


@pytest.mark.parametrize("concept", ["castle", "night", "ink", "lit window"])
def test_icons_are_drawn(concept):
    icon = icons.concept_icon(concept)
    assert icon.size == (96, 96)
    assert len(icon.getcolors(10_000) or [0] * 99) > 20


def test_nothing_but_the_storybook_needs_the_renderer():
    root = Path(__file__).parents[1]
    for path in [
        root / "app.py",
        *(root / "sae").glob("*.py"),
        *(root / "canvas").glob("*.py"),
        *(root / "canvas" / "ui").glob("*.py"),
    ]:
        text = path.read_text(encoding="utf-8")
        if path.name == "sources.py":
            # The one place that names the world, to import it when asked for it: see docs/decisions.md.
            text = text.replace('SOURCES = {"world": "canvas.storybook.scenes"}', "")
        assert "skia" not in text and "canvas.storybook" not in text, path
