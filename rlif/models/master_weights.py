"""AdamW for weights of half precision, which are too coarse to take its updates: they are made in float32 copies.

A step of AdamW moves a weight by about the learning rate. bfloat16 has 8 bits, so that a weight of 0.05 has its
neighbours 2.4e-4 away, and a step of 3e-6 rounds to none. The float32 copy, the master weight (arXiv 1710.03740), takes
every step; the weight is the copy, rounded, and moves when the steps have come to half the way to its neighbour.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

MASTER = "master"
WIDE = (torch.float32, torch.float64)


class MasterWeightsAdamW(torch.optim.AdamW):
    """AdamW whose state of a half-precision weight holds its master weight too, and whose moments are float32.

    Whoever saves the state of a weight saves all that the next step depends on. One that was saved without master
    weights goes on too: these begin as the weights.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make a step; there is no closure to call."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if weight.dtype not in WIDE and MASTER not in state:
            state[MASTER] = weight.detach().float()
        master = state.get(MASTER, weight)
        for moment in ("exp_avg", "exp_avg_sq"):
            # Those of a training that began without master weights are as coarse as the weights were.
            state[moment] = state[moment].to(master.dtype) if moment in state else torch.zeros_like(master)
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
        adamw(
            [master],
            [gradient.to(master.dtype)],  # one float32 gradient at a time
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        if master is not weight:
            weight.copy_(master)
