"""Rows whose vocabulary is divided over processes or tiles."""
