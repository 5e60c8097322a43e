"""Sparse autoencoders on the activations of diffusion U-Nets. Knows nothing of painting or of a user interface."""

from sae.errors import FeaturebrushError
from sae.formats import load
from sae.model import SAE, SAEConfig

__all__ = ["SAE", "FeaturebrushError", "SAEConfig", "load"]
