"""A model whose forwards are counted, so that a test can act before any of them: what is slow with a large model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from rlif import doing

Before = Callable[[int, str], None]


@contextmanager
def before_each_forward(act: Before) -> Iterator[None]:
    """Within, `act` is called before each forward, with its number from 1 on and with what is being done."""
    forward, count = Qwen3Model.forward, 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        act(count, "; ".join(work.what for work in doing._works))
        return forward(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen3Model, "forward", counted)
        yield


def done_of(what: str) -> int:
    """How much is done of the work of that name that goes on now."""
    (work,) = [each for each in doing._works if each.what == what]
    return work.done
