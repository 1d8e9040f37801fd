"""The options of `rlif plot`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(kw_only=True)
class PlotConfig:
    """Draw runs side by side as a PNG: their held-out metrics where they have any, else those of training."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories, each with a metrics.jsonl."""

    output: Path = Path("comparison.png")
    """The picture, which is written anew."""
