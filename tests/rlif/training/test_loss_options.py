"""The losses of the parts of a step add up to the loss of the step, whatever it is a mean over."""

from typing import get_args

import pytest
import torch

from rlif.training.loss_options import StepSize, loss_options
from rlif.training.options import LossType, TrainConfig
from rlif_kernels import TokenStats, policy_loss


@pytest.mark.parametrize("loss_type", get_args(LossType))
@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_losses_of_parts_add_up_to_the_loss_of_the_whole(loss_type: LossType, num_processes: int) -> None:
    config = TrainConfig(
        model="m",
        data="d",
        loss_type=loss_type,
        beta=0.1,
        entropy_coef=0.3,
        self_certainty_coef=-0.2,
        max_completion_length=7,
    )
    generator = torch.Generator().manual_seed(0)
    stats = TokenStats(*(torch.randn(6, 5, generator=generator) for _ in range(3)))
    old, ref = (torch.randn(6, 5, generator=generator) for _ in range(2))
    advantages = torch.randn(6, generator=generator)
    mask = torch.rand(6, 5, generator=generator) < 0.7
    mask[4] = False  # as a truncated completion
    size = StepSize(6, int(mask.sum()))

    def loss(rows: slice) -> float:
        part = TokenStats(*(values[rows] for values in stats[:3]))
        counted = mask[rows]
        options = loss_options(config, size, len(counted), int(counted.sum()), num_processes)
        return policy_loss(part, advantages[rows], old[rows], ref[rows], mask=counted, **options).loss.item()

    whole = loss(slice(0, 6))
    parts = [loss(slice(0, 3)), loss(slice(3, 4)), loss(slice(4, 5)), loss(slice(5, 6))]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)  # float32 sums in another order
    # Averaged over the processes, as their gradients are, it is the loss of the step: here by its definition in TRL.
    plain = {"beta": 0.1, "entropy_coef": 0.3, "self_certainty_coef": -0.2, "max_completion_length": 7}
    alone = policy_loss(stats, advantages, old, ref, mask=mask, loss_type=loss_type, **plain).loss.item()
    assert whole / num_processes == pytest.approx(alone, rel=1e-5)
