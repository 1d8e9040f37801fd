"""Weights of half precision take the updates of a small learning rate, and a run that loses them says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from rlif.models.master_weights import MASTER, MasterWeightsAdamW
from rlif.models.optimization import MovedWeights, adamw, rounded_away
from rlif.options.groups import OptimizerOptions
from rlif.training import loop
from rlif.training.progress import SilentProgress
from runs import MakeConfig

LEARNING_RATE = 3e-6  # the default of `rlif train`

OPTIONS = OptimizerOptions()


def test_a_step_is_that_of_float32_weights_and_the_weight_is_the_result_rounded() -> None:
    torch.manual_seed(0)
    coarse = nn.Parameter(torch.randn(300).bfloat16())
    exact = nn.Parameter(coarse.detach().float())
    ours = MasterWeightsAdamW([coarse], lr=LEARNING_RATE, weight_decay=0.1)
    theirs = torch.optim.AdamW([exact], lr=LEARNING_RATE, weight_decay=0.1, fused=True)
    for _ in range(50):
        coarse.grad = torch.randn(300).bfloat16()
        exact.grad = coarse.grad.float()
        ours.step()
        theirs.step()
    assert torch.equal(ours.state[coarse][MASTER], exact)
    assert torch.equal(coarse, exact.bfloat16())
    assert {value.dtype for value in ours.state[coarse].values()} == {torch.float32}


def test_weights_in_float32_need_no_copies(make_config: MakeConfig) -> None:
    config = make_config()
    assert type(adamw([nn.Parameter(torch.ones(2))], config)) is torch.optim.AdamW
    coarse = [nn.Parameter(torch.ones(2).bfloat16())]
    assert type(adamw(coarse, config)) is MasterWeightsAdamW
    assert type(adamw(coarse, replace(config, master_weights=False))) is torch.optim.AdamW


def test_a_training_that_began_without_copies_goes_on_with_them() -> None:
    weight = nn.Parameter(torch.ones(8).bfloat16())
    begun, goes_on = torch.optim.AdamW([weight], fused=True), MasterWeightsAdamW([weight])
    for optimizer in (begun, goes_on):
        weight.grad = torch.ones(8).bfloat16()
        optimizer.step()
        goes_on.state[weight] = begun.state[weight]
    state = goes_on.state[weight]
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert state["step"] == 2


class Heard(SilentProgress):
    """Keeps the warnings of a run."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


def test_steps_that_rounding_would_lose_add_up() -> None:
    weights = [nn.Parameter(torch.full((8,), 0.05).bfloat16()) for _ in range(2)]
    start = weights[0].detach().clone()
    for weight, kind in zip(weights, (MasterWeightsAdamW, torch.optim.AdamW), strict=True):
        optimizer = kind([weight], lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        for _ in range(300):
            weight.grad = torch.ones(8).bfloat16()
            optimizer.step()
    kept, lost = (start.double() - weight.detach().double() for weight in weights)
    # 300 steps of 3e-6, to the nearest bfloat16: those near 0.05 are 2.4e-4 apart.
    assert (kept - 300 * LEARNING_RATE).abs().max() < 1.3e-4
    assert torch.equal(lost, torch.zeros_like(lost))


@pytest.mark.parametrize("master_weights", [True, False])
def test_a_run_whose_steps_are_lost_to_rounding_says_so_once(master_weights: bool, make_config: MakeConfig) -> None:
    heard = Heard()
    config = make_config(
        dtype="bfloat16", learning_rate=LEARNING_RATE, max_steps=3, warmup_ratio=0.0, master_weights=master_weights
    )
    shares = [row["moved_weights"] for row in loop.train(config, progress=heard).rows]
    said = [each for each in heard.said if "moved in this step" in each]
    if master_weights:
        assert min(shares) > 0.9
        assert said == []
    else:
        assert max(shares) < 0.1
        (warning,) = said
        assert warning.endswith("expected at least 10%, for which master_weights may help")


def test_only_weights_with_a_gradient_are_to_move() -> None:
    table, unused = nn.Parameter(torch.ones(100, 4)), nn.Parameter(torch.ones(5))
    optimizer = torch.optim.AdamW([table, unused], lr=0.1, weight_decay=0.0)
    moved = MovedWeights()
    assert rounded_away(moved.share, OPTIONS, "float32") is None  # nothing is known yet
    table.grad = torch.zeros(100, 4)
    table.grad[:3] = 1.0
    moved.step(optimizer)
    assert (moved.moved, moved.counted, moved.share) == (12, 12, 1.0)
    with torch.no_grad():
        table += 1e9  # whose float32 neighbours are 64 away
    moved.step(optimizer)
    assert moved.share == 0.5
    assert str(rounded_away(0.05, OPTIONS, "float32")).endswith("for which a higher learning_rate may help")
