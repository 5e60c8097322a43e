"""Everything known about the features of an SAE, as a value that can be saved beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from sae.errors import FeaturebrushError, unknown
from sae.files import read_json, write_json
from sae.labels import FeatureLabels
from sae.model import QUANTILE_LEVELS, SAE

FORMAT = "featurebrush-atlas"
VERSION = 1
ATLAS_FILE = "atlas.json"
DIGITS = 6
"""Significant digits of the numbers: more would only make the file longer."""


@dataclass(frozen=True)
class FeatureInfo:
    """What is known about one feature."""

    index: int
    """Its place in the SAE: 0..F − 1."""
    density: float
    """Share of positions where it is active, 0..1."""
    mean: float
    """Mean of its code over those positions, in the activations' units."""
    p99: float
    """99% quantile of its code over those positions."""
    label: str | None = None
    """The concept that it finds best, if one was found."""
    score: float = 0.0
    """How well that label fits on held-out images, 0..1: F1, or a labeller's detection score; 1 for a user's label."""
    by_user: bool = False
    """Whether the label is a user's."""

    def __post_init__(self) -> None:
        for name in ("density", "mean", "p99", "score"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise FeaturebrushError(f"{name} of feature {self.index} must be a number of 0 or more, not {value!r}")
            if name in ("density", "score") and value > 1:
                raise FeaturebrushError(f"{name} of feature {self.index} must be from 0 to 1, not {value!r}")
        if self.label is not None and not isinstance(self.label, str):
            raise FeaturebrushError(f"the label of feature {self.index} must be a text or null, not {self.label!r}")


COLUMNS = ("density", "mean", "p99", "label", "score")


@dataclass(frozen=True)
class Atlas:
    """The features of one SAE, in order. A sequence: ``len(atlas)``, ``atlas[3]``, ``for info in atlas``."""

    block: str
    """The block that the SAE sits at."""
    features: tuple[FeatureInfo, ...]

    def __post_init__(self) -> None:
        if [info.index for info in self.features] != list(range(len(self.features))):
            raise FeaturebrushError("the features of an atlas must be numbered from 0 on, without gaps")

    @classmethod
    def of(cls, sae: SAE, labels: FeatureLabels | None = None) -> Atlas:
        """From the statistics that ``sae`` carries and, if there are any, its labels."""
        n = sae.cfg.n_features
        if labels is not None and len(labels.labels) != n:
            raise FeaturebrushError(f"{len(labels.labels)} labels given for an SAE of {n} features")
        p99 = sae.quantiles[:, QUANTILE_LEVELS.index(0.99)].tolist()
        rows = zip(
            sae.density.tolist(),
            sae.mean.tolist(),
            p99,
            labels.labels if labels else [None] * n,
            labels.scores if labels else [0.0] * n,
            strict=True,
        )
        return cls(
            sae.cfg.block,
            tuple(
                FeatureInfo(i, _short(density), _short(mean), _short(high), label, _short(score))
                for i, (density, mean, high, label, score) in enumerate(rows)
            ),
        )

    @classmethod
    def load(cls, folder: str | Path) -> Atlas:
        """Read ``atlas.json`` in ``folder``; `FeaturebrushError` if it is missing, damaged or of another format."""
        path = Path(folder) / ATLAS_FILE
        data = read_json(path, FORMAT, VERSION)
        columns = data.get("columns")
        if not isinstance(columns, dict):
            raise FeaturebrushError(f"{path} has no columns: expected {', '.join(COLUMNS)}")
        lists = [columns.get(name) for name in COLUMNS]
        for name, values in zip(COLUMNS, lists, strict=True):
            if not isinstance(values, list) or len(values) != len(lists[0] or ()):
                raise FeaturebrushError(f"{path}: the column {name!r} is missing or not as long as the others")
        if not isinstance(data.get("block"), str):
            raise FeaturebrushError(f"{path}: block must be a text, not {data.get('block')!r}")
        try:
            rows = enumerate(zip(*(values or () for values in lists), strict=True))
            return cls(data["block"], tuple(FeatureInfo(i, *row) for i, row in rows))
        except FeaturebrushError as error:
            raise FeaturebrushError(f"{path}: {error}") from error

    def with_user_labels(self, labels: Mapping[int, str]) -> Atlas:
        """The same, with a user's labels (`sae.labellers.user.read_user_labels`) in place of those found."""
        for index in labels:
            _ = self[index]
        return Atlas(
            self.block,
            tuple(
                replace(info, label=labels[info.index], score=1.0, by_user=True) if info.index in labels else info
                for info in self.features
            ),
        )

    def save(self, folder: str | Path) -> None:
        """Write ``atlas.json`` into ``folder``, which is made if it is not there: one list per column.

        Refuses an atlas with a user's labels: they are kept apart, and what they stand before must not be lost.
        """
        if any(info.by_user for info in self.features):
            raise FeaturebrushError(
                "this atlas has a user's labels, which have their own file: save the atlas without them"
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        columns = {name: [getattr(info, name) for info in self.features] for name in COLUMNS}
        data = {"format": FORMAT, "version": VERSION, "block": self.block, "columns": columns}
        write_json(folder / ATLAS_FILE, data, indent=None)

    def __len__(self) -> int:
        return len(self.features)

    def __iter__(self) -> Iterator[FeatureInfo]:
        return iter(self.features)

    def __getitem__(self, index: int) -> FeatureInfo:
        if not 0 <= index < len(self.features):
            raise FeaturebrushError(f"there is no feature {index} at {self.block}: give 0 to {len(self.features) - 1}")
        return self.features[index]

    @cached_property
    def _by_label(self) -> dict[str, tuple[FeatureInfo, ...]]:
        found: dict[str, list[FeatureInfo]] = {}
        for info in self.features:
            if info.label is not None:
                found.setdefault(info.label, []).append(info)
        return {label: tuple(sorted(found[label], key=lambda info: -info.score)) for label in sorted(found)}

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that some feature has, in alphabetical order."""
        return tuple(self._by_label)

    def labelled(self, label: str) -> tuple[FeatureInfo, ...]:
        """The features with ``label``, best score first; `FeaturebrushError` with the nearest if there is none."""
        if label not in self._by_label:
            raise unknown("label", label, self._by_label)
        return self._by_label[label]

    def find(self, words: str, limit: int = 20) -> Sequence[FeatureInfo]:
        """At most ``limit`` features whose label contains ``words``, upper or lower case alike; best score first."""
        wanted = words.strip().lower()
        hits = [info for info in self.features if info.label is not None and wanted in info.label.lower()]
        return sorted(hits, key=lambda info: -info.score)[:limit]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
