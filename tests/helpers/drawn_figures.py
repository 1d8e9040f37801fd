"""Figures that are saved: kept as objects, or drawn with less work where nobody looks at them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from matplotlib.figure import Figure

from rlif.plots import style


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


@contextmanager
def plain_figures() -> Iterator[None]:
    """Draw small figures within, and arrange nothing in them, which is most of the work of a command that draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "Figure", plain_figure)
        yield


def plain_figure(figsize: tuple[float, float], **options: object) -> Figure:
    """In the place of `matplotlib.figure.Figure`, with what `style.new_figure` asks for."""
    return Figure(figsize=(2, 2), dpi=20)
