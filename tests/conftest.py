"""Fixtures of all tests; what they are built from is in ``tiny.py``."""

from __future__ import annotations

from hypothesis import settings
from tiny import model_folder, painter, reference

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

__all__ = ["model_folder", "painter", "reference"]
