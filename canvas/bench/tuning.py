"""Choosing a concept's brush by what its strokes do: block, features and strength are searched on seeds of its own, and
judged on others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from tqdm import tqdm

from canvas.bench import scores
from canvas.bench.cases import Case
from canvas.bench.methods import Bench, unpainted
from canvas.bench.reader import Reader
from canvas.concepts import Concept
from canvas.painting import Brush
from sae.files import write_json

SEARCHED, JUDGED = 1000, 3000
"""First seeds; PaintBench has others."""
GAINS: Final = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
"""How long a brush makes its vector, in deviations of its block's updates. The embedded model is distilled under
strokes of 0.25 to 4, so that a slider at 2 stays within what it knows."""
LONGER: Final = (2.8, 4.0)
"""Where none of these passes: better a brush whose slider has nothing to say beyond 1 than none."""
AS_GOOD: Final = 0.05
"""A brush whose merit is so near to the best one's is as good."""
STROKES: Final = (6, 12)
"""On how many a concept's brush is searched, and on how many judged."""
MEANS: Final = (4.0,)
"""At other blocks: what the means of labelled features are multiplied with."""
LABELLED: Final = 4
"""Features of a brush made of labelled ones, at most."""
ARRIVES, KEEPS = 0.7, 0.85
"""A brush passes whose strokes arrive that often, at such an SSIM outside of them."""


@dataclass(frozen=True)
class Candidate:
    """A brush that a concept could have."""

    block: str
    features: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def brush(self) -> Brush:
        return Brush.mix(self.block, dict(zip(self.features, self.weights, strict=True)))

    def scaled(self, by: float) -> Candidate:
        return replace(self, weights=tuple(round(weight * by, 4) for weight in self.weights))


@dataclass(frozen=True)
class Figures:
    """What the strokes of one brush did, means over its cases."""

    arrived: float
    iou: float
    ssim_outside: float
    off_world: float
    """How much larger a share of the pictures is off the world than unpainted."""

    @property
    def passes(self) -> bool:
        return self.arrived >= ARRIVES and self.ssim_outside >= KEEPS

    @property
    def merit(self) -> float:
        """What candidates are ranked by: arriving first, then filling the region, without leaving the world."""
        return self.arrived + 0.5 * self.iou - 0.5 * max(0.0, self.off_world) - (self.ssim_outside < KEEPS)


def own(bench: Bench, concept: Concept, gains: Sequence[float] = GAINS) -> list[Candidate]:
    """The concept's features, in their proportions, weaker and stronger."""
    brush = Candidate(concept.block, concept.features, concept.weights)
    length = bench.vector_of(concept).norm().item()
    unit = bench.lengths.get(concept.block, length)
    return [brush.scaled(unit / length * gain) for gain in gains]


def elsewhere(bench: Bench, concept: Concept) -> list[Candidate]:
    """The features that are labelled as the concept, of every other block that has any."""
    found = []
    for block in bench.painter.blocks:
        labelled = [f for f in bench.painter.features(block) if f.label == concept.name]
        best = sorted(labelled, key=lambda f: -f.score)[:LABELLED]
        if best and block != concept.block:
            features, weights = tuple(f.index for f in best), tuple(f.score for f in best)
            found += [Candidate(block, features, weights).scaled(means) for means in MEANS]
    return found


@dataclass(frozen=True)
class Judge:
    """Measures brushes on strokes."""

    bench: Bench
    reader: Reader
    world: scores.World

    def figures(self, brush: Brush, plain: Sequence[tuple[Case, Image.Image, bool]]) -> Figures:
        """Of a brush, on cases as `unpainted` gives them."""
        found: list[tuple[float, float, float, float]] = []
        for case, before, off_before in plain:
            after = self.bench.painter.render(self.bench.plain(case).paint(brush, case.mask))
            reading = self.reader.read(after)
            came, _, overlap = scores.arrived(reading, case.concept, case.mask)
            off = float(self.world.is_off(reading.features)) - float(off_before)
            found.append((came, overlap, scores.kept(before, after, case.mask)["ssim_outside"], off))
        return Figures(*(round(float(mean), 4) for mean in np.mean(found, axis=0)))

    def unpainted(self, cases: Iterable[Case], count: int) -> list[tuple[Case, Image.Image, bool]]:
        """The first ``count`` cases whose region does not show the concept unpainted, each with its unpainted picture
        and whether that is off the world."""
        found: list[tuple[Case, Image.Image, bool]] = []
        for case in cases:
            if len(found) == count:
                break
            picture = unpainted(self.bench, case)
            reading = self.reader.read(picture)
            if not scores.arrived(reading, case.concept, case.mask)[0]:
                found.append((case, picture, self.world.is_off(reading.features)))
        return found


def tune(
    judge: Judge, searched: Sequence[Case], judged: Sequence[Case], strokes: tuple[int, int] = STROKES
) -> tuple[list[Concept], dict[str, Any]]:
    """The painter's concepts with the best brush found for each, and the figures of all that was tried.

    Of every concept the first ``strokes`` of the cases to search and to judge count where it is not there unpainted;
    one without any stays as it is.
    A concept's score becomes the share of the judged strokes that arrived; it is weak if its brush does not pass on
    them.
    """
    concepts: list[Concept] = []
    report: dict[str, Any] = {}
    for concept in tqdm(judge.bench.painter.concepts, desc="concepts", mininterval=5):
        plain, others = (
            judge.unpainted((case for case in cases if case.concept == concept.name), count)
            for cases, count in zip((searched, judged), strokes, strict=True)
        )
        if not plain or not others:
            concepts.append(concept)
            continue
        tried: list[tuple[Candidate, Figures]] = []
        for candidate in own(judge.bench, concept):
            tried.append((candidate, judge.figures(candidate.brush, plain)))
            if sum(figures.arrived == 1 and figures.passes for _, figures in tried) == 2:
                break
        for more in (own(judge.bench, concept, LONGER), elsewhere(judge.bench, concept)):
            if not any(figures.passes for _, figures in tried):
                tried += [(candidate, judge.figures(candidate.brush, plain)) for candidate in more]
        best, found = chosen(tried)
        if not found.arrived:  # nothing is better than another
            best, found = tried[GAINS.index(1.0)]
        figures = judge.figures(best.brush, others)
        changes = {"features": best.features, "weights": best.weights, "weak": not figures.passes}
        concepts.append(replace(concept, block=best.block, score=figures.arrived, **changes))
        report[concept.name] = {
            "brush": asdict(best),
            "searched": asdict(found),
            "judged": asdict(figures),
            "passes": figures.passes,
            "tried": [asdict(candidate) | asdict(figures) for candidate, figures in tried],
        }
    return concepts, report


def chosen(tried: Sequence[tuple[Candidate, Figures]]) -> tuple[Candidate, Figures]:
    """Of the best one's features, the second weakest that is as good: the slider has a say, but other seeds do not
    fail."""
    best, found = max(tried, key=lambda pair: pair[1].merit)
    alike = [pair for pair in tried if (pair[0].block, pair[0].features) == (best.block, best.features)]
    return [pair for pair in alike if pair[1].merit >= found.merit - AS_GOOD][:2][-1]


def write(path: Path, concepts: Sequence[Concept]) -> None:
    """A model's ``concepts.json``, whole or not at all."""
    write_json(path, {"concepts": [concept.to_dict() for concept in concepts]}, indent=1)
