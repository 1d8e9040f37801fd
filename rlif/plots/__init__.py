"""Figures that several commands draw."""
