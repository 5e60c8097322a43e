"""Fixtures of all tests; what they are built from is in ``tiny.py``."""

from __future__ import annotations

from tiny import model_folder, painter, reference

__all__ = ["model_folder", "painter", "reference"]
