"""Take a causal language model apart into backbone and head, so that the logits need never be formed.

The head must be logits = softcap(scale * (hidden @ weight.T + bias)). The scale of Granite, Cohere and their like is
folded into the temperature and the softcap, since softcap(s x; c) / T = softcap(x; c / s) / (T / s).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlif.errors import UserError
from rlif.models.float32_head import Float32Linear
from rlif.models.vocabulary import limit_of

# What models call the factor between their output embedding and their logits, and whether it multiplies or divides.
SCALES = {"logit_scale": 1, "lm_head_multiplier": 1, "logits_scaling": -1}
# The two ways of computing a logit, relative to the largest: well above rounding, well below any forgotten factor.
MAX_LOGIT_GAP = {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}
NUM_TOKENS = 4
FUSED_HEAD_HINT = "--no-fused-head scores such a model by its own logits"


@dataclass(frozen=True)
class FusedHead:
    """logits = softcap(scale * (hidden @ weight.T + bias)), with softcap(x) = cap tanh(x / cap)."""

    linear: nn.Linear | ModulesToSaveWrapper
    """weight (V, H) and bias (V,) or None. The module, not its tensors: under FSDP they change places, and where an
    adapter has a head of its own, they are those of the adapter or of the model, whichever counts at the time."""
    scale: float
    cap: float | None

    def temperature(self, temperature: float) -> float:
        """Return what the unscaled logits are divided by to the same effect."""
        return temperature / self.scale

    @property
    def logits_dtype(self) -> torch.dtype | None:
        """What the linear ops of `rlif_kernels` take for logits like those of the model itself."""
        return torch.float32 if isinstance(_plain(self.linear), Float32Linear) else None

    @property
    def vocab_size(self) -> int | None:
        """Columns of the head that count, where those after them do not."""
        return limit_of(self.linear)

    @property
    def softcap(self) -> float | None:
        """The cap of the unscaled logits to the same effect."""
        return None if self.cap is None else self.cap / self.scale


def _plain(linear: nn.Module | None) -> nn.Module | None:
    """Look through what peft wraps around a head that an adapter has a copy of (LoRA's `modules_to_save`)."""
    return linear.original_module if isinstance(linear, ModulesToSaveWrapper) else linear


def backbone(model: PreTrainedModel) -> nn.Module:
    """Return the part of the model whose `last_hidden_state`, (N, S, H) after the final norm, its head reads."""
    return model.base_model


def plain_head(head: FusedHead) -> nn.Linear:
    """Return the model's own head, where an adapter has one too."""
    linear = _plain(head.linear)
    assert isinstance(linear, nn.Linear)
    return linear


@torch.no_grad()
def fused_head(model: PreTrainedModel, *, hint: str = FUSED_HEAD_HINT) -> FusedHead:
    """Find the head of a model, and compute a few logits both ways to be sure of it.

    Args:
        model: in evaluation mode.
        hint: what the error tells the user to do.

    Raises:
        UserError: the model has no head of this form, or is of a type that has no fused one.
    """
    name = type(model).__name__
    if model.dtype not in MAX_LOGIT_GAP:
        known = ", ".join(str(dtype) for dtype in MAX_LOGIT_GAP)
        raise UserError(f"model: {name} is of {model.dtype}, expected one of {known}; {hint}")
    linear = model.get_output_embeddings()
    if type(_plain(linear)) not in (nn.Linear, Float32Linear):
        came = "no output embedding" if linear is None else f"{type(linear).__name__} as its output embedding"
        if isinstance(linear, BaseTunerLayer):
            came = "an adapter on its output embedding"
        raise UserError(f"model: {name} has {came}, expected a plain Linear; {hint}")
    config = model.config.get_text_config()
    scale = 1.0
    for attribute, power in SCALES.items():
        scale *= (_number(config, attribute) or 1.0) ** power
    head = FusedHead(linear, scale, _number(config, "final_logit_softcapping"))

    tokens = torch.arange(NUM_TOKENS, device=model.device)[None] % linear.out_features
    expected = model(input_ids=tokens, use_cache=False).logits.float()
    try:
        hidden = backbone(model)(input_ids=tokens, use_cache=False).last_hidden_state
        logits = scale * linear(hidden).float()
    except (AttributeError, RuntimeError) as error:
        raise UserError(f"model: {name} does not divide into a backbone and a head: {error}; {hint}") from error
    if head.cap is not None:
        logits = head.cap * torch.tanh(logits / head.cap)
    if scale <= 0 or logits.shape != expected.shape or not _close(logits, expected, MAX_LOGIT_GAP[model.dtype]):
        raise UserError(f"model: {name}'s logits are not its output embedding of its last hidden state; {hint}")
    return head


def _number(config: Any, name: str) -> float | None:
    """A number of a model's configuration; None where it has none.

    Raises:
        UserError: something else stands there.
    """
    value = getattr(config, name, None)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise UserError(f"model: its config.json has {name} {str(value)[:40]!r}, expected a finite number")
    return float(value)


def _close(logits: Tensor, expected: Tensor, tolerance: float) -> bool:
    gap = (logits - expected).abs().max()
    return bool(gap <= tolerance * expected.abs().max().clamp(min=1e-6))
