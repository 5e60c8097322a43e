"""Labels from the truth about scenes whose content is known."""

from __future__ import annotations

from collections.abc import Sequence

from sae.labellers.detection import Evidence, Picture
from sae.labels import FeatureLabels


class MaskLabeller:
    """The labels that `sae.labels.label_features` found by masks; a picture shows what its ``concepts`` say."""

    name = "masks"

    def __init__(self, labels: FeatureLabels):
        self._labels = labels

    def label(self, evidence: Evidence) -> str | None:
        """The concept whose mask the feature fits best."""
        return self._labels.labels[evidence.feature]

    def detects(self, label: str, pictures: Sequence[Picture]) -> list[bool]:
        """Whether each picture is known to show it."""
        return [label in picture.concepts for picture in pictures]
