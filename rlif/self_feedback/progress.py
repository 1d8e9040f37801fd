"""The bar of a stage."""

from __future__ import annotations
