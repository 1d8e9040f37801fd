"""What completions tell without labels and without a model: whether they loop, and whether a group agrees.

Each says something that a mean log-probability hides. A policy that has collapsed into one loop or one answer can be
very sure of it, and so can the model that it started from.
"""

from __future__ import annotations

from collections.abc import Sequence

# Tokens of the pieces whose repetition is counted: 4, as in seq-rep-4.
PIECE_TOKENS = 4


def repetition(ids: Sequence[int]) -> float:
    """Return the share of a completion's 4-token pieces that occurred in it before (seq-rep-4, arXiv 1908.04319).

    0 for a completion of fewer than 4 tokens; near 1 for a loop.
    """
    pieces = [tuple(ids[start : start + PIECE_TOKENS]) for start in range(len(ids) - PIECE_TOKENS + 1)]
    return 1.0 - len(set(pieces)) / len(pieces) if pieces else 0.0
