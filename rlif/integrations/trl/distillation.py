"""TRL's divergences between a student and a teacher by `divergence` and `linear_divergence`, with TRL's values.

| trainer | what is exchanged | by |
| --- | --- | --- |
| DistillationTrainer | the divergence of two heads | `linear_divergence`: a tile of logits, no log-probabilities |
| GKDTrainer, GOLDTrainer, IWOPDTrainer | `generalized_jsd_loss` of whole logits | `divergence`: no log-probabilities |
| SDFTTrainer, SDPOTrainer | the divergence of each token, of "full_logits" | `divergence`, scaled in the backward |

TRL's conventions hold: `beta` 0 and 1 are the two KLs and not the limits of the formula, temperatures divide both sides
and multiply nothing, labels of -100 count nowhere, and a number of items divides the sum where there is one. What these
functions do with a part of the vocabulary (top-k, a teacher on a server) stays TRL's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rlif.errors import UserError
from rlif_kernels import divergence, linear_divergence
from rlif_kernels.stats import IGNORE_INDEX

Function = Callable[..., Any]
DISTILLATION = "trl.trainer.distillation_trainer"
JSD_OF_LOGITS = (
    "trl.experimental.gkd.gkd_trainer", "trl.experimental.gold.gold_trainer", "trl.experimental.iw_opd.iw_opd_trainer",
)  # fmt: skip
SELF_DISTILLATION = ("trl.experimental.sdft.sdft_trainer", "trl.experimental.sdpo.sdpo_trainer")
# Classes of DistillationTrainer whose teacher is elsewhere, and says of a few tokens alone.
ELSEWHERE = ("trl.experimental.server_distillation.server_distillation_trainer",)


class FusedDivergence:
    """What `use_fused_token_stats` exchanged in a trainer that distils, until `undo` or the end of a `with`."""

    def __init__(self, trainer: Any) -> None:
        """Check and apply, as `use_fused_token_stats` describes."""
        self.trainer = trainer
        self.exchanged = _exchanges(trainer, module_of(trainer))
        self.apply()

    def apply(self) -> None:
        """Exchange the functions, if they are not exchanged already."""
        vars(self.trainer).update(self.exchanged)

    def undo(self) -> None:
        """Give the trainer back what its class has."""
        for name, function in self.exchanged.items():
            if vars(self.trainer).get(name) is function:
                delattr(self.trainer, name)

    def __enter__(self) -> FusedDivergence:
        self.apply()
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()


def module_of(trainer: Any) -> str | None:
    """Return the module of TRL that a trainer's divergence is from, or None where it has none that is served."""
    modules = [each.__module__ for each in type(trainer).__mro__]
    served = (DISTILLATION, *JSD_OF_LOGITS, *SELF_DISTILLATION)
    if any(name in modules for name in ELSEWHERE):
        return None
    return next((name for name in modules if name in served), None)


def _exchanges(trainer: Any, module: str | None) -> dict[str, Function]:
    """What takes the place of a trainer's own functions, by their names.

    Raises:
        UserError: the trainer is told to distil in a way that has no such function.
    """
    if module in JSD_OF_LOGITS:
        return {"generalized_jsd_loss": _generalized_jsd_loss(type(trainer).generalized_jsd_loss)}
    if module == DISTILLATION:
        if trainer._dist.is_zero3:
            raise UserError("trainer: got DeepSpeed ZeRO-3, which divides the heads; expected ZeRO-2, FSDP or DDP")
        return {"_compute_loss": _within(trainer, "_compute_loss", module, {"_chunked_divergence_loss": _of_heads})}
    assert module in SELF_DISTILLATION
    mode = trainer.args.distillation_mode
    if mode != "full_logits":
        raise UserError(
            f"trainer: got {type(trainer).__name__} with distillation_mode {mode!r}, expected 'full_logits'; TRL's own "
            "functions serve the others, which look at a few tokens"
        )
    name = "_compute_self_distillation_loss"
    return {name: _within(trainer, name, module, {"compute_full_logit_self_distillation_loss": _of_tokens})}


def _within(trainer: Any, name: str, module: str, functions: dict[str, Function]) -> Function:
    """A trainer's method, during which its module has other functions: they are the module's, for all trainers."""
    method = getattr(trainer, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        with _exchanged(module, functions):
            return method(*args, **kwargs)

    return call


@contextmanager
def _exchanged(module: str, functions: dict[str, Function]) -> Iterator[None]:
    names = vars(sys.modules[module])
    originals = {name: names[name] for name in functions}
    names.update(functions)
    try:
        yield
    finally:
        names.update(originals)


# ---------------------------------------------------------------- what takes the place of TRL's functions


def _of_heads(
    student_hidden_states: Tensor,
    teacher_hidden_states: Tensor,
    student_lm_head_weight: Tensor,
    teacher_lm_head_weight: Tensor,
    completion_mask: Tensor,
    beta: float,
    num_items_in_batch: Tensor | int | None = None,
    student_lm_head_bias: Tensor | None = None,
    teacher_lm_head_bias: Tensor | None = None,
    student_logit_scale: float = 1.0,
    teacher_logit_scale: float = 1.0,
    student_final_logit_softcapping: float | None = None,
    teacher_final_logit_softcapping: float | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """TRL's `_chunked_divergence_loss`: the loss, the sum of the student's entropies, and the number of tokens."""
    valid = completion_mask != 0
    count = valid.sum()
    # softcap(scale x; cap) / temperature = softcap(x; cap / scale) / (temperature / scale)
    sides = [
        (_layer(hidden, weight, bias), temperature / scale, None if cap is None else cap / scale)
        for hidden, weight, bias, scale, cap in (
            (
                student_hidden_states, student_lm_head_weight, student_lm_head_bias, student_logit_scale,
                student_final_logit_softcapping,
            ),
            (
                teacher_hidden_states, teacher_lm_head_weight, teacher_lm_head_bias, teacher_logit_scale,
                teacher_final_logit_softcapping,
            ),
        )
    ]  # fmt: skip
    (student, student_temperature, student_cap), (teacher, teacher_temperature, teacher_cap) = sides
    hidden, weight, bias = student
    teacher_hidden, teacher_weight, teacher_bias = teacher
    result = linear_divergence(
        hidden,
        weight,
        teacher_hidden,
        teacher_weight,
        kind="jsd",
        beta=beta,
        bias=bias,
        teacher_bias=teacher_bias,
        token_weight=valid / _divisor(num_items_in_batch, count),
        temperature=student_temperature,
        teacher_temperature=teacher_temperature,
        mask=valid,
        softcap=student_cap,
        teacher_softcap=teacher_cap,
        outputs=("entropy",),
        logits_dtype=torch.float32,  # TRL's products are of that dtype too
    )
    assert result.entropy is not None
    return result.loss, result.entropy.sum(), count


def _layer(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The head in the dtype of its hidden states, whole where FSDP has divided it."""
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
    if isinstance(bias, DTensor):
        bias = bias.full_tensor()
    if torch.is_autocast_enabled(hidden.device.type):
        return hidden, weight, bias
    return hidden, weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)


def _divisor(num_items_in_batch: Tensor | int | None, count: Tensor) -> Tensor | int:
    if num_items_in_batch is None:
        return count.clamp(min=1)
    return num_items_in_batch.to(count.device) if isinstance(num_items_in_batch, Tensor) else num_items_in_batch


def _generalized_jsd_loss(original: Function) -> Function:
    """TRL's `generalized_jsd_loss` of logits, (B, T, V), or the original where it is asked for something else."""

    def loss(
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        beta: float = 0.5,
        temperature: float = 1.0,
        reduction: str = "batchmean",
        num_items_in_batch: Tensor | int | None = None,
        **others: Any,
    ) -> Tensor:
        num_columns = student_logits.shape[-1]
        of_some = 0 < others.get("top_k", 0) < num_columns or others.get("logits_are_probs", False)
        known = reduction in ("batchmean", "sum", "mean") and teacher_logits.shape[-1] == num_columns
        if of_some or not known:
            return original(
                student_logits, teacher_logits, labels=labels, beta=beta, temperature=temperature, reduction=reduction,
                num_items_in_batch=num_items_in_batch, **others,
            )  # fmt: skip
        valid = torch.ones_like(student_logits[..., 0], dtype=torch.bool) if labels is None else labels != IGNORE_INDEX
        count = valid.sum()
        if num_items_in_batch is not None:
            divisor = _divisor(num_items_in_batch, count)
        elif reduction == "batchmean":
            divisor = max(student_logits.shape[0], 1) if labels is None else count.clamp(min=1)
        else:
            divisor = 1 if reduction == "sum" else count * num_columns
        return divergence(
            student_logits, teacher_logits, kind="jsd", beta=float(beta), token_weight=valid / divisor,
            temperature=float(temperature), mask=valid,
        ).loss  # fmt: skip

    return loss


def _of_tokens(student_logits: Tensor, teacher_logits: Tensor, *, distillation_alpha: float) -> Tensor:
    """TRL's `compute_full_logit_self_distillation_loss`: the divergence of each token, (B, T), differentiable."""
    value: Tensor = _DivergenceOfTokens.apply(student_logits, teacher_logits, distillation_alpha)
    return value


class _DivergenceOfTokens(torch.autograd.Function):
    """The divergence of each token, whose gradient is computed with it and scaled by what comes from above."""

    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, teacher_logits: Tensor, beta: float) -> Tensor:
        logits = student_logits.detach().requires_grad_(ctx.needs_input_grad[0])
        with torch.set_grad_enabled(ctx.needs_input_grad[0]):
            ones = torch.ones_like(logits[..., 0], dtype=torch.float32)
            result = divergence(logits, teacher_logits, kind="jsd", beta=beta, token_weight=ones)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(*torch.autograd.grad(result.loss, logits))
        assert result.value is not None
        return result.value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad[..., None]).to(gradient.dtype), None, None
