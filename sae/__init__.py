"""Sparse autoencoders on the activations of diffusion U-Nets. Knows nothing of painting or of a user interface.

``sae.load(folder)`` gives an `SAE`; the function that trains is ``sae.train.train``. Everything is imported at first
use, so that the errors alone need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sae.errors import FeaturebrushError, unknown

if TYPE_CHECKING:
    from sae.activations import block_module, block_names, record, shuffled
    from sae.atlas import Atlas, FeatureInfo
    from sae.config import TrainConfig
    from sae.formats import detect, load, save_saelens, save_sparsify
    from sae.harvest import HarvestConfig
    from sae.labels import FeatureLabels, label_features
    from sae.metrics import evaluate, feature_concept_scores, feature_stats
    from sae.model import SAE, SAEConfig
    from sae.shards import ShardReader, ShardWriter
    from sae.sources import SceneBatch, Scenes, open_scenes
    from sae.train import Progress

__all__ = [
    "SAE",
    "Atlas",
    "FeatureInfo",
    "FeatureLabels",
    "FeaturebrushError",
    "HarvestConfig",
    "Progress",
    "SAEConfig",
    "SceneBatch",
    "Scenes",
    "ShardReader",
    "ShardWriter",
    "TrainConfig",
    "block_module",
    "block_names",
    "detect",
    "evaluate",
    "feature_concept_scores",
    "feature_stats",
    "label_features",
    "load",
    "open_scenes",
    "record",
    "save_saelens",
    "save_sparsify",
    "shuffled",
]

_AT_FIRST_USE = {
    **dict.fromkeys(("detect", "load", "save_saelens", "save_sparsify"), "sae.formats"),
    **dict.fromkeys(("SAE", "SAEConfig"), "sae.model"),
    **dict.fromkeys(("block_module", "block_names", "record", "shuffled"), "sae.activations"),
    **dict.fromkeys(("Atlas", "FeatureInfo"), "sae.atlas"),
    **dict.fromkeys(("FeatureLabels", "label_features"), "sae.labels"),
    **dict.fromkeys(("evaluate", "feature_concept_scores", "feature_stats"), "sae.metrics"),
    **dict.fromkeys(("ShardReader", "ShardWriter"), "sae.shards"),
    **dict.fromkeys(("SceneBatch", "Scenes", "open_scenes"), "sae.sources"),
    "HarvestConfig": "sae.harvest",
    "Progress": "sae.train",
    "TrainConfig": "sae.config",
}


def __getattr__(name: str) -> Any:
    if name not in _AT_FIRST_USE:
        # Python asks modules for names of its own (`__path__`, ...) and takes only AttributeError for a no.
        raise AttributeError(
            f"module 'sae' has no {name!r}" if name.startswith("_") else str(unknown("name", name, __all__))
        )
    return getattr(import_module(_AT_FIRST_USE[name]), name)
