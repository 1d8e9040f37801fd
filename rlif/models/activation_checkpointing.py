"""Gradient checkpointing for a loop that never leaves evaluation mode.

Sampling and scoring must see the same distributions, so dropout stays off and the model in evaluation mode. The layers
of transformers recompute their activations in training mode only, and refuse a KV cache then. So the layers alone, not
the modules inside them, are in training mode for the time of a forward that wants gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlif.errors import UserError
from rlif.models.packed_row import attention_as_now


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Let the layers keep their inputs only and compute the rest again in the backward.

    Raises:
        UserError: the model has no layers that can.
    """
    name = type(model).__name__
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"gradient_checkpointing: {name} has no layers that support it")
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(
            checkpoint, use_reentrant=False, context_fn=partial(attention_as_now, model)
        )
        # Some layers apply a dropout of their own, by a rate that they keep as a number, when in training mode.
        for attribute, value in vars(layer).items():
            if "drop" in attribute and isinstance(value, float):
                setattr(layer, attribute, 0.0)


def checkpointed_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the layers for which `enable_checkpointing` was called."""
    return [
        module
        for module in model.modules()
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
    ]


@contextmanager
def checkpointing(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Within, these layers checkpoint; the modules inside them stay in evaluation mode."""
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
