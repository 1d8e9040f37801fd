"""Prompts and the rows that they are read from. Loads no torch."""
