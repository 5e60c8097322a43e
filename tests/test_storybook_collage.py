"""Scenes with another's thing in them: the picture, the masks and the concept agree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from canvas.storybook import collage
from canvas.storybook.collage import LEAST
from canvas.storybook.strokes import PAINTED
from canvas.storybook.vocabulary import INDEX, OBJECTS
from canvas.storybook.world import draw_scene

SEEDS = range(70_000_000, 70_000_012)


@pytest.fixture(scope="module")
def made():
    return [collage.collage(seed) for seed in SEEDS]


def test_something_is_there_that_the_scene_did_not_have(made):
    for seed, (scene, concept) in zip(SEEDS, made, strict=True):
        before = draw_scene(seed)
        assert PAINTED[INDEX[concept]]
        assert not before.masks[INDEX[concept]].any()
        assert scene.masks[INDEX[concept]].sum() >= (LEAST if concept != "stars" else 1)
        assert (scene.style, scene.things) == (before.style, before.things), "captions do not tell of it"


def test_the_rest_of_the_scene_stays_as_it_was(made):
    for seed, (scene, concept) in zip(SEEDS, made, strict=True):
        if concept == "stars":  # which come with their sky, where the masks may agree
            continue
        before = draw_scene(seed)
        pasted = scene.masks[INDEX[concept]]
        beyond = ~binary_dilation(pasted, iterations=4)  # of the blur of the cut
        assert np.array_equal(scene.image[beyond], before.image[beyond]), concept
        assert np.array_equal(scene.masks[:, ~pasted], before.masks[:, ~pasted]), concept
        assert 0 < pasted.mean() < 0.5 or concept not in OBJECTS


def test_a_collage_is_the_same_for_the_same_seed(made):
    again = collage.collage(SEEDS[3])
    assert again.concept == made[3].concept
    assert np.array_equal(again.scene.image, made[3].scene.image)


@pytest.mark.parametrize(
    ("concept", "time", "hour"), [("moon", "day", "night"), ("sunset", "day", "sunset"), ("castle", "day", "day")]
)
def test_a_thing_comes_from_an_hour_that_has_it(concept: str, time: str, hour: str):
    assert collage._hour(concept, time) == hour
