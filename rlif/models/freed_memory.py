"""Memory that was freed, and that the C library keeps for later."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

import torch


def give_back_freed_memory(device: torch.device) -> None:
    """Give the pages of a CPU that nothing uses back to the system, also those that lie between others in use.

    To be called between the parts of a step. The gradients of the first part come to lie where its activations were,
    and in the holes between them there is no room for those of the next part: the system gives out new pages, and the
    holes stay resident beside them. Where the C library is not glibc nothing is done.
    """
    trim = _malloc_trim() if device.type == "cpu" else None
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's function of this name, if it is there."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
