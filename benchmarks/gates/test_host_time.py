"""What a call costs the host before a GPU has anything to do: the ops by Triton, with launches that do nothing.

    make bench-gate

Tensors are tiny and on the CPU, so that eager PyTorch's time is nearly all overhead as well: each of its operations
would be a launch on a GPU, as each of ours. Eager and ours are called in turn; the ratio is that of the medians of
processor time, the best of several attempts, and at most `LIMIT`.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch

from rlif_kernels import grpo_loss, token_stats
from rlif_kernels.backends import triton as triton_backend

LIMIT = 1.3
SHAPE = (2, 4, 16)
ROUNDS, ATTEMPTS, CALLS = 20, 5, 20
KERNELS = ("forward_kernel", "backward_kernel", "grpo_kernel", "terms_kernel", "scale_kernel")


class NoLaunch:
    """A kernel that is launched with any arguments, and does nothing."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **constants: None


@pytest.fixture
def _no_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KERNELS:
        monkeypatch.setattr(triton_backend, name, NoLaunch())


def statistics_of(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    logp = torch.log_softmax(logits.float(), -1)
    logprob = logp.gather(-1, targets[..., None])[..., 0]
    return logprob, -(logp.exp() * logp).sum(-1), -logp.mean(-1)


def calls(op: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Eager and ours, forward and backward."""
    logits = torch.randn(SHAPE, requires_grad=True)
    targets = torch.randint(SHAPE[-1], SHAPE[:-1])
    advantages, old = torch.randn(SHAPE[0]), torch.randn(SHAPE[:-1])
    mask = torch.ones(SHAPE[:-1], dtype=torch.bool)

    def learn(loss: torch.Tensor) -> None:
        loss.backward()
        logits.grad = None

    def eager_stats() -> None:
        logprob, entropy, self_certainty = statistics_of(logits, targets)
        learn((logprob + entropy + self_certainty).sum())

    def our_stats() -> None:
        stats = token_stats(logits, targets, backend="triton")
        assert stats.logprob is not None
        assert stats.entropy is not None
        assert stats.self_certainty is not None
        learn((stats.logprob + stats.entropy + stats.self_certainty).sum())

    def eager_loss() -> None:
        # The statistics are logged, as `grpo_loss` returns them.
        logprob, entropy, self_certainty = statistics_of(logits, targets)
        entropy.detach(), self_certainty.detach()
        ratio = (logprob - old).exp()
        token_loss = -torch.minimum(ratio * advantages[:, None], ratio.clamp(0.8, 1.2) * advantages[:, None])
        learn((token_loss * mask).sum() / mask.sum().clamp(min=1))

    def our_loss() -> None:
        learn(grpo_loss(logits, targets, advantages, old, mask=mask, backend="triton").loss)

    return {"token_stats": (eager_stats, our_stats), "grpo_loss": (eager_loss, our_loss)}[op]


def several(call: Callable[[], None]) -> None:
    for _ in range(CALLS):
        call()


@pytest.mark.usefixtures("_no_launches")
@pytest.mark.parametrize("op", ["token_stats", "grpo_loss"])
def test_gate_of_the_host(benchmark: Any, op: str) -> None:
    eager, ours = calls(op)
    for call in (eager, ours):
        several(call)
    theirs: list[float] = []

    def setup() -> None:
        start = time.process_time()
        several(eager)
        theirs.append(time.process_time() - start)

    benchmark._timer = time.process_time
    benchmark.pedantic(several, args=(ours,), setup=setup, warmup_rounds=1, rounds=ROUNDS * ATTEMPTS)
    here = benchmark.stats.stats.data
    parts = [slice(start, start + ROUNDS) for start in range(0, len(here), ROUNDS)]
    ratios = [median(here[part]) / median(theirs[-len(here) :][part]) for part in parts]
    benchmark.extra_info |= {
        "microseconds of eager": round(median(theirs) / CALLS * 1e6, 1),
        "microseconds here": round(median(here) / CALLS * 1e6, 1),
        "times eager's": [round(ratio, 3) for ratio in ratios],
    }
    assert min(ratios) <= LIMIT
