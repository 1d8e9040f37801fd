"""The boundary of the library ops, whose schemas know tensors, numbers and strings, and a fixed number of outputs.

Arguments: the rows' temperature is a tensor or None and a number, the requested fields are one string, and a loss comes
as lists. Results: what was not requested, or what nobody needs, is an empty tensor. Each form has its conversion here,
both ways, and its fake, which has the shapes without the values.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlif_kernels.checks import RowArguments
from rlif_kernels.functional import DIFFERENTIABLE, shape_of
from rlif_kernels.loss_arguments import LossArguments
from rlif_kernels.loss_options import LossOptions
from rlif_kernels.loss_terms import LossRows, TokenTerms
from rlif_kernels.pair_checks import PairArguments
from rlif_kernels.pairs import PAIR_OUTPUTS, Pair
from rlif_kernels.policy_loss import GRPOLoss
from rlif_kernels.rows import STATE_ROWS, Rows
from rlif_kernels.stats import DEFAULT_OUTPUTS, FIELDS, TokenStats
from rlif_kernels.transforms import check_first_backward

# ---------------------------------------------------------------- arguments


def op_arguments(arguments: RowArguments, loss: LossArguments | None = None) -> tuple[Any, ...]:
    """What every forward op takes: targets, temperature, varying, scalar_temperature, softcap, num_columns, outputs,
    backend, group; and the ops of the losses beside: loss_rows, options, term, sequence_length.

    torch.compile traces a number that varies between calls as a variable, but for a library op it fixes each number,
    and compiles for each value anew. So `varying` has the numbers, where there is such a one: float64 on the CPU, the
    temperature, the softcap and the options in this order. The op's own numbers are then not read.
    """
    rows = arguments.rows
    temperature, scalar_temperature = rows.split_temperature
    numbers = [scalar_temperature, rows.softcap]
    if loss is not None:
        numbers += [float(number) for number in loss.options]
    varying, numbers = _varying(numbers)
    in_common = (
        rows.given_targets, temperature, varying, *numbers[:2], rows.num_columns, ",".join(arguments.outputs),
        arguments.backend, arguments.group,
    )  # fmt: skip
    if loss is None:
        return in_common
    return (*in_common, list(loss.loss_rows), numbers[2:], loss.term, loss.sequence_length)


def _varying(numbers: list[float]) -> tuple[Tensor | None, list[float]]:
    """The numbers as a tensor, and in their own place 0, where torch.compile does not know one of them."""
    if not torch.compiler.is_compiling() or all(_is_constant(number) for number in numbers):
        return None, numbers
    one = torch.ones((), dtype=torch.float64, device="cpu")
    return torch.stack([one * number for number in numbers]), [0.0] * len(numbers)


def _is_constant(number: float) -> bool:
    """Whether torch.compile has fixed the number."""
    from torch.fx.experimental.symbolic_shapes import has_static_value  # loads sympy

    return has_static_value(number)


def op_rows(
    targets: Tensor,
    temperature: Tensor | None,
    varying: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    *,
    num_dims: int | None = None,
) -> Rows:
    """Rebuild the rows within an op; `num_dims` of theirs where they may have several targets each."""
    if varying is not None:
        scalar_temperature, softcap = varying[:2].tolist()
    dims = targets.ndim if num_dims is None else num_dims
    return Rows.of(targets, dims, scalar_temperature if temperature is None else temperature, softcap, num_columns)


def requested(outputs: str) -> list[str]:
    """The fields that an op was asked for."""
    return outputs.split(",")


def op_loss(
    loss_rows: Sequence[Tensor | None], options: Sequence[float], varying: Tensor | None
) -> tuple[LossRows, LossOptions]:
    """Rebuild the loss's arguments within an op."""
    return LossRows(*loss_rows), LossOptions(*(options if varying is None else varying[2:].tolist()))  # type: ignore[arg-type]


# ---------------------------------------------------------------- the statistics, and their gradients


# As many as there are fields: a schema has a fixed number of outputs.
FieldTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def field_outputs(fields: dict[str, Tensor], source: Tensor) -> FieldTensors:
    """Return all fields in order, from flat ones, in the shape of the rows of `source` (..., anything)."""
    logprob, entropy, self_certainty, logsumexp, sum_sq_probs, top_probs, varentropy = (
        fields[name].view(source.shape[:-1] + fields[name].shape[1:])
        if name in fields
        else torch.empty(0, dtype=torch.float32, device=source.device)
        for name in FIELDS
    )
    return logprob, entropy, self_certainty, logsumexp, sum_sq_probs, top_probs, varentropy


def fake_field_outputs(source: Tensor, targets: Tensor, outputs: str) -> tuple[Tensor, ...]:
    """`field_outputs`, and the row state after it."""
    names = requested(outputs)

    rows = source.shape[:-1]

    def shape(name: str) -> tuple[int, ...]:
        own = targets.shape[len(rows) :] if name == "logprob" else shape_of(name)
        return (*rows, *own) if name in names else (0,)

    shapes = (*(shape(name) for name in FIELDS), (STATE_ROWS, rows.numel()))
    return tuple(source.new_empty(shape, dtype=torch.float32) for shape in shapes)


def ordered_tangents(tangents: dict[str, Tensor], source: Tensor) -> tuple[Tensor | None, ...]:
    """The tangents of all fields in order, from flat ones, in the shape of the rows; None where there is none."""
    return tuple(
        tangents[name].view(source.shape[:-1] + tangents[name].shape[1:]) if name in tangents else None
        for name in FIELDS
    )


def token_stats_of(values: Sequence[Tensor], outputs: Sequence[str]) -> TokenStats:
    """Return the public result from an op's outputs, which begin with the fields."""
    return TokenStats(**{name: value for name, value in zip(FIELDS, values, strict=False) if name in outputs})


def mark_differentiable(ctx: Any, outputs: str, fields: Sequence[Tensor], *others: Tensor) -> None:
    """Tell autograd which of an op's outputs carry a gradient: the requested fields that are differentiable."""
    ctx.differentiable = [name for name in requested(outputs) if name in DIFFERENTIABLE]
    ctx.mark_non_differentiable(
        *others, *(field for name, field in zip(FIELDS, fields, strict=True) if name not in ctx.differentiable)
    )
    ctx.set_materialize_grads(False)


def field_gradients(ctx: Any, names: Sequence[str], grads: Sequence[Tensor | None], op: str) -> list[Tensor | None]:
    """The upstream gradients of DIFFERENTIABLE, in order, from those of an op's first outputs, the fields named."""
    check_first_backward(op, ctx, grads)
    # Tracing may hand over gradients of zeros for outputs that are not differentiable, of empty ones too.
    given = dict(zip(names, grads, strict=False))
    return [given[name] if name in ctx.differentiable else None for name in DIFFERENTIABLE]


def present_gradients(grads: Sequence[Tensor | None], source: Tensor) -> dict[str, Tensor]:
    """The upstream gradients that there are, by field, flat, from those of DIFFERENTIABLE of the rows of `source`."""
    rows = source.shape[:-1]
    # The gradient of a sum is one number expanded, stride 0: the backends want the numbers side by side, as they are.
    named = zip(DIFFERENTIABLE, grads, strict=True)
    return {
        name: grad.resolve_neg().contiguous().view(rows.numel(), *grad.shape[len(rows) :])
        for name, grad in named
        if grad is not None
    }


# ---------------------------------------------------------------- the loss


def loss_outputs(
    fields: dict[str, Tensor], terms: TokenTerms, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the loss, three statistics, k3 and the clip flags, these in the shape of the targets."""

    def shaped(value: Tensor | None) -> Tensor:
        if value is None:
            return torch.empty(0, dtype=torch.float32, device=targets.device)
        return value.view(targets.shape)

    logprob, entropy, self_certainty = (shaped(fields.get(name)) for name in DEFAULT_OUTPUTS)
    return terms.loss.sum(), logprob, entropy, self_certainty, shaped(terms.kl), shaped(terms.clipped)


def fake_loss_outputs(
    like: Tensor, targets: Tensor, outputs: str, loss_rows: Sequence[Tensor | None], *, has_kl: bool = False
) -> tuple[Tensor, ...]:
    """`loss_outputs`."""
    names = requested(outputs)

    def number(present: bool) -> Tensor:
        return like.new_empty(targets.shape if present else (0,), dtype=torch.float32)

    return (
        like.new_empty((), dtype=torch.float32),
        *(number(name in names) for name in DEFAULT_OUTPUTS),
        number(has_kl or LossRows(*loss_rows).ref_logprob is not None),  # type: ignore[arg-type]
        like.new_empty(targets.shape, dtype=torch.bool),
    )


def grpo_loss_of(values: Sequence[Tensor], outputs: Sequence[str], has_kl: bool) -> GRPOLoss:
    """The public result from `loss_outputs`; the divergence is there if the loss had a reference."""
    loss, *stats, kl, clipped = values
    fields = {name: value for name, value in zip(DEFAULT_OUTPUTS, stats, strict=True) if name in outputs}
    return GRPOLoss(loss, kl=kl if has_kl else None, clipped=clipped, **fields)


# ---------------------------------------------------------------- the gradients of hidden states, weight and bias


def absent_as_empty(gradients: Sequence[Tensor | None], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight, bias = (like.new_empty(0) if gradient is None else gradient for gradient in gradients)
    return hidden, weight, bias


def fake_head_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """`absent_as_empty`."""
    gradients = [
        torch.empty_like(x, memory_format=torch.contiguous_format) if x is not None and need else None
        for x, need in zip((hidden, weight, bias), needs, strict=True)
    ]
    return absent_as_empty(gradients, hidden)


# ---------------------------------------------------------------- pairs of rows


def op_pair_arguments(arguments: PairArguments) -> tuple[Any, ...]:
    """What the ops of divergences take: targets, weight, temperatures, varying, numbers, kind, num_columns, outputs,
    backend, group.

    `temperatures` has the student's and the teacher's where they are tensors; `numbers` the two where they are numbers,
    the two softcaps and beta. `varying` has the same, as in `op_arguments`.
    """
    rows, teacher_rows = arguments.rows, arguments.teacher_rows
    (temperatures, temperature), (teacher_temperatures, teacher_temperature) = (
        each.split_temperature for each in (rows, teacher_rows)
    )
    numbers = [temperature, teacher_temperature, rows.softcap, teacher_rows.softcap, arguments.beta]
    varying, numbers = _varying(numbers)
    return (
        rows.targets, arguments.weight, [temperatures, teacher_temperatures], varying, numbers, arguments.kind,
        rows.num_columns, ",".join(arguments.outputs), arguments.backend, arguments.group,
    )  # fmt: skip


def op_pair(
    logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    weight: Tensor,
    temperatures: Sequence[Tensor | None],
    varying: Tensor | None,
    numbers: Sequence[float],
    kind: str,
    num_columns: int,
    outputs: str,
) -> Pair:
    """Rebuild the pairs of rows within an op."""
    if varying is not None:
        numbers = varying.tolist()
    *both, softcap, teacher_softcap, beta = numbers
    student, teacher = (number if tensor is None else tensor for number, tensor in zip(both, temperatures, strict=True))
    rows, teacher_rows = (
        Rows(targets, temperature, cap, num_columns)
        for temperature, cap in ((student, softcap), (teacher, teacher_softcap))
    )
    return Pair(logits, teacher_logits, rows, teacher_rows, kind, beta, weight, tuple(outputs.split(",")))


def pair_outputs(values: dict[str, Tensor], pair: Pair) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The loss, and all of PAIR_OUTPUTS in order, those requested in the shape of the targets."""
    targets = pair.rows.targets
    loss = (values["value"] * pair.weight).sum()
    value, entropy, teacher_entropy, cross_entropy, teacher_cross_entropy = (
        values[name].view(targets.shape) if name in pair.outputs else loss.new_empty(0) for name in PAIR_OUTPUTS
    )
    return loss, value, entropy, teacher_entropy, cross_entropy, teacher_cross_entropy


def fake_pair_outputs(like: Tensor, targets: Tensor, outputs: str) -> tuple[Tensor, ...]:
    """`pair_outputs`."""
    shapes = [(), *(targets.shape if name in outputs.split(",") else (0,) for name in PAIR_OUTPUTS)]
    return tuple(like.new_empty(shape, dtype=torch.float32) for shape in shapes)
