"""What a model's folder says about its concepts and features, as values, and how a name finds its concept."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from canvas.painting import Brush
from sae import SAE
from sae.atlas import ATLAS_FILE, Atlas
from sae.errors import FeaturebrushError, unknown
from sae.labellers.user import read_user_labels
from sae.pursuit import greedy_weights


@dataclass(frozen=True, slots=True)
class Concept:
    """A named weighted set of features of one block."""

    name: str
    group: str
    """The heading under which it is listed, or ""."""
    synonyms: tuple[str, ...]
    """Other names that find it."""
    block: str
    features: tuple[int, ...]
    weights: tuple[float, ...]
    """One for each feature, in units of the features' means."""
    score: float
    """How well painting it gives it, 0..1."""
    icon: int | None
    """Its place in the sprite sheet ``icons.webp``, or None if it has no icon."""
    weak: bool = False
    """Whether the model paints it too seldom to be offered among the others."""

    @property
    def brush(self) -> Brush:
        """The brush that paints it."""
        return Brush.concept(self.name)

    def to_dict(self) -> dict[str, Any]:
        """Its entry in a ``concepts.json``, as `read_concepts` reads it; ``weak`` stands there only if it is."""
        entry = {name: getattr(self, name) for name in ("name", "group", "block", "score", "icon")}
        entry |= {name: list(getattr(self, name)) for name in ("synonyms", "features", "weights")}
        return {**entry, "weak": True} if self.weak else entry


@dataclass(frozen=True, slots=True)
class Feature:
    """One latent of the SAE at a block, with what the atlas knows about it."""

    block: str
    index: int
    """0..F-1."""
    label: str
    """What it stands for, or "" where nobody knows."""
    score: float
    """How well the label fits, 0..1."""
    density: float
    """The share of positions where it is active, 0..1."""
    mean: float
    """Its mean over the positions where it is active, in the activations' units."""
    p99: float
    """The 99th percentile of its active values."""

    @property
    def brush(self) -> Brush:
        """The brush that paints it."""
        return Brush.feature(self.block, self.index)


class ConceptNames:
    """Finds concepts by name or synonym; case, spaces, hyphens and underscores at the ends or between do not matter.

    A name goes before another concept's synonym, an earlier concept's synonym before a later one's.
    """

    def __init__(self, concepts: Iterable[Concept]):
        self._concepts = tuple(concepts)
        self._found: dict[str, Concept] = {_plain(concept.name): concept for concept in reversed(self._concepts)}
        for concept in self._concepts:
            for synonym in concept.synonyms:
                self._found.setdefault(_plain(synonym), concept)

    def find(self, name: str) -> Concept:
        """The concept called ``name``; raises ``FeaturebrushError`` with the nearest names if there is none."""
        if not isinstance(name, str):
            raise FeaturebrushError(f"a concept's name is text, not {name!r}")
        concept = self._found.get(_plain(name))
        if concept is None:
            if not self._concepts:
                raise FeaturebrushError(f"unknown concept {name!r}: this model has no concepts, only features")
            names = [concept.name for concept in self._concepts]
            raise unknown("concept", name, [*names, *(s for concept in self._concepts for s in concept.synonyms)])
        return concept


def read_concepts(path: Path) -> tuple[Concept, ...]:
    """The concepts of a ``concepts.json``, in its order.

    Raises ``FeaturebrushError`` that names the file and the entry for anything that is not as it should be.
    """
    document = read_object(path)
    entries = document.get("concepts")
    if not isinstance(entries, list):
        raise FeaturebrushError(f'{path} needs "concepts", a list')
    concepts = tuple(_concept(f"{path}, concept {i}", entry) for i, entry in enumerate(entries))
    names = [_plain(concept.name) for concept in concepts]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise FeaturebrushError(f"{path} names two concepts {concepts[i].name!r}")
    return concepts


def fitted(sae: SAE, direction: Tensor, size: int, length: float) -> tuple[list[int], list[float]]:
    """At most ``size`` live features whose weighted sum comes closest to ``direction`` [d], and their weights ≥ 0.

    Weights are in units of the features' means; at strength 1 they add a vector of ``length``. See
    `sae.pursuit.greedy_weights`.
    """
    wanted = functional.normalize(direction.double().cpu(), dim=0)
    live = (sae.density > 0).nonzero().squeeze(1).cpu()
    directions = sae.W_dec.double().cpu()[live]
    found = greedy_weights((directions @ directions.T).numpy(), (directions @ wanted).numpy(), size)
    amounts = torch.from_numpy(found)
    used = (amounts > 1e-6).nonzero().squeeze(1)
    features, amounts = live[used], amounts[used]
    vector = amounts @ directions[used]
    weights = length / vector.norm().clamp_min(1e-12) * amounts / sae.mean.double().cpu()[features].clamp_min(1e-6)
    return features.tolist(), [round(weight, 4) for weight in weights.tolist()]


def set_apart(directions: Tensor, softness: float) -> Tensor:
    """Unit directions near the given ones [n, d], with less in common the smaller ``softness`` > 0 is.

    Symmetric orthogonalisation (Löwdin 1950), (DDᵀ + softness)^−½ D. Much of the difference that a thing's presence
    makes is that there is a thing at all: where a castle's and a fish's are at a cosine of 0.7, a model that is painted
    on with them has to guess.
    """
    rows = functional.normalize(directions.double(), dim=1)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    root = vectors @ torch.diag((values.clamp_min(0) + softness).rsqrt()) @ vectors.T
    return functional.normalize(root @ rows, dim=1)


def read_features(folder: Path, block: str, sae: SAE) -> tuple[Feature, ...]:
    """Every feature of the SAE at ``block``, in order: from the atlas in ``folder``, or without one, unlabelled.

    Labels that a user gave (``labels.user.json``) go before those of the atlas. Raises ``FeaturebrushError`` for a file
    that is damaged, or an atlas of another number of features than the SAE's.
    """
    atlas = Atlas.load(folder) if (folder / ATLAS_FILE).is_file() else Atlas.of(sae)
    if len(atlas) != sae.cfg.n_features:
        path = folder / ATLAS_FILE
        raise FeaturebrushError(f"{path} describes {len(atlas)} features, but the SAE has {sae.cfg.n_features}")
    atlas = atlas.with_user_labels(read_user_labels(folder, len(atlas)))
    return tuple(
        Feature(block, info.index, info.label or "", info.score, info.density, info.mean, info.p99) for info in atlas
    )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file ``path``; a ``FeaturebrushError`` that names the file if it is not one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FeaturebrushError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FeaturebrushError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise FeaturebrushError(f"{path} must hold a JSON object, not {type(document).__name__}")
    return document


def _concept(where: str, entry: object) -> Concept:
    if not isinstance(entry, dict):
        raise FeaturebrushError(f"{where}: an object is expected, not {entry!r}")
    features, weights = entry.get("features"), entry.get("weights")
    if not isinstance(features, list) or not features:
        raise FeaturebrushError(f'{where}: "features" is a list of at least one feature index, not {features!r}')
    if not isinstance(weights, list) or len(weights) != len(features):
        raise FeaturebrushError(f'{where}: "weights" needs one number for each of the {len(features)} features')
    icon, synonyms = entry.get("icon"), entry.get("synonyms", [])
    if not isinstance(synonyms, list):
        raise FeaturebrushError(f'{where}: "synonyms" is a list of names, not {synonyms!r}')
    return Concept(
        name=_text(where, "name", entry.get("name"), may_be_empty=False),
        group=_text(where, "group", entry.get("group", "")),
        synonyms=tuple(_text(where, "synonyms", synonym) for synonym in synonyms),
        block=_text(where, "block", entry.get("block"), may_be_empty=False),
        features=tuple(_index(where, "features", feature) for feature in features),
        weights=tuple(_number(where, "weights", weight) for weight in weights),
        score=_number(where, "score", entry.get("score", 0.0)),
        icon=None if icon is None else _index(where, "icon", icon),
        weak=_flag(where, "weak", entry.get("weak", False)),
    )


def _text(where: str, field: str, value: object, may_be_empty: bool = True) -> str:
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise FeaturebrushError(f'{where}: "{field}" is text, not {value!r}')
    return value


def _index(where: str, field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FeaturebrushError(f'{where}: "{field}" holds whole numbers from 0, not {value!r}')
    return value


def _number(where: str, field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FeaturebrushError(f'{where}: "{field}" holds finite numbers, not {value!r}')
    return float(value)


def _flag(where: str, field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise FeaturebrushError(f'{where}: "{field}" is true or false, not {value!r}')
    return value


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
