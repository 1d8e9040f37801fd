"""Which fields a caller asks for, and how many of the largest columns."""

from collections.abc import Sequence

from rlif_kernels.stats import DEFAULT_TOP, FIELDS, MAX_TOP, TOP_FIELDS


def requested_fields(outputs: Sequence[str], top_logprobs: int | None) -> tuple[tuple[str, ...], int]:
    """Check the two arguments that name fields.

    Returns:
        the requested fields, in the order of FIELDS, and k of those of the k largest columns: 0 where there are none.
    """
    if not isinstance(outputs, tuple | list) or not outputs or not all(name in FIELDS for name in outputs):
        raise ValueError(f"outputs is {outputs!r}; expected a non-empty tuple of names out of {FIELDS}")
    if top_logprobs is None:
        top = DEFAULT_TOP if any(name in TOP_FIELDS for name in outputs) else 0
    elif not isinstance(top_logprobs, int) or isinstance(top_logprobs, bool):
        raise TypeError(f"top_logprobs is {top_logprobs!r}; expected an integer or None")
    elif not 1 <= top_logprobs <= MAX_TOP:
        raise ValueError(f"top_logprobs is {top_logprobs}; expected 1 to {MAX_TOP}, or None")
    else:
        top = top_logprobs
        outputs = (*outputs, "top_ids", "top_logprobs")
    return tuple(name for name in FIELDS if name in outputs), top
