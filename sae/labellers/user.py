"""Labels that a user gave: kept apart from the others, and going before them."""

from __future__ import annotations

from pathlib import Path

from sae.errors import FeaturebrushError
from sae.files import read_json, write_json

FORMAT = "featurebrush-user-labels"
VERSION = 1
USER_FILE = "labels.user.json"
"""Beside ``atlas.json``, in the dictionary's folder."""


def read_user_labels(folder: str | Path, n_features: int) -> dict[int, str]:
    """The user's labels of the SAE in ``folder``, by feature; none if there is no file.

    Raises `FeaturebrushError` for a file that is damaged, or names features that the SAE does not have.
    """
    path = Path(folder) / USER_FILE
    if not path.is_file():
        return {}
    labels = read_json(path, FORMAT, VERSION).get("labels")
    if not isinstance(labels, dict):
        raise FeaturebrushError(f'{path} needs "labels": {{"feature": "label"}}, not {labels!r}')
    found: dict[int, str] = {}
    for feature, label in labels.items():
        if not feature.isascii() or not feature.isdigit() or int(feature) >= n_features:
            raise FeaturebrushError(f"{path}: there is no feature {feature!r}; features are 0 to {n_features - 1}")
        found[int(feature)] = _checked(label)
    return dict(sorted(found.items()))


def write_user_label(folder: str | Path, n_features: int, feature: int, label: str | None) -> dict[int, str]:
    """Give a feature a label, or with None take the user's own away; returns all of them as they are now."""
    labels = read_user_labels(folder, n_features)
    if type(feature) is not int or not 0 <= feature < n_features:
        raise FeaturebrushError(f"there is no feature {feature!r}: give 0 to {n_features - 1}")
    if label is None:
        labels.pop(feature, None)
    else:
        labels[feature] = _checked(label)
    labels = dict(sorted(labels.items()))
    data = {"format": FORMAT, "version": VERSION, "labels": {str(index): text for index, text in labels.items()}}
    write_json(Path(folder) / USER_FILE, data)
    return labels


def _checked(label: object) -> str:
    if not isinstance(label, str) or not label.strip() or len(label) > 200:
        raise FeaturebrushError(f"a label is a text of 1 to 200 letters, not {label!r}")
    return " ".join(label.split())
