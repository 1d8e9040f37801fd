"""`grpo_loss`: the policy loss from logits, with the gradient of the logits computed in the same pass.

Autograd would read the logits for the statistics, and read them again to turn the gradient of the statistics into the
gradient of the logits. But the loss of a token is known as soon as its log-probability is, and so is the derivative
(`loss_terms` has the formulas). So one kernel does both, and reads a row the second time from the cache.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from rlif_kernels import kl_penalty
from rlif_kernels.backends import Backend, backend_for, local_backend, vocab_parallel
from rlif_kernels.backends.tangents import field_tangents
from rlif_kernels.checks import check_inplace, check_logits, row_arguments
from rlif_kernels.divergence import divergence
from rlif_kernels.dtensors import takes_dtensors
from rlif_kernels.loss_arguments import loss_arguments
from rlif_kernels.loss_functions import logits_loss_functions
from rlif_kernels.loss_options import LossOptions, LossVariant
from rlif_kernels.loss_terms import LossRows, Sequences, TokenTerms, as_clipped, token_terms
from rlif_kernels.op_names import op_name
from rlif_kernels.op_values import (
    fake_loss_outputs,
    grpo_loss_of,
    loss_outputs,
    op_arguments,
    op_loss,
    op_rows,
    requested,
)
from rlif_kernels.pair_checks import check_paired_rows
from rlif_kernels.pairs import Divergence
from rlif_kernels.policy_loss import GRPOLoss, policy_loss
from rlif_kernels.rows import Rows
from rlif_kernels.stats import DEFAULT_OUTPUTS, IGNORE_INDEX, TokenStats
from rlif_kernels.token_stats import token_stats
from rlif_kernels.transforms import (
    apply_uncompiled,
    transformed,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@takes_dtensors
def grpo_loss(
    logits: Tensor,
    targets: Tensor,
    advantages: Tensor,
    old_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    *,
    token_weight: Tensor | None = None,
    ref_logits: Tensor | None = None,
    mask: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    softcap: float | None = None,
    loss_type: str = "dapo",
    epsilon_low: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    beta: float = 0.0,
    kl: str = "k3",
    importance_sampling_level: str = "token",
    entropy_coef: float = 0.0,
    self_certainty_coef: float = 0.0,
    num_items_in_batch: int | Tensor | None = None,
    max_completion_length: int | None = None,
    loss_scale: float = 1.0,
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS,
    inplace_backward: bool = False,
    group: "ProcessGroup | None" = None,
    backend: str | None = None,
    **variant: Unpack[LossVariant],
) -> GRPOLoss:
    """Compute the policy loss of GRPO and of its variants, with the gradient of the logits computed in the same pass.

    `policy_loss` is the definition. Names and values are TRL's, with one exception: TRL takes the mean entropy of each
    part of a batch over that part's own tokens.

    Args:
        logits: (..., T, V), as `token_stats` takes them; the leading dimensions are sequences, T their tokens.
        targets: (..., T) integer ids of the chosen tokens. A token whose target is -100 does not count.
        advantages: (...), one for each sequence, or (..., T), one for each token.
        old_logprob: (..., T) float32, of the policy that sampled. None on-policy: the ratio is 1.
        ref_logprob: (..., T) float32, of the reference that `beta` holds on to.
        token_weight: (..., T), at least 0: multiplies each token's policy term, that is its advantage, and neither the
            penalty nor the means; `importance_weight` corrects a sampler so. In "vespo" their product over a sequence
            is part of the sequence's weight.
        ref_logits: (..., T, V'), of the reference, for ``kl="full"``; a constant, with all columns that count.
        mask: (..., T) bool, the tokens that count.
        temperature, vocab_size, softcap, group, backend: as in `token_stats`.
        loss_type: what the ratio does, and how tokens add up: `loss_options` has the table.
        epsilon_low, epsilon_high: the ratio gains nothing outside [1 - epsilon_low, 1 + epsilon_high]; the upper one
            is the lower one where it is None. In "gmpo" they bound the ratio's logarithm, in [-epsilon_low,
            epsilon_high]; in "cispo" `epsilon_high` is the largest ratio itself.
        delta: the ratio counts as no more than that, also where the advantage is negative; None: no such bound.
        beta: weight of the divergence from the reference, which needs `ref_logprob` or `ref_logits` unless it is 0.
        kl: "k3", an estimate from `ref_logprob`. "k3_corrected": times the ratio before it is clipped, with the ratio's
            gradient, so that value and gradient have the mean of KL(policy ‖ reference)'s: TRL's
            `use_bias_correction_kl` (arXiv 2512.02556). "full": KL(policy ‖ reference) itself at the same temperature,
            from `ref_logits`: its gradient varies less, and is 0 where both are equal. It takes N·V elements more here.
        importance_sampling_level: "token", or "sequence" (GSPO): one ratio for a sequence, the geometric mean of its
            tokens'. Off-policy, and with "k3_corrected", that needs all log-probabilities of a sequence first, and so
            two passes.
        entropy_coef, self_certainty_coef: these times the tokens' mean entropy and self-certainty (nats) are taken off
            the loss, so that a positive number raises them. The mean is over `num_items_in_batch` tokens.
        num_items_in_batch: the tokens that count in the whole batch, if this is a part of one; None: the tokens here.
        max_completion_length: for "dr_grpo"; None: T.
        loss_scale: multiplies loss and gradient: 1 / gradient_accumulation_steps, or the factor of a gradient scaler.
            It costs nothing, where to multiply the loss afterwards costs one more pass over the gradient.
        outputs: which of "logprob", "entropy", "self_certainty" to return beside the loss.
        inplace_backward: write the gradient into the logits' own storage, at once: this call destroys them. Not for
            selective checkpointing whose policy saves this op: to recompute it would then leave the logits as they are.
        variant: options of some losses alone, see `LossVariant`.

    A backward hands out the gradient that the forward computed, in its own memory. With retain_graph=True, for a second
    backward or for the gradient of one term, it makes a copy, N·V elements. Off-policy "cispo", "sapo", "vespo" and
    "gmpo" read the logits once more. Where a variant chooses tokens, this is `token_stats` followed by `policy_loss`.

    Returns:
        `GRPOLoss`: the loss with its gradient, and what is worth logging.

    Raises:
        ValueError, TypeError, IndexError: as `token_stats` does, and for bad arguments of the loss.
        RuntimeError: on a second derivative, and under torch.func.vmap.
    """
    check_logits(logits)
    arguments = row_arguments(
        logits, "logits", logits.shape[-1], targets, temperature, mask, vocab_size, softcap, outputs, backend, group
    )
    kl_penalty.check_kl(kl, ref_logprob, ("ref_logits", ref_logits))
    given = (advantages, old_logprob, ref_logprob, token_weight)
    options: dict[str, Any] = {
        "loss_type": loss_type, "epsilon_low": epsilon_low, "epsilon_high": epsilon_high, "delta": delta, "beta": beta,
        "importance_sampling_level": importance_sampling_level, "entropy_coef": entropy_coef,
        "self_certainty_coef": self_certainty_coef, "num_items_in_batch": num_items_in_batch,
        "max_completion_length": max_completion_length, "loss_scale": loss_scale,
    }  # fmt: skip
    arguments, loss = loss_arguments(arguments, *given, variant, kl=kl, **options)
    in_common: dict[str, Any] = {"mask": mask, "temperature": temperature, "vocab_size": vocab_size}
    in_common |= {"softcap": softcap, "group": group, "backend": backend}
    if ref_logits is not None:
        penalty = _penalty(logits, ref_logits, arguments.rows, beta * loss.loss_rows.weight, in_common)
        result = grpo_loss(
            logits, targets, advantages, old_logprob, token_weight=token_weight, outputs=outputs,
            inplace_backward=inplace_backward, **in_common, **options | {"beta": 0.0}, **variant,
        )  # fmt: skip
        return kl_penalty.added(result, penalty, beta)
    learns = torch.is_grad_enabled() and (logits.requires_grad or transformed())
    inplace = inplace_backward and learns
    if loss.selects:
        stats = token_stats(logits, targets, outputs=arguments.outputs, inplace_backward=inplace, **in_common)
        return loss_of_stats(stats, arguments.rows.targets, outputs, *given, kl=kl, **options, **variant)
    if inplace:
        check_inplace(logits)
    inputs = (logits, op_arguments(arguments, loss), learns, inplace)
    values = apply_uncompiled(_Transformed, *inputs)[:6] if transformed() else _Function.apply(*inputs)
    return grpo_loss_of(values, outputs, has_kl=ref_logprob is not None)


def _penalty(logits: Tensor, ref_logits: Tensor, rows: Rows, weight: Tensor, options: dict[str, Any]) -> Divergence:
    """The penalty of tokens whose weights in the loss, times beta, are (N,)."""
    check_logits(ref_logits, "ref_logits")
    check_paired_rows("ref_logits", ref_logits, "logits", logits)
    divided = options["group"] is not None
    expected = logits.shape[-1] if divided else rows.num_columns
    kl_penalty.check_columns("ref_logits", ref_logits.shape[-1], expected, exactly=divided)
    active, weight = rows.targets != IGNORE_INDEX, weight.view(rows.targets.shape)
    options = options | {"mask": active, "teacher_softcap": options["softcap"]}
    return divergence(logits, ref_logits, kind="reverse_kl", token_weight=weight, **options)


def _tangent(tangent: Tensor, logits: Tensor, arguments: tuple[Any, ...]) -> Tensor:
    """The tangent of the loss."""
    *row_arguments, outputs, backend, group, loss_rows, options, term, sequence_length = arguments
    rows, names = op_rows(*row_arguments), requested(outputs)
    local = local_backend(backend, logits)
    ranks = vocab_parallel(local, group)
    fields, _ = (ranks or local).forward(logits, rows, names)
    tangents = field_tangents(tangent, logits, rows, names, ranks)
    return tangent_of_loss(fields, tangents, *op_loss(loss_rows, options, None), rows.targets, term, sequence_length)


def tangent_of_loss(
    fields: dict[str, Tensor],
    tangents: dict[str, Tensor],
    loss_rows: LossRows,
    options: LossOptions,
    targets: Tensor,
    term: str,
    sequence_length: int,
) -> Tensor:
    """What the loss changes by when the fields change by their tangents."""
    grads = token_terms(fields, loss_rows, options, term, sequences_of(targets, sequence_length)).grads
    active = targets.view(-1) != IGNORE_INDEX
    changes = [(grad.double() * tangents[name]).where(active, 0) for name, grad in grads.items()]
    return torch.stack(changes).sum().float()


def loss_of_rows(
    backend: Backend,
    grad_logits: Tensor | None,
    logits: Tensor,
    rows: Rows,
    outputs: Sequence[str],
    loss_rows: LossRows,
    options: LossOptions,
    term: str,
    sequences: Sequences | None = None,
) -> tuple[dict[str, Tensor], TokenTerms]:
    """The statistics and the loss of each row, and its gradient in `grad_logits` (which may be the logits) if given.

    The fused kernels know the clipped loss of a token, and with it the gradient of any other on-policy. A ratio that
    `sequences` share, and another term off-policy, take a second look at the logits: `loss_terms.token_terms`.
    """
    if grad_logits is not None and sequences is None and backend.grpo is not None:
        clipped = as_clipped(loss_rows, options, term)
        if clipped is not None:
            fields, terms = backend.grpo(grad_logits, logits, rows, outputs, *clipped)
            return fields, terms if term == "clip" else token_terms(fields, loss_rows, options, term)
    fields, row_state = backend.forward(logits, rows, outputs)
    terms = token_terms(fields, loss_rows, options, term, sequences)
    if grad_logits is not None:
        backend.backward(grad_logits, terms.grads, logits, rows, row_state)
    return fields, terms


def sequences_of(targets: Tensor, sequence_length: int) -> Sequences | None:
    """The sequences of all rows; None where each token has a ratio of its own (`sequence_length` 0)."""
    if not sequence_length:
        return None
    return Sequences(targets.view(-1) != IGNORE_INDEX, sequence_length, slice(None))


def loss_of_stats(
    stats: TokenStats, targets: Tensor, outputs: Sequence[str], *given: Tensor | None, **options: Any
) -> GRPOLoss:
    """`policy_loss` of statistics of the rows whose targets are not masked, with the fields that were asked for."""
    tensors: list[Any] = [None if value is None else value.detach().float() for value in given]
    result = policy_loss(stats, *tensors, mask=targets != IGNORE_INDEX, **options)
    absent: dict[str, Any] = {name: None for name in DEFAULT_OUTPUTS if name not in outputs}
    return result._replace(**absent)


# ---------------------------------------------------------------- library ops
#
# The outputs are those of `op_values.loss_outputs`, then the gradient, empty where there is none.


def _forward(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    varying: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    outputs: str,
    backend: str,
    group: str,
    loss_rows: Sequence[Tensor | None],
    options: Sequence[float],
    term: str,
    sequence_length: int,
    learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format) if learns else None
    fields, terms = loss_of_rows(
        backend_for(backend, logits, group),
        grad_logits,
        logits,
        op_rows(targets, temperature, varying, scalar_temperature, softcap, num_columns),
        requested(outputs),
        *op_loss(loss_rows, options, varying),
        term,
        sequences_of(targets, sequence_length),
    )
    return (*loss_outputs(fields, terms, targets), logits.new_empty(0) if grad_logits is None else grad_logits)


_forward_op = torch.library.custom_op(op_name("grpo_loss"), _forward, mutates_args=())


@_forward_op.register_fake
def _(logits: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, _, _, _, _, outputs, _, _, loss_rows, _, _, _, learns = rest
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format) if learns else logits.new_empty(0)
    return (*fake_loss_outputs(logits, targets, outputs, loss_rows), grad_logits)


def _forward_inplace(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    varying: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    outputs: str,
    backend: str,
    group: str,
    loss_rows: Sequence[Tensor | None],
    options: Sequence[float],
    term: str,
    sequence_length: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    fields, terms = loss_of_rows(
        backend_for(backend, logits, group),
        logits,
        logits,
        op_rows(targets, temperature, varying, scalar_temperature, softcap, num_columns),
        requested(outputs),
        *op_loss(loss_rows, options, varying),
        term,
        sequences_of(targets, sequence_length),
    )
    return loss_outputs(fields, terms, targets)


_forward_inplace_op = torch.library.custom_op(op_name("grpo_loss_"), _forward_inplace, mutates_args=("logits",))


@_forward_inplace_op.register_fake
def _(logits: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, _, _, _, _, outputs, _, _, loss_rows, _, _, _ = rest
    return fake_loss_outputs(logits, targets, outputs, loss_rows)


_Function, _Transformed = logits_loss_functions(
    "grpo_loss", (_forward, _forward_op), (_forward_inplace, _forward_inplace_op), _tangent
)
