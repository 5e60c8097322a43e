"""The cases of PaintBench: what is painted where, over which seed and prompt, how strongly. All fixed beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import Final, Literal

from canvas.masks import Mask

Region = Literal["disc", "half", "aside", "small", "stroke"]
REGIONS: Final[tuple[Region, ...]] = ("disc", "half", "aside", "small", "stroke")
STRENGTHS: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""For the dose; 1 is a brush's default."""

HEIGHTS: Final[dict[str, float]] = {
    "sun": 0.25, "moon": 0.25, "cloud": 0.25, "rainbow": 0.35, "balloon": 0.32, "bird": 0.28, "stars": 0.2,
    "mountain": 0.45, "snowcap": 0.38, "hill": 0.55, "waterfall": 0.5, "pine": 0.62, "tree": 0.62, "palm": 0.62,
    "house": 0.64, "castle": 0.6, "lighthouse": 0.58, "windmill": 0.6, "bridge": 0.66, "boat": 0.68, "fish": 0.72,
    "day": 0.2, "sunset": 0.2, "night": 0.2, "rain": 0.4, "snowfall": 0.4, "fog": 0.5,
}  # fmt: skip
"""Height of the middle of a stroke, as a fraction of the canvas from the top; 0.7 for what is not named."""

FITTING: Final[dict[str, str]] = {
    "sky": "a meadow", "weather": "rolling hills", "terrain": "a quiet day", "water": "a green valley",
    "plants": "a meadow by day", "buildings": "rolling hills by day", "moving": "a summer day", "light": "a night",
    "style": "a house on a hill",
}  # fmt: skip
"""By group: a prompt that does not name the thing, in a scene where it could stand."""
CONFLICTING: Final[dict[str, str]] = {
    "sky": "fog over the sea", "weather": "a desert by day", "terrain": "the open sea", "water": "a desert",
    "plants": "the open sea", "buildings": "the open sea", "moving": "mountains in snow", "light": "a sunny beach",
    "style": "a boat on the sea",
}  # fmt: skip
"""By group: a prompt of a scene where it would not be expected."""


@dataclass(frozen=True)
class Case:
    """One stroke."""

    concept: str
    region: Region
    mask: Mask
    seed: int
    prompt: str
    context: Literal["empty", "fitting", "conflicting"]
    strength: float = 1.0

    def moved(self, dx: float) -> Case:
        """The same stroke, ``dx`` of the canvas further to the right."""
        return replace(self, mask=self.mask.shifted(dx, 0.0))


def mask_of(region: Region, x: float, y: float) -> Mask:
    """The region about (x, y); ``half`` is the left or the right half of the canvas, whichever (x, y) lies in."""
    match region:
        case "disc":
            return Mask.disc(x, y, 0.16)
        case "half":
            return Mask.rect(0, 0, 0.5, 1) if x < 0.5 else Mask.rect(0.5, 0, 1, 1)
        case "aside":
            return Mask.disc(0.2 if x < 0.5 else 0.8, y, 0.14)
        case "small":
            return Mask.disc(x, y, 0.08)
        case "stroke":
            return Mask.stroke([(x - 0.12, y + 0.03), (x, y - 0.05), (x + 0.12, y + 0.03)], 0.07)


def cases(
    concepts: Iterable[tuple[str, str]],
    seeds: range,
    regions: Iterable[Region] = REGIONS,
    contexts: Iterable[Literal["empty", "fitting", "conflicting"]] = ("empty", "fitting", "conflicting"),
) -> list[Case]:
    """Every (concept, group) with every region and seed; places and contexts vary with them, by a fixed draw."""
    contexts = tuple(contexts)
    found = []
    for concept, group in concepts:
        rng = Random(f"{concept} {seeds.start}")
        for region in regions:
            for seed in seeds:
                x = rng.uniform(0.25, 0.75)
                y = HEIGHTS.get(concept, 0.7) + rng.uniform(-0.04, 0.04)
                context = contexts[rng.randrange(len(contexts))]
                prompt = {"empty": "", "fitting": FITTING.get(group, ""), "conflicting": CONFLICTING.get(group, "")}
                found.append(Case(concept, region, mask_of(region, x, y), seed, prompt[context], context))
    return found


SMALL_CONCEPTS: Final = (
    "sun", "moon", "cloud", "mountain", "pine", "tree", "palm", "cactus", "house", "castle", "lighthouse", "windmill",
    "boat", "balloon", "car", "sheep",
)  # fmt: skip
"""Of the list ``small``; ``full`` takes every concept that the model has."""


def small(groups: dict[str, str], seeds: range) -> list[Case]:
    """The list ``small``: discs over an empty prompt, one of each for every seed."""
    named = [(name, groups[name]) for name in SMALL_CONCEPTS if name in groups]
    return cases(named, seeds, regions=("disc",), contexts=("empty",))


def full(groups: dict[str, str], seeds: range) -> list[Case]:
    """The list ``full``: every concept, region and seed."""
    return cases(groups.items(), seeds)


def thinned(found: list[Case], at_most: int) -> list[Case]:
    """At most so many cases, taken evenly over the list."""
    step = max(1, -(-len(found) // at_most))
    return list(islice(found, 0, None, step))
