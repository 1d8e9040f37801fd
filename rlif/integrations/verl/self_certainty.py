"""The column `self_certainty`: from the engine's pass for old log-probabilities to the advantage estimator.

That pass reads the logits anyway, and writes all it finds to verl's data store under its name; the trainer fetches the
columns it knows for the advantage, which this one has to be fetched beside. Three of verl's methods are wrapped for
that, none is rewritten. It serves the FSDP engines and the trainer of `trainer.use_v1=true`, verl's default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from verl.utils import tensordict_utils

from rlif.integrations.verl.functions import recorded_self_certainty, recording
from rlif.integrations.verl.intuitor import NAME, self_certainty_column

COLUMN = "self_certainty"


def recording_forward_step(original: Callable[..., Any]) -> Callable[..., Any]:
    """`FSDPEngineWithLMHead.forward_step`: record in the pass for old log-probabilities, which learns nothing."""

    @functools.wraps(original)
    def forward_step(self: Any, micro_batch: Any, loss_function: Any, forward_only: Any) -> Any:
        # Only that pass asks for entropies without a loss: the reference model's asks for neither.
        entropies = tensordict_utils.get_non_tensor_data(micro_batch, key="calculate_entropy", default=False)
        if loss_function is not None or not entropies:
            return original(self, micro_batch, loss_function, forward_only)
        with recorded_self_certainty():
            return original(self, micro_batch, loss_function, forward_only)

    return forward_step


def with_self_certainty(original: Callable[..., Any]) -> Callable[..., Any]:
    """`FSDPEngineWithLMHead.prepare_model_outputs`: add what was recorded, shaped as the log-probabilities are."""

    @functools.wraps(original)
    def prepare_model_outputs(
        self: Any, output: Any, output_args: Any, micro_batch: Any, logits_processor_func: Any
    ) -> Any:
        model_output = original(self, output, output_args, micro_batch, logits_processor_func)
        found = recording()
        if found:
            model_output[COLUMN] = _jagged(self, found[-1], output_args, micro_batch["input_ids"].offsets())
        return model_output

    return prepare_model_outputs


def _jagged(engine: Any, values: Tensor, output_args: Any, offsets: Tensor) -> Tensor:
    """Nest a micro-batch's sequences into one tensor: of packed rows, perhaps split over ranks, or of padded ones."""
    if "pad_size" in output_args:
        values = engine._gather_and_unpad_packed(values.flatten(), output_args["pad_size"])
    elif values.ndim == 2:
        lengths = offsets.diff()
        values = values[torch.arange(values.shape[1], device=values.device) < lengths[:, None]]
    return torch.nested.nested_tensor_from_jagged(values, offsets)


def handing_over(original: Callable[..., Any]) -> Callable[..., Any]:
    """`PPOTrainer._compute_advantage`: fetch the column for `intuitor`, and log its mean."""

    @functools.wraps(original)
    def _compute_advantage(self: Any, batch: Any, metrics: dict) -> Any:
        if self.config.algorithm.adv_estimator != NAME:
            return original(self, batch, metrics)
        column, mask = _fetch(batch)
        if column is None:
            return original(self, batch, metrics)
        metrics["actor/self_certainty"] = ((column * mask).sum() / mask.sum().clamp(min=1)).item()
        with self_certainty_column(column, mask):
            return original(self, batch, metrics)

    return _compute_advantage


def _fetch(batch: Any) -> tuple[Tensor | None, Tensor]:
    """Self-certainty and mask of the responses, (N, T), of a batch in verl's data store; None if it has no column."""
    import transfer_queue
    from verl.workers.utils.padding import response_from_nested

    data = transfer_queue.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=[COLUMN, "response_mask"]
    )
    mask = data["response_mask"]
    if COLUMN not in data.keys():  # noqa: SIM118  (a TensorDict is no mapping)
        return None, mask.to_padded_tensor(0)
    return response_from_nested(data[COLUMN], mask).to_padded_tensor(0.0), mask.to_padded_tensor(0)
