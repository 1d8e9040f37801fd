"""Logits that stay in float32 where the weights are of half precision, for sampling and scoring alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlif.errors import UserError
from rlif_kernels import float32_logits


class Float32Linear(nn.Linear):
    """A linear layer of half-precision weights whose outputs are float32, not rounded to the weights' dtype."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute (..., V) float32 of (..., H)."""
        return float32_logits(hidden, self.weight, self.bias)


@torch.no_grad()
def keep_logits_in_float32(model: PreTrainedModel) -> None:
    """Let a model's logits be float32: whoever samples from it and whoever scores with it sees the same ones.

    Its head becomes a `Float32Linear`, weights and names unchanged, so that `rlif.models.fused_head` scores by it too.

    Raises:
        UserError: the head is not a plain linear layer, or the model rounds its logits afterwards.
    """
    if model.dtype == torch.float32:
        return
    name, linear = type(model).__name__, model.get_output_embeddings()
    if type(linear) is not nn.Linear:
        came = "no output embedding" if linear is None else f"{type(linear).__name__} as its output embedding"
        raise UserError(f"logits_dtype: {name} has {came}, expected a plain Linear; leave the option out")
    linear.__class__ = Float32Linear
    dtype = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False).logits.dtype
    if dtype != torch.float32:
        raise UserError(
            f"logits_dtype: {name} gives logits of {dtype} whatever its output embedding does, expected "
            "torch.float32; leave the option out"
        )
