"""The options of `rlif report`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(kw_only=True)
class ReportConfig:
    """Write what runs did as one HTML page that needs no network: figures, the guard's decisions, coloured completions.

    Completions show how sure the model was of each token. A run that is not finished is reported as far as it has come.
    Of an evaluation it shows what can be made of its samples, and which completions the model was sure of.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Directories of `rlif train`, `rlif demo`, `rlif lab` or `rlif eval`; several runs are drawn side by side."""

    output: Path = Path("report.html")
    """The page, which is written anew."""

    open: bool = False
    """Open the page in the browser."""
