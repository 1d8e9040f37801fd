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
from rlif_kernels.functional import DIFFERENTIABLE, OP_FIELDS, dtype_of, op_fields, shape_of
from rlif_kernels.loss_arguments import LossArguments
from rlif_kernels.loss_options import LossOptions
from rlif_kernels.loss_terms import LossRows, TokenTerms
from rlif_kernels.pair_checks import PairArguments
from rlif_kernels.pairs import PAIR_OUTPUTS, Pair
from rlif_kernels.policy_loss import GRPOLoss
from rlif_kernels.rows import PER_TARGET, STATE_ROWS, Rows
from rlif_kernels.stats import DEFAULT_OUTPUTS, IGNORE_INDEX, TokenStats
from rlif_kernels.top_logprobs import entropy_topk, mass_topk
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
        rows.given_targets, temperature, varying, *numbers[:2], rows.num_columns, op_outputs(arguments.outputs),
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
    top: int = 0,
) -> Rows:
    """Rebuild the rows within an op; `num_dims` of theirs where they may have several targets each."""
    if varying is not None:
        scalar_temperature, softcap = varying[:2].tolist()
    dims = targets.ndim if num_dims is None else num_dims
    return Rows.of(targets, dims, scalar_temperature if temperature is None else temperature, softcap, num_columns, top)


def requested(outputs: str) -> list[str]:
    """The fields that an op was asked for."""
    return outputs.split(",")


def op_loss(
    loss_rows: Sequence[Tensor | None], options: Sequence[float], varying: Tensor | None
) -> tuple[LossRows, LossOptions]:
    """Rebuild the loss's arguments within an op."""
    return LossRows(*loss_rows), LossOptions(*(options if varying is None else varying[2:].tolist()))  # type: ignore[arg-type]


# ---------------------------------------------------------------- the statistics, and their gradients


# As many as there are OP_FIELDS: a schema has a fixed number of outputs.
FieldTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def field_outputs(fields: dict[str, Tensor], source: Tensor) -> FieldTensors:
    """Return all OP_FIELDS in order, from flat ones, in the shape of the rows of `source` (..., anything)."""
    (
        logprob, entropy, self_certainty, logsumexp, sum_sq_probs, top_probs, varentropy, argmax, target_rank, top_ids,
        top_logprobs,
    ) = (
        shaped_like_rows(fields[name], source)
        if name in fields
        else torch.empty(0, dtype=dtype_of(name), device=source.device)
        for name in OP_FIELDS
    )  # fmt: skip
    return (
        logprob, entropy, self_certainty, logsumexp, sum_sq_probs, top_probs, varentropy, argmax, target_rank, top_ids,
        top_logprobs,
    )  # fmt: skip


def shaped_like_rows(flat: Tensor, source: Tensor) -> Tensor:
    """Numbers (N, ...) in the shape of the rows of `source` (..., anything)."""
    return flat.view(source.shape[:-1] + flat.shape[1:])


def top_columns_output(fields: dict[str, Tensor], source: Tensor) -> Tensor:
    """The op's output from which a backward knows the k largest columns: (..., k) int64, or empty."""
    if "top_columns" not in fields:
        return torch.empty(0, dtype=torch.int64, device=source.device)
    return shaped_like_rows(fields["top_columns"], source)


def fake_field_outputs(source: Tensor, targets: Tensor, outputs: str, top: int) -> tuple[Tensor, ...]:
    """`field_outputs`, after them the row state and `top_columns_output`."""
    names = requested(outputs)
    rows = source.shape[:-1]

    def fake(name: str) -> Tensor:
        own = targets.shape[len(rows) :] if name in PER_TARGET else shape_of(name, top)
        return source.new_empty((*rows, *own) if name in names else (0,), dtype=dtype_of(name))

    row_state = source.new_empty((STATE_ROWS, rows.numel()), dtype=torch.float32)
    top_columns = source.new_empty((*rows, top) if "top_logprobs" in names else (0,), dtype=torch.int64)
    return *(fake(name) for name in OP_FIELDS), row_state, top_columns


def ordered_tangents(tangents: dict[str, Tensor], source: Tensor) -> tuple[Tensor | None, ...]:
    """The tangents of all OP_FIELDS in order, from flat ones, in the shape of the rows; None where there is none."""
    return tuple(shaped_like_rows(tangents[name], source) if name in tangents else None for name in OP_FIELDS)


def op_outputs(outputs: Sequence[str]) -> str:
    """The requested fields as an op is told of them: those of OP_FIELDS that they need."""
    return ",".join(op_fields(outputs))


def token_stats_of(values: Sequence[Tensor], names: Sequence[str], arguments: RowArguments) -> TokenStats:
    """Return the public result from an op's outputs, which begin with the fields named."""
    found = dict(zip(names, values, strict=False))
    for name, of_top in (("entropy_topk", entropy_topk), ("mass_topk", mass_topk)):
        if name in arguments.outputs:
            found[name] = of_top(found["top_logprobs"]).where(arguments.rows.targets != IGNORE_INDEX, 0)
    return TokenStats(**{name: found[name] for name in arguments.outputs})


def mark_differentiable(ctx: Any, outputs: str, fields: Sequence[Tensor], *others: Tensor) -> None:
    """Tell autograd which of an op's outputs carry a gradient: the requested fields that are differentiable."""
    ctx.differentiable = [name for name in requested(outputs) if name in (*DIFFERENTIABLE, "top_logprobs")]
    ctx.mark_non_differentiable(
        *others, *(field for name, field in zip(OP_FIELDS, fields, strict=True) if name not in ctx.differentiable)
    )
    ctx.set_materialize_grads(False)


def field_gradients(
    ctx: Any,
    names: Sequence[str],
    grads: Sequence[Tensor | None],
    op: str,
    targets: Tensor,
    top_columns: Tensor | None,
) -> tuple[list[Tensor | None], Tensor]:
    """The upstream gradients of DIFFERENTIABLE, in order, from those of an op's first outputs, the fields named.

    Returns:
        the gradients, and the targets that those of `logprob` are of: where `top_logprobs` has one, the k largest
        columns (..., k) are targets of their rows too.
    """
    check_first_backward(op, ctx, grads)
    # Tracing may hand over gradients of zeros for outputs that are not differentiable, of empty ones too.
    named = zip(names, grads, strict=False)
    given = {name: grad for name, grad in named if name in ctx.differentiable and grad is not None}
    of_top = given.pop("top_logprobs", None)
    if of_top is not None:
        assert top_columns is not None
        if targets.ndim < top_columns.ndim:
            targets = targets[..., None]
            given |= {"logprob": given["logprob"][..., None]} if "logprob" in given else {}
        own = given.get("logprob", of_top.new_zeros(targets.shape))
        counts = (targets != IGNORE_INDEX).any(-1, keepdim=True)
        targets = torch.cat([targets, top_columns.where(counts, IGNORE_INDEX)], -1)
        given["logprob"] = torch.cat([own, of_top], -1)
    return [given.get(name) for name in DIFFERENTIABLE], targets


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
