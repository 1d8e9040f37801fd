"""Where what is made once and used again is kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Return the directory that the environment variable RLIF_CACHE_DIR names, else the user's cache directory."""
    return Path(os.environ.get("RLIF_CACHE_DIR") or platformdirs.user_cache_dir("rlif"))
