r"""One canonical key for every answer: two answers are the same if and only if their keys are equal.

Since sameness is equality of keys, it is an equivalence by construction: no order of samples changes a group. A key is
found in this order, and remembered:

1. A plain number is its exact value (`1,000.0`, `1e3`, `10^3` and U+2212 for minus included).
2. What reads as mathematics is parsed by our own grammar (`grammar.py`) and evaluated (`values.py`): exactly where it is
   rational, else to many digits, at fixed points of its variables. Equal values are equal keys.
3. LaTeX beyond that grammar (integrals, limits, sums, …) is parsed by math-verify in a process of its own, once, within
   limits, and evaluated at the same points. What cannot be parsed in time is text.
4. Everything else is text, where the same words match.

A key says also whether the answer is worked out: `12+34` is never `46`.
"""

from __future__ import annotations

from collections.abc import Hashable


def answer_key(answer: str) -> Hashable:
    """Return the canonical key of an answer: equal for two answers that are the same, and only for them.

    Bounded in time and memory for any text.
    """
    raise NotImplementedError
