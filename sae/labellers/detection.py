"""What a labeller is given, and the score by which labellers are compared: can it tell where a feature fires?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sae.atlas_table import AtlasTable
from sae.errors import FeaturebrushError
from sae.labels import FeatureLabels
from sae.shards import seeded

EACH = 5
"""Pictures of each kind, at most, that a label is tried on."""
FAILURES = 5
"""In a row, at which a labeller is given up."""
CROP = 0.5
"""Side of a crop, as a share of the picture's."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and what is known of it. A labeller uses what it can."""

    number: int
    image: Image.Image | None = field(default=None, repr=False)
    prompt: str = ""
    concepts: frozenset[str] = frozenset()
    """What it is known to show."""


@dataclass(frozen=True, eq=False)
class Firing:
    """A picture in which a feature is active, and where."""

    picture: Picture
    heatmap: np.ndarray
    """The feature's codes over the picture, ``[h, w]``, of any scale."""

    def crop(self) -> Image.Image:
        """The part of the picture around the heatmap's highest value; `FeaturebrushError` without an image."""
        image = image_of(self.picture)
        row, column = np.unravel_index(int(self.heatmap.argmax()), self.heatmap.shape)
        sides = [max(1, round(side * CROP)) for side in image.size]
        places = ((column + 0.5) / self.heatmap.shape[1], (row + 0.5) / self.heatmap.shape[0])
        left, top = (
            min(max(round(place * full - side / 2), 0), full - side)
            for place, full, side in zip(places, image.size, sides, strict=True)
        )
        return image.crop((left, top, left + sides[0], top + sides[1]))


def image_of(picture: Picture) -> Image.Image:
    """The picture's pixels; `FeaturebrushError` if there are none."""
    if picture.image is None:
        raise FeaturebrushError(f"picture {picture.number} has no image: this labeller needs pictures with images")
    return picture.image


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a feature may be labelled from."""

    feature: int
    top: tuple[Firing, ...]
    """Where it is most active, the strongest first."""
    rest: tuple[Picture, ...]
    """Pictures, chosen at random, in which it is nowhere active."""


@dataclass(frozen=True, eq=False)
class Trial:
    """Pictures, as many in which a feature fires as in which it does not, that no label was made from."""

    feature: int
    pictures: tuple[Picture, ...]
    """In random order."""
    fires: tuple[bool, ...]


class Labeller(Protocol):
    """Says what a feature stands for, and where what it said is to be seen."""

    @property
    def name(self) -> str:
        """By which its labels are told from others."""
        ...

    def label(self, evidence: Evidence) -> str | None:
        """A label for the feature, or None if it has nothing to say."""
        ...

    def detects(self, label: str, pictures: Sequence[Picture]) -> Sequence[bool]:
        """Which of the pictures show ``label``. It may be known that about half of them do, but not which."""
        ...


class Labelled(NamedTuple):
    """A feature's label by one labeller."""

    feature: int
    label: str | None
    score: float | None
    """Balanced accuracy on the feature's trial, 0..1; a guess gets 0.5. None without label or trial."""
    labeller: str


def evidence_of(
    table: AtlasTable, feature: int, pictures: Sequence[Picture], peaks: Tensor, rest: int = 100
) -> Evidence:
    """Evidence from the atlas: the feature's examples, and at most ``rest`` pictures where it is silent.

    Parameters: ``pictures`` are the N that ``table`` was built from, in the same order, and ``peaks [N, F]`` the
    highest code of each feature in each (`sae.examples.Examples.all_peaks`).
    """
    _check(pictures, peaks, feature)
    top = tuple(Firing(pictures[example.image], example.heatmap) for example in table[feature].examples)
    silent = (peaks[:, feature] <= 0).nonzero().squeeze(1)
    chosen = silent[torch.randperm(len(silent), generator=seeded("rest", feature))[:rest]]
    return Evidence(feature, top, tuple(pictures[i] for i in chosen.tolist()))


def trial_of(feature: int, pictures: Sequence[Picture], peaks: Tensor, each: int = EACH) -> Trial | None:
    """``each`` pictures where the feature fires, spread evenly over their ranks, and as many where it is silent.

    Fewer of both if there are not as many of one; None if there are none of it. Parameters: ``pictures`` (M) and
    ``peaks [M, F]`` must be of pictures that no label was made from. Always the same for the same.
    """
    _check(pictures, peaks, feature)
    order = peaks[:, feature].float().argsort(descending=True, stable=True)
    firing = int((peaks[:, feature] > 0).sum())
    n = min(each, firing, len(order) - firing)
    if n < 1:
        return None
    generator = seeded("trial", feature)
    spread = [round(i * (firing - 1) / max(1, n - 1)) for i in range(n)]
    silent = torch.randperm(len(order) - firing, generator=generator)[:n] + firing
    places = [(int(order[i]), True) for i in spread] + [(int(order[i]), False) for i in silent]
    mixed = [places[i] for i in torch.randperm(2 * n, generator=generator).tolist()]
    return Trial(feature, tuple(pictures[i] for i, _ in mixed), tuple(fires for _, fires in mixed))


def _check(pictures: Sequence[Picture], peaks: Tensor, feature: int) -> None:
    if peaks.dim() != 2 or len(peaks) != len(pictures) or not 0 <= feature < peaks.shape[1]:
        raise FeaturebrushError(
            f"peaks {list(peaks.shape)}, {len(pictures)} pictures and feature {feature} do not fit: "
            f"expected [pictures, features]"
        )


def detection_score(labeller: Labeller, label: str, trial: Trial) -> float:
    """Balanced accuracy, 0..1, of "the picture shows ``label``" as a prediction of "the feature fires in it".

    The detection score of Paulo, Mallen, Juang & Belrose (arXiv 2410.13928), for pictures.
    """
    said = labeller.detects(label, trial.pictures)
    if len(said) != len(trial.fires):
        raise FeaturebrushError(f"{labeller.name} answered for {len(said)} pictures of {len(trial.fires)}")
    right = {
        fires: [s == fires for s, f in zip(said, trial.fires, strict=True) if f == fires] for fires in (True, False)
    }
    return sum(sum(answers) / len(answers) for answers in right.values()) / 2


def label_with(
    labeller: Labeller, evidence: Iterable[Evidence], trials: Iterable[Trial | None]
) -> tuple[Labelled, ...]:
    """Label features one after the other and score each label on the feature's own trial.

    A feature at which the labeller fails gets no label, or no score; at `FAILURES` in a row the error is raised.
    """
    found, failures = [], 0
    for one, trial in zip(evidence, trials, strict=True):
        if trial is not None and trial.feature != one.feature:
            raise FeaturebrushError(f"the trial of feature {trial.feature} was given for feature {one.feature}")
        label, score = None, None
        try:
            label = labeller.label(one) if one.top else None
            score = detection_score(labeller, label, trial) if label is not None and trial is not None else None
            failures = 0
        except FeaturebrushError:
            failures += 1
            if failures == FAILURES:
                raise
        found.append(Labelled(one.feature, label, score, labeller.name))
    return tuple(found)


def best_labels(labelled: Iterable[Labelled], n_features: int) -> FeatureLabels:
    """Of several labellers' labels the one of highest score for each feature, as `sae.atlas.Atlas.of` takes them.

    Labels without a score count 0; of equal scores the first given stays.
    """
    labels: list[str | None] = [None] * n_features
    scores = [0.0] * n_features
    for one in labelled:
        if not 0 <= one.feature < n_features:
            raise FeaturebrushError(f"there is no feature {one.feature}: give 0 to {n_features - 1}")
        if one.label is not None and (labels[one.feature] is None or (one.score or 0.0) > scores[one.feature]):
            labels[one.feature], scores[one.feature] = one.label, one.score or 0.0
    return FeatureLabels(tuple(labels), tuple(scores), ())
