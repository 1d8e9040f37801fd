"""A call makes the launches and memsets that its plan says, and no others: what is predicted of it rests on that."""

from contextlib import contextmanager

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.memory import silenced
from comparison import DEVICE
from rlif_kernels import divergence, grpo_loss, token_stats
from rlif_kernels.backends import triton as launcher
from rlif_kernels.backends.triton import launches, pairs, plan

KERNELS = ("forward_kernel", "backward_kernel", "grpo_kernel", "terms_kernel", "scale_kernel")


class Launches:
    """Stands for every kernel, and counts."""

    def __init__(self):
        self.count = 0

    def __getitem__(self, grid):
        self.count += 1
        return lambda *arguments, **constants: None


@contextmanager
def memsets():
    """Yield a list that has, once this ends, what torch has filled with a constant. Torch calls one for each memset."""
    names = []
    profiler = profile(activities=[ProfilerActivity.CPU])
    with silenced():
        profiler.start()
    try:
        yield names
    finally:
        with silenced():
            profiler.stop()
    names += [event.name for event in profiler.events() if event.name in ("aten::zero_", "aten::fill_")]


@pytest.fixture
def counted(monkeypatch):
    kernels = Launches()
    for name in KERNELS:
        monkeypatch.setattr(launcher, name, kernels)
    return kernels


# Slices of the lanes: 0 is a program a row, whatever the plan would say of the device at hand.
@pytest.mark.parametrize("slices", [0, 2])
def test_token_stats_is_what_its_plan_says(slices, counted):
    logits = torch.randn(4, 300, device=DEVICE, requires_grad=True)
    targets = torch.zeros(4, dtype=torch.long, device=DEVICE)
    with launches.override("forward", slices=slices):
        device = launcher.device_of(logits)
        forward, backward = (function(4, 300, 4, device) for function in (plan.forward, plan.backward))
        assert forward.split == bool(slices)
        with memsets() as filled:
            stats = [value for value in token_stats(logits, targets, backend="triton") if value is not None]
        assert (counted.count, len(filled)) == (forward.launches, forward.memsets), filled
        upstream = [torch.randn_like(value) for value in stats]
        with memsets() as filled:
            torch.autograd.grad(stats, logits, upstream)
        assert (counted.count - forward.launches, len(filled)) == (backward.launches, backward.memsets)


@pytest.mark.parametrize("path", ["fused", "pair"])
def test_grpo_loss_is_what_its_plan_says(path, counted):
    logits = torch.randn(1, 4, 300, device=DEVICE, requires_grad=True)
    targets = torch.zeros(1, 4, dtype=torch.long, device=DEVICE)
    advantages = torch.ones(1, device=DEVICE)
    with launches.override("grpo", path=path):
        loss = plan.loss(4, 300, 4, launcher.device_of(logits))
        assert loss.path == path
        grpo_loss(logits, targets, advantages, backend="triton")
        assert counted.count == loss.launches


@pytest.mark.parametrize("kind", ["reverse_kl", "jsd"])
def test_a_divergence_with_its_gradient_is_one_launch(kind, monkeypatch):
    kernels = Launches()
    monkeypatch.setattr(pairs, "pair_kernel", kernels)
    logits = torch.randn(1, 4, 300, device=DEVICE, requires_grad=True)
    divergence(logits, torch.randn(1, 4, 300, device=DEVICE), kind=kind, backend="triton")
    assert kernels.count == 1
