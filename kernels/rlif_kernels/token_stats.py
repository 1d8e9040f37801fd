"""`token_stats`: the public function, the library ops and their autograd formula.

Read `reference.token_stats` for the definition and `stats.TokenStats` for the gradients; `backends` computes it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from rlif_kernels.backends import backend_for, choices, local_backend, vocab_parallel
from rlif_kernels.backends.tangents import field_tangents
from rlif_kernels.checks import check_inplace, check_logits, row_arguments
from rlif_kernels.dtensors import takes_dtensors
from rlif_kernels.functional import DIFFERENTIABLE, OP_FIELDS, op_fields
from rlif_kernels.op_names import op_name
from rlif_kernels.op_values import (
    fake_field_outputs,
    field_gradients,
    field_outputs,
    mark_differentiable,
    op_arguments,
    op_rows,
    ordered_tangents,
    present_gradients,
    requested,
    shaped_like_rows,
    token_stats_of,
    top_columns_output,
)
from rlif_kernels.rows import Rows
from rlif_kernels.stats import DEFAULT_OUTPUTS, TokenStats
from rlif_kernels.transforms import apply_uncompiled, first_derivative, refuse_vmap, transformed, watched

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@takes_dtensors
def token_stats(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    vocab_size: int | None = None,
    softcap: float | None = None,
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS,
    top_logprobs: int | None = None,
    inplace_backward: bool = False,
    group: "ProcessGroup | None" = None,
    backend: str | None = None,
) -> TokenStats:
    """Log-probability, entropy, self-certainty and more of each row of logits, differentiable, in one pass.

    Args:
        logits: (..., V) float32, bfloat16 or float16. The last dimension is contiguous; any other strides will do,
            and nothing is copied.
        targets: (...) integer ids of the chosen tokens. A row whose target is -100 is masked. Or (..., K), K ids for
            each row: `logprob` is then (..., K), from the same one read and a look at K columns, and `target_rank`,
            from K more looks at a row. An id may be there twice, one of -100 is left out (0), and a row of nothing else
            is masked.
        temperature: the logits are divided by it: a positive number, also numpy's or a tensor of one, or a tensor of
            the rows' shape. It is a constant (no gradient).
        mask: (...) bool. A False row is not read; its outputs and its gradient are 0.
        vocab_size: the number of real columns when the head is padded; the rest is never read and gets gradient 0.
        softcap: if given, ``softcap * tanh(logits / softcap)`` comes before the temperature.
        outputs: the fields to compute, of `TokenStats`; the others cost nothing and are None.
        top_logprobs: k from 1 to 64: compute `top_ids` and `top_logprobs` too, of the k largest columns, which
            `entropy_topk` and `mass_topk` are then of as well. They take one more look at the parts of a row that can
            have one of these, from the cache. None: no more than `outputs` asks for, with k = 20.
        inplace_backward: write the gradient into the logits' own storage, which destroys the logits. Refused where
            that would corrupt another result: see Raises.
        group: a torch.distributed group over which the vocabulary is sharded, in the order of its ranks: `logits` is
            this rank's slice of the columns (slices may differ in size), while `targets`, `vocab_size` and the results
            are those of the whole rows, the same on every rank. One all-gather of a few numbers per row in the
            forward (eight for the default fields), none in the backward, which expects the same upstream gradient on
            every rank. Logits that are a DTensor say so themselves, and so are the results then:
            `backends.sharded.dtensors` has the placements.
        backend: "triton", "cpu" (C, compiled on first use) or "torch"; None picks "triton" on GPUs, elsewhere "cpu"
            where there is a C compiler and "torch" where there is none.

    Returns:
        `TokenStats`, each requested field shaped like the rows, `logprob` and `target_rank` like `targets`; dtypes,
        gradients, ties and edges are documented there.

    Columns of -inf are outside the support (probability and gradient 0, not counted in V); a row with NaN or +inf,
    or with nothing but -inf, gives NaN in that row alone.

    Raises:
        ValueError: shapes or devices that do not match, a last dimension that is not contiguous, V = 0, a
            temperature or softcap that is not positive, an unknown output or backend, `top_logprobs` out of range,
            `inplace_backward` on logits that share memory among their elements or are a leaf that requires grad.
        TypeError: dtypes other than those above.
        IndexError: on a CPU, a target outside ``[0, vocab_size)``. On a GPU such a row gets a NaN log-probability
            and gradient instead, since raising would need a device synchronisation. Likewise a row whose own
            temperature is not positive is a ValueError on a CPU and NaN on a GPU.
        RuntimeError: on a second derivative, which is not implemented, and under torch.func.vmap. Autograd raises it
            if the logits changed between forward and backward: on a second backward through `inplace_backward`, and in
            the backward of another op that needs the logits it destroyed.

    Forward-mode AD (`torch.func.jvp`, dual numbers) takes one more pass, in float64 and block by block of rows;
    `torch.func.grad` and `torch.func.vjp` work too, and under torch.compile all of these run uncompiled.
    """
    check_logits(logits)
    arguments = row_arguments(
        logits, "logits", logits.shape[-1], targets, temperature, mask, vocab_size, softcap, outputs, backend, group,
        several_targets=True, top_logprobs=top_logprobs,
    )  # fmt: skip
    if inplace_backward:
        check_inplace(logits)
    common = op_arguments(arguments)
    top = arguments.rows.top
    if not watched(logits):
        values = _Eager.apply(logits, common, inplace_backward, top)
        return token_stats_of(values, op_fields(arguments.outputs), arguments)
    if transformed():
        values = apply_uncompiled(_Transformed, logits, *common, inplace_backward, top)
    else:
        values = _forward_op(logits, *common, inplace_backward, top)
    return token_stats_of(values, OP_FIELDS, arguments)


# ---------------------------------------------------------------- library ops
#
# The outputs of the forward op are the fields in the order of OP_FIELDS, then the row state, then the k largest columns
# as targets.


@torch.library.custom_op(op_name("token_stats"), mutates_args=())
def _forward_op(
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
    inplace_backward: bool,
    top: int,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]:  # fmt: skip
    numbers = (scalar_temperature, softcap, num_columns)
    rows = op_rows(targets, temperature, varying, *numbers, num_dims=logits.ndim - 1, top=top)
    local = local_backend(backend, logits)
    fields, row_state = choices.forward(local, vocab_parallel(local, group), logits, rows, requested(outputs))
    return (*field_outputs(fields, logits), row_state, top_columns_output(fields, logits))


@_forward_op.register_fake
def _(logits: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return fake_field_outputs(logits, targets, outputs=rest[5], top=rest[9])


def _write_gradient(
    grad_logits: Tensor,
    grads: dict[str, Tensor],
    logits: Tensor,
    rows: Rows,
    row_state: Tensor,
    backend: str,
    group: str,
) -> None:
    if rows.choices is None:
        backend_for(backend, logits, group).backward(grad_logits, grads, logits, rows, row_state)
    else:  # of a slice or of whole rows: neither needs an exchange
        choices.backward_slice(local_backend(backend, logits), grad_logits, grads, logits, rows, row_state)


def _backward(
    grads: Sequence[Tensor | None],
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    varying: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    row_state: Tensor,
    backend: str,
    group: str,
) -> Tensor:
    rows = op_rows(targets, temperature, varying, scalar_temperature, softcap, num_columns, num_dims=logits.ndim - 1)
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    _write_gradient(grad_logits, present_gradients(grads, logits), logits, rows, row_state, backend, group)
    return grad_logits


_backward_op = torch.library.custom_op(op_name("token_stats_backward"), _backward, mutates_args=())


@_backward_op.register_fake
def _(grads: Sequence[Tensor | None], logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _backward_inplace(
    grads: Sequence[Tensor | None],
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    varying: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    row_state: Tensor,
    backend: str,
    group: str,
) -> None:
    rows = op_rows(targets, temperature, varying, scalar_temperature, softcap, num_columns, num_dims=logits.ndim - 1)
    _write_gradient(logits, present_gradients(grads, logits), logits, rows, row_state, backend, group)


_backward_inplace_op = torch.library.custom_op(
    op_name("token_stats_backward_"), _backward_inplace, mutates_args=("logits",)
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, temperature, varying, *options, outputs, backend, group, inplace_backward, _ = inputs
    *fields, row_state, top_columns = output
    ctx.save_for_backward(logits, targets, temperature, varying, row_state, top_columns)
    mark_differentiable(ctx, outputs, fields, row_state, top_columns)
    ctx.options, ctx.inplace_backward, ctx.where = options, inplace_backward, (backend, group)


def _autograd_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    no_grads = (None,) * 11  # of everything but the logits
    return _gradient(ctx, OP_FIELDS, grads), *no_grads


def _gradient(ctx: Any, names: Sequence[str], grads: Sequence[Tensor | None], eager: bool = False) -> Tensor | None:
    logits, targets, *constants, row_state, top_columns = ctx.saved_tensors
    field_grads, targets = field_gradients(ctx, names, grads, "token_stats", targets, top_columns)
    if all(grad is None for grad in field_grads):
        return None
    constants = [targets, *constants]
    arguments = (field_grads, logits, *constants, *ctx.options, row_state, *ctx.where)
    if eager and not watched(logits):
        if not ctx.inplace_backward:
            return _backward(*arguments)
        _backward_inplace(*arguments)
        torch.autograd.graph.increment_version(logits)
        return logits
    if ctx.inplace_backward and not transformed():
        _backward_inplace_op(*arguments)
        return logits

    def gradient(*saved: Tensor) -> Tensor:
        *grads, logits, targets, temperature, varying, row_state = saved
        return _backward_op(grads, logits, targets, temperature, varying, *ctx.options, row_state, *ctx.where)

    saved = (*field_grads, logits, *constants, row_state)
    gradient_: Tensor = first_derivative("token_stats", gradient, (logits,), *saved)
    return gradient_


torch.library.register_autograd(op_name("token_stats"), _autograd_backward, setup_context=_setup_context)


def _shaped(flat: Tensor, shape: torch.Size) -> Tensor:
    """A backend's new tensor in another shape: no view, because autograd lets nobody write to a Function's views."""
    return flat.contiguous().resize_(shape + flat.shape[1:])


class _Eager(torch.autograd.Function):
    """The op where nothing watches: its outputs are the requested fields, and no other."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, common: tuple[Any, ...], inplace_backward: bool, top: int
    ) -> tuple[Tensor, ...]:
        targets, temperature, varying, *options, outputs, backend, group = common
        rows = op_rows(targets, temperature, varying, *options, num_dims=logits.ndim - 1, top=top)
        names = requested(outputs)
        local = local_backend(backend, logits)
        flat, row_state = choices.forward(local, vocab_parallel(local, group), logits, rows, names)
        fields = {name: _shaped(flat[name], logits.shape[:-1]) for name in names}
        top_columns = shaped_like_rows(flat["top_columns"], logits) if "top_columns" in flat else None
        ctx.save_for_backward(logits, targets, temperature, varying, row_state, top_columns)
        ctx.names = names
        ctx.differentiable = [name for name in names if name in (*DIFFERENTIABLE, "top_logprobs")]
        ctx.mark_non_differentiable(*(value for name, value in fields.items() if name not in ctx.differentiable))
        ctx.set_materialize_grads(False)
        ctx.options, ctx.inplace_backward, ctx.where = options, inplace_backward, (backend, group)
        return tuple(fields.values())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradient(ctx, ctx.names, grads, eager=True), None, None, None


class _Transformed(torch.autograd.Function):
    """The op under torch.func and forward-mode AD, which library ops have no formulas for."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return _forward_op(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _setup_context(ctx, inputs, output)
        ctx.in_transform = True
        ctx.save_for_forward(*inputs[:4], output[-1])
        ctx.arguments = inputs[4:-2]

    backward = staticmethod(_autograd_backward)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        values = first_derivative("token_stats", _tangents, tensors[:1], tangent, *tensors, ctx.arguments)
        return *values, None, None

    @staticmethod
    def vmap(*_: Any) -> NoReturn:
        refuse_vmap("token_stats")


def _tangents(
    tangent: Tensor,
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    varying: Tensor | None,
    top_columns: Tensor,
    arguments: tuple[Any, ...],
) -> tuple[Tensor | None, ...]:
    """The tangents of the fields."""
    *numbers, outputs, backend, group = arguments
    rows = op_rows(targets, temperature, varying, *numbers, num_dims=logits.ndim - 1)
    ranks = vocab_parallel(local_backend(backend, logits), group)
    columns = top_columns.view(rows.num_rows, top_columns.shape[-1]) if "top_logprobs" in requested(outputs) else None
    return ordered_tangents(field_tangents(tangent, logits, rows, requested(outputs), ranks, columns), logits)
