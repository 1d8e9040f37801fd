"""What lets the public functions take DTensors as they are: `backends.sharded.dtensors` says what these may be."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
# What most arguments are: to look for a method takes longer than to know these.
PLAIN = (Tensor, torch.nn.Parameter, float, int, bool, str, tuple, type(None))


def is_dtensor(value: Any) -> bool:
    """Tell a DTensor by its method, because torch.distributed may be absent."""
    return type(value) not in PLAIN and isinstance(value, Tensor) and hasattr(value, "to_local")


def takes_dtensors(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of plain tensors, and of a `group` that shares the vocabulary, take DTensors of a mesh too."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for value in (*args, *kwargs.values()):
            if is_dtensor(value):
                from rlif_kernels.backends.sharded.dtensors import call_with_dtensors  # it loads torch.distributed

                result: R = call_with_dtensors(function, args, kwargs)
                return result
        return function(*args, **kwargs)

    return call
