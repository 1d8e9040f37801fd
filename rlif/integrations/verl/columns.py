"""Columns beside old log-probabilities: `self_certainty` and, where heads are fused, `sum_pi_squared`.

The first is for our advantage estimator, the second for verl's optimal token baseline, which verl itself refuses
together with `use_fused_kernels`. The pass for old log-probabilities reads the logits anyway, and writes all it finds
to verl's data store under its name; the trainer fetches the columns it knows for the advantage, which the first has to
be fetched beside. Three of verl's methods are wrapped for that, none is rewritten. They serve the FSDP engines, and the
first the trainer of `trainer.use_v1=true`, verl's default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from verl.utils import tensordict_utils

from rlif.integrations.verl.functions import recorded_so_far, recorded_statistics
from rlif.integrations.verl.intuitor import NAME, self_certainty_column

COLUMN = "self_certainty"
# Fields of `TokenStats`, and what verl calls them.
COLUMNS = {"self_certainty": COLUMN, "sum_sq_probs": "sum_pi_squared"}
REQUEST = "calculate_sum_pi_squared"


def recording_forward_step(original: Callable[..., Any]) -> Callable[..., Any]:
    """`FSDPEngineWithLMHead.forward_step`: record what the pass is to leave a column of."""

    @functools.wraps(original)
    def forward_step(self: Any, micro_batch: Any, loss_function: Any, forward_only: Any) -> Any:
        fields = []
        # Only the pass for old log-probabilities, which learns nothing, asks for entropies without a loss: the
        # reference model's asks for neither.
        if loss_function is None and _asked(micro_batch, "calculate_entropy"):
            fields.append("self_certainty")
        if _of_fused_head(micro_batch):
            fields.append("sum_sq_probs")
        if not fields:
            return original(self, micro_batch, loss_function, forward_only)
        with recorded_statistics(tuple(fields)):
            return original(self, micro_batch, loss_function, forward_only)

    return forward_step


def _asked(micro_batch: Any, key: str) -> bool:
    return bool(tensordict_utils.get_non_tensor_data(micro_batch, key=key, default=False))


def _of_fused_head(micro_batch: Any) -> bool:
    """Whether verl wants the sum of squares where only a fused head has seen the probabilities."""
    return _asked(micro_batch, REQUEST) and _asked(micro_batch, "use_fused_kernels")


def with_columns(original: Callable[..., Any]) -> Callable[..., Any]:
    """`FSDPEngineWithLMHead.prepare_model_outputs`: add what was recorded, shaped as the log-probabilities are."""

    @functools.wraps(original)
    def prepare_model_outputs(
        self: Any, output: Any, output_args: Any, micro_batch: Any, logits_processor_func: Any
    ) -> Any:
        found, answered = recorded_so_far(), micro_batch
        if found and _of_fused_head(micro_batch):
            # verl refuses the request where heads are fused; ours has been answered.
            answered = micro_batch.copy()
            tensordict_utils.assign_non_tensor(answered, **{REQUEST: False})
        model_output = original(self, output, output_args, answered, logits_processor_func)
        for field, name in COLUMNS.items():
            values = getattr(found[-1], field) if found else None
            if values is not None:
                model_output[name] = _jagged(self, values, output_args, micro_batch["input_ids"].offsets())
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
