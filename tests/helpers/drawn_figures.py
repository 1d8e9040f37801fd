"""Figures that are saved, still as objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from matplotlib.figure import Figure


@contextmanager
def kept_figures() -> Iterator[list[Figure]]:
    """Keep each figure that is saved within."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def savefig(self: Figure, *arguments: object, **keywords: object) -> None:
        drawn.append(self)
        save(self, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield drawn
