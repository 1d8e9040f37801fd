"""Completions in, statistics of their tokens or a loss out."""
