"""`grpo_loss`: the policy loss from logits, and its gradient with it, written while a row is still at hand.

Autograd would read the logits to have the statistics, and read them again to turn the gradient of the statistics into
that of the logits. But a token's loss is known as soon as its log-probability is, and so is the derivative
(`policy_loss` has it), so that one kernel does both, and the second look at a row hits the cache.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlif_kernels.backends import backend_for
from rlif_kernels.checks import RowArguments, check_inplace, check_logits, row_arguments
from rlif_kernels.loss_arguments import LossArguments, loss_arguments
from rlif_kernels.policy_loss import GRPOLoss, LossOptions, LossRows, TokenTerms, sequence_average, token_terms
from rlif_kernels.stats import DEFAULT_OUTPUTS, IGNORE_INDEX

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from rlif_kernels.backends.sharded.parallel import VocabParallel


def grpo_loss(
    logits: Tensor,
    targets: Tensor,
    advantages: Tensor,
    old_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    softcap: float | None = None,
    loss_type: str = "dapo",
    epsilon_low: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    beta: float = 0.0,
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
) -> GRPOLoss:
    """The policy loss of GRPO and its kin, with the gradient of the logits computed in the same pass.

    `policy_loss` has the formula, and `reference.policy_loss` the definition, in TRL's names and with TRL's values, but
    that TRL takes the mean entropy of each part of a batch over that part's own tokens.

    Args:
        logits: (..., T, V), as `token_stats` takes them; the leading dimensions are sequences, T their tokens.
        targets: (..., T) integer ids of the chosen tokens. A token whose target is -100 does not count.
        advantages: (...), one for each sequence, or (..., T), one for each token.
        old_logprob: (..., T) float32, of the policy that sampled. None on-policy: the ratio is 1.
        ref_logprob: (..., T) float32, of the reference that `beta` holds on to.
        mask: (..., T) bool, the tokens that count.
        temperature, vocab_size, softcap, group, backend: as in `token_stats`.
        loss_type: how tokens add up. "dapo": their sum divided by `num_items_in_batch`; "bnpo": their mean; "grpo": the
            mean over sequences of each sequence's mean; "dr_grpo": their sum divided by the number of sequences and by
            `max_completion_length`.
        epsilon_low, epsilon_high: the ratio gains nothing outside [1 - epsilon_low, 1 + epsilon_high]; the upper one
            is the lower one where it is None.
        delta: the ratio counts as no more than that, also where the advantage is negative; None: no such bound.
        beta: weight of the divergence from the reference ("k3"); needs `ref_logprob` unless it is 0.
        importance_sampling_level: "token", or "sequence" (GSPO): one ratio for a sequence, the geometric mean of its
            tokens'. Off-policy that needs all of a sequence's log-probabilities first, hence two passes.
        entropy_coef, self_certainty_coef: these times the tokens' mean entropy and self-certainty (nats) are taken off
            the loss, so that a positive number raises them. The mean is over `num_items_in_batch` tokens.
        num_items_in_batch: the tokens that count in the whole batch, of which this may be a part; None: those here.
        max_completion_length: for "dr_grpo"; None: T.
        loss_scale: multiplies loss and gradient: 1 / gradient_accumulation_steps, or the factor of a gradient scaler.
            It costs nothing, where to multiply the loss afterwards costs one more pass over the gradient.
        outputs: which of "logprob", "entropy", "self_certainty" to return beside the loss.
        inplace_backward: write the gradient into the logits' own storage, at once: this call destroys them.

    Returns:
        `GRPOLoss`: the loss with its gradient, and what is worth logging.

    Raises:
        ValueError, TypeError, IndexError: as `token_stats` does, and for the arguments of the loss alike.
        RuntimeError: on a second derivative, or on a second backward.
    """
    check_logits(logits)
    rows, _ = row_arguments(
        logits, "logits", logits.shape[-1], targets, temperature, mask, vocab_size, softcap, outputs, backend, group
    )
    rows, loss = loss_arguments(
        rows, advantages, old_logprob, ref_logprob, loss_type, epsilon_low, epsilon_high, delta, beta,
        importance_sampling_level, entropy_coef, self_certainty_coef, num_items_in_batch, max_completion_length,
        loss_scale,
    )  # fmt: skip
    learns = torch.is_grad_enabled() and logits.requires_grad
    if inplace_backward and learns:
        check_inplace(logits)
    values = _Function.apply(logits, rows, loss, learns, inplace_backward and learns)
    return returned(values, outputs, ref_logprob)


def returned(values: Sequence[Tensor], outputs: Sequence[str], ref_logprob: Tensor | None) -> GRPOLoss:
    """The public result from (loss, logprob, entropy, self_certainty, kl, clipped)."""
    loss, *stats, kl, clipped = values
    fields = {name: value for name, value in zip(DEFAULT_OUTPUTS, stats, strict=True) if name in outputs}
    return GRPOLoss(loss, kl=None if ref_logprob is None else kl, clipped=clipped, **fields)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: RowArguments, loss: LossArguments, learns: bool, inplace: bool
    ) -> tuple[Tensor, ...]:
        arguments = (logits.detach(), *rows, *loss)
        if inplace:
            values = _forward_inplace_op(*arguments)
            ctx.save_for_backward(logits)
        else:
            *values, grad_logits = _forward_op(*arguments, learns)
            ctx.save_for_backward(grad_logits)
        ctx.mark_non_differentiable(*values[1:])
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("grpo_loss has no second derivative: backward was called with create_graph=True")
        if grad_loss is None:
            return (None,) * 5
        (grad_logits,) = ctx.saved_tensors
        scale_(grad_logits, grad_loss)
        return grad_logits, None, None, None, None


def loss_of_rows(
    backend: "ModuleType | VocabParallel",
    grad_logits: Tensor | None,
    logits: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    softcap: float,
    num_columns: int,
    outputs: Sequence[str],
    rows: LossRows,
    options: LossOptions,
    average: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[str, Tensor], TokenTerms]:
    """The statistics and the loss of each row, and its gradient in `grad_logits` (which may be the logits) if given.

    With `average` the ratio is that of a sequence, which takes a second look at the logits: `policy_loss.token_terms`.
    """
    if grad_logits is not None and average is None and hasattr(backend, "grpo"):
        return backend.grpo(grad_logits, logits, targets, temperature, softcap, num_columns, outputs, rows, options)
    fields, row_state = backend.forward(logits, targets, temperature, softcap, num_columns, outputs)
    terms = terms_of_fields(fields, rows, options, average)
    if grad_logits is not None:
        backend.backward(grad_logits, terms.grads, logits, targets, temperature, softcap, num_columns, row_state)
    return fields, terms


def terms_of_fields(
    fields: dict[str, Tensor], rows: LossRows, options: LossOptions, average: Callable[[Tensor], Tensor] | None
) -> TokenTerms:
    """`token_terms` of the fields of a backend's forward."""
    return token_terms(
        fields["logprob"],
        fields.get("entropy"),
        fields.get("self_certainty"),
        rows=rows,
        options=options,
        average=average,
    )


def average_over(targets: Tensor, sequence_length: int) -> Callable[[Tensor], Tensor] | None:
    """`sequence_average` of all rows; None where each token has a ratio of its own (`sequence_length` 0)."""
    if not sequence_length:
        return None
    return sequence_average(targets.view(-1) != IGNORE_INDEX, sequence_length, slice(None))


# ---------------------------------------------------------------- library ops
#
# Outputs: the loss, three statistics, k3 and the clip flags, and the gradient; an empty tensor where there is none.


def op_outputs(
    fields: dict[str, Tensor], terms: TokenTerms, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    active = targets != IGNORE_INDEX

    def shaped(value: Tensor | None) -> Tensor:
        if value is None:
            return torch.empty(0, dtype=torch.float32, device=targets.device)
        return value.view(targets.shape)

    logprob, entropy, self_certainty = (shaped(fields.get(name)) for name in DEFAULT_OUTPUTS)
    kl = None if terms.kl is None else terms.kl.view(targets.shape).where(active, 0)
    clipped = terms.clipped.view(targets.shape) & active
    return terms.loss.sum(), logprob, entropy, self_certainty, shaped(kl), clipped


def fake_outputs(like: Tensor, targets: Tensor, outputs: str, loss_rows: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    names = outputs.split(",")

    def number(present: bool) -> Tensor:
        return like.new_empty(targets.shape if present else (0,), dtype=torch.float32)

    return (
        like.new_empty((), dtype=torch.float32),
        *(number(name in names) for name in DEFAULT_OUTPUTS),
        number(loss_rows[4] is not None),
        like.new_empty(targets.shape, dtype=torch.bool),
    )


@torch.library.custom_op("rlif::grpo_loss", mutates_args=())
def _forward_op(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    outputs: str,
    backend: str,
    group: str,
    loss_rows: Sequence[Tensor | None],
    options: Sequence[float],
    sequence_length: int,
    learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format) if learns else None
    fields, terms = loss_of_rows(
        backend_for(backend, logits, group),
        grad_logits,
        logits,
        targets,
        scalar_temperature if temperature is None else temperature,
        softcap,
        num_columns,
        outputs.split(","),
        LossRows(*loss_rows),  # type: ignore[arg-type]
        LossOptions(*options),
        average_over(targets, sequence_length),
    )
    return (*op_outputs(fields, terms, targets), logits.new_empty(0) if grad_logits is None else grad_logits)


@_forward_op.register_fake
def _(logits: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, _, _, _, outputs, _, _, loss_rows, _, _, learns = rest
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format) if learns else logits.new_empty(0)
    return (*fake_outputs(logits, targets, outputs, loss_rows), grad_logits)


@torch.library.custom_op("rlif::grpo_loss_", mutates_args=("logits",))
def _forward_inplace_op(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    outputs: str,
    backend: str,
    group: str,
    loss_rows: Sequence[Tensor | None],
    options: Sequence[float],
    sequence_length: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    fields, terms = loss_of_rows(
        backend_for(backend, logits, group),
        logits,
        logits,
        targets,
        scalar_temperature if temperature is None else temperature,
        softcap,
        num_columns,
        outputs.split(","),
        LossRows(*loss_rows),  # type: ignore[arg-type]
        LossOptions(*options),
        average_over(targets, sequence_length),
    )
    return op_outputs(fields, terms, targets)


@_forward_inplace_op.register_fake
def _(logits: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, _, _, _, outputs, _, _, loss_rows, _, _ = rest
    return fake_outputs(logits, targets, outputs, loss_rows)


@torch.library.custom_op("rlif::scale_", mutates_args=("tensor",))
def scale_(tensor: Tensor, factor: Tensor) -> None:
    """Multiply in place by a number () on the same device: a loss's upstream gradient, nearly always 1."""
    if tensor.device.type == "cpu":
        if factor != 1:
            tensor.mul_(factor)
        return
    try:
        from rlif_kernels.backends.triton import scale_unless_one
    except ImportError:
        tensor.mul_(factor)
    else:
        scale_unless_one(tensor, factor)
