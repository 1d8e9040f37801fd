"""Adapters for other trainers: each module needs the package that it is named after, and nothing here needs any."""
