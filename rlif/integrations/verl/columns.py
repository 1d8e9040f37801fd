"""Columns beside old log-probabilities: `self_certainty` and `sum_pi_squared`.

The first is for our advantage estimator, the second for verl's optimal token baselines. The pass for old
log-probabilities reads the logits anyway, and writes all it finds to verl's data store under its name. verl's engine
refuses the second where heads are fused, and verl's default trainer (`trainer.use_v1=true`) neither asks for it nor
fetches it: for the advantage it fetches the columns that it knows. So five of verl's functions are wrapped, none is
rewritten: two of the FSDP engines, three of that trainer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from verl.utils import tensordict_utils

from rlif.errors import UserError
from rlif.integrations.verl.functions import recorded_so_far, recorded_statistics
from rlif.integrations.verl.intuitor import NAME, self_certainty_column

COLUMN = "self_certainty"
SQUARES = "sum_pi_squared"
# Fields of `TokenStats`, and what verl calls them.
COLUMNS = {"self_certainty": COLUMN, "sum_sq_probs": SQUARES}
# Both of the actor's configuration and of what a pass is told.
REQUEST = "calculate_sum_pi_squared"
# verl's estimators that read the sums of squares.
BASELINES = ("optimal_token_baseline", "tir_optimal_token_baseline")

# (N, T), between the method that fetches them and the function that computes the advantages.
_squares: ContextVar[Tensor | None] = ContextVar("sum_pi_squared_column", default=None)


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


def asking(original: Callable[..., Any]) -> Callable[..., Any]:
    """`PPOTrainer._compute_old_log_prob`: ask the actor for the sums of squares that its configuration promises."""

    @functools.wraps(original)
    def _compute_old_log_prob(self: Any, batch: Any, metrics: dict) -> Any:
        if not self.config.actor_rollout_ref.actor.get(REQUEST, False):
            return original(self, batch, metrics)
        batch.extra_info[REQUEST] = True
        try:
            return original(self, batch, metrics)
        finally:
            # The reference model would be asked too, and its sums would take the place of the actor's.
            batch.extra_info.pop(REQUEST, None)

    return _compute_old_log_prob


def handing_over(original: Callable[..., Any]) -> Callable[..., Any]:
    """`PPOTrainer._compute_advantage`: fetch what the estimator reads and verl does not fetch, and log `intuitor`'s."""

    @functools.wraps(original)
    def _compute_advantage(self: Any, batch: Any, metrics: dict) -> Any:
        estimator = self.config.algorithm.adv_estimator
        if estimator == NAME:
            column, mask = _fetch(batch, COLUMN)
            if column is None:
                return original(self, batch, metrics)
            metrics["actor/self_certainty"] = ((column * mask).sum() / mask.sum().clamp(min=1)).item()
            with self_certainty_column(column, mask):
                return original(self, batch, metrics)
        # Where nobody asked for the sums, verl's own message says how to.
        if estimator not in BASELINES or not self.config.actor_rollout_ref.actor.get(REQUEST, False):
            return original(self, batch, metrics)
        column, _ = _fetch(batch, SQUARES)
        if column is None:
            raise UserError(
                f"algorithm.adv_estimator={estimator} found no {SQUARES} in the batch; expected no "
                "algorithm.rollout_correction.bypass_mode, which leaves out the pass that computes it"
            )
        token = _squares.set(column)
        try:
            return original(self, batch, metrics)
        finally:
            _squares.reset(token)

    return _compute_advantage


def with_squares(original: Callable[..., Any]) -> Callable[..., Any]:
    """`compute_advantage_for_multi_trajectories`: put the sums that were fetched among the batch's columns."""

    @functools.wraps(original)
    def compute_advantage_for_multi_trajectories(
        data: Any,
        batch_keys: Any,
        adv_estimator: Any,
        gamma: float = 1.0,
        lam: float = 1.0,
        num_repeat: int = 1,
        norm_adv_by_std_in_grpo: bool = True,
        config: Any = None,
    ) -> Any:
        squares = _squares.get()
        if squares is not None:
            data.batch[SQUARES] = squares
        return original(data, batch_keys, adv_estimator, gamma, lam, num_repeat, norm_adv_by_std_in_grpo, config)

    return compute_advantage_for_multi_trajectories


def _fetch(batch: Any, name: str) -> tuple[Tensor | None, Tensor]:
    """A column and the mask of the responses, (N, T), of a batch in verl's data store; None for a column it lacks."""
    import transfer_queue
    from verl.workers.utils.padding import response_from_nested

    data = transfer_queue.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=[name, "response_mask"]
    )
    mask = data["response_mask"]
    if name not in data.keys():  # noqa: SIM118  (a TensorDict is no mapping)
        return None, mask.to_padded_tensor(0)
    return response_from_nested(data[name], mask).to_padded_tensor(0.0), mask.to_padded_tensor(0)
