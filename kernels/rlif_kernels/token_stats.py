"""`token_stats`: the public function, the library ops and their autograd formula.

Read `reference.token_stats` for the definition and `stats.TokenStats` for the gradients; `backends` names the modules
that compute it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlif_kernels.backends import backend_for
from rlif_kernels.checks import check_inplace, check_logits, row_arguments
from rlif_kernels.stats import DEFAULT_OUTPUTS, FIELDS, STATE_ROWS, TokenStats

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def token_stats(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    vocab_size: int | None = None,
    softcap: float | None = None,
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS,
    inplace_backward: bool = False,
    group: "ProcessGroup | None" = None,
    backend: str | None = None,
) -> TokenStats:
    """Log-probability, entropy, self-certainty and more of each row of logits, differentiable, in one pass.

    Args:
        logits: (..., V) float32, bfloat16 or float16. The last dimension is contiguous; any other strides will do,
            and nothing is copied.
        targets: (...) integer ids of the chosen tokens. A row whose target is -100 is masked.
        temperature: the logits are divided by it: a positive float, or a tensor of the targets' shape, which is
            treated as a constant (no gradient).
        mask: (...) bool. A False row is not read; its outputs and its gradient are 0.
        vocab_size: the number of real columns when the head is padded; the rest is never read and gets gradient 0.
        softcap: if given, ``softcap * tanh(logits / softcap)`` comes before the temperature.
        outputs: the fields to compute, of `TokenStats`; the others cost nothing and are None.
        inplace_backward: write the gradient into the logits' own storage, which destroys the logits. Refused where
            that would corrupt another result: see Raises.
        group: a torch.distributed group over which the vocabulary is sharded, in the order of its ranks: `logits` is
            this rank's slice of the columns (slices may differ in size), while `targets`, `vocab_size` and the results
            are those of the whole rows, the same on every rank. One all-gather of eleven numbers per row in the
            forward, none in the backward, which expects the same upstream gradient on every rank.
        backend: "triton", "cpu" (C, compiled on first use) or "torch"; None picks "triton" on GPUs, elsewhere "cpu"
            where there is a C compiler and "torch" where there is none.

    Returns:
        `TokenStats`, float32, each requested field shaped like `targets`; the gradients are documented there.

    Columns of -inf are outside the support (probability and gradient 0, not counted in V); a row with NaN or +inf,
    or with nothing but -inf, gives NaN in that row alone.

    Raises:
        ValueError: shapes or devices that do not match, a last dimension that is not contiguous, V = 0, a
            temperature or softcap that is not positive, an unknown output or backend, `inplace_backward` on logits
            that share memory among their elements or are a leaf that requires grad.
        TypeError: dtypes other than those above.
        IndexError: on a CPU, a target outside ``[0, vocab_size)``. On a GPU such a row gets a NaN log-probability
            and gradient instead, since raising would need a device synchronisation.
        RuntimeError: on a second derivative, of which there is none; from autograd, if the logits changed between
            forward and backward; so too on a second backward through `inplace_backward`, and in another op's backward
            that needs the logits it destroyed.
    """
    check_logits(logits)
    rows, _ = row_arguments(
        logits, "logits", logits.shape[-1], targets, temperature, mask, vocab_size, softcap, outputs, backend, group
    )
    if inplace_backward:
        check_inplace(logits)
    values = _forward_op(logits, *rows, inplace_backward)
    return requested_fields(values, rows.outputs)


def requested_fields(values: Sequence[Tensor], outputs: str) -> TokenStats:
    """The fields among an op's outputs, which hold an empty tensor for each that was not requested."""
    names = outputs.split(",")
    return TokenStats(**{name: value for name, value in zip(FIELDS, values, strict=False) if name in names})


# ---------------------------------------------------------------- library ops
#
# The outputs of the forward op are the fields in the order of FIELDS, then the row state. The schema of an op has a
# fixed number of outputs, so a field that was not requested is an empty tensor; nor has it lists of strings.


@torch.library.custom_op("rlif::token_stats", mutates_args=())
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
    inplace_backward: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    fields, row_state = backend_for(backend, logits, group).forward(
        logits,
        targets,
        scalar_temperature if temperature is None else temperature,
        softcap,
        num_columns,
        outputs.split(","),
    )
    return (*shaped_fields(fields, targets), row_state)


def shaped_fields(fields: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All fields in order, from flat ones, in the shape of the targets; empty where not requested."""
    logprob, entropy, self_certainty, logsumexp, sum_sq_probs, top_probs = (
        fields[name].view(targets.shape + fields[name].shape[1:])
        if name in fields
        else torch.empty(0, dtype=torch.float32, device=targets.device)
        for name in FIELDS
    )
    return logprob, entropy, self_certainty, logsumexp, sum_sq_probs, top_probs


def fake_fields(like: Tensor, targets: Tensor, outputs: str) -> tuple[Tensor, ...]:
    """What `shaped_fields` returns, without values."""
    requested = outputs.split(",")

    def shape(name: str) -> tuple[int, ...]:
        return (0,) if name not in requested else (*targets.shape, 2) if name == "top_probs" else tuple(targets.shape)

    return tuple(like.new_empty(shape(name), dtype=torch.float32) for name in FIELDS)


@_forward_op.register_fake
def _(logits: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    row_state = logits.new_empty((STATE_ROWS, targets.numel()), dtype=torch.float32)
    return (*fake_fields(logits, targets, rest[4]), row_state)


@torch.library.custom_op("rlif::token_stats_backward", mutates_args=())
def _backward_op(
    grads: Sequence[Tensor | None],
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    row_state: Tensor,
    backend: str,
    group: str,
) -> Tensor:
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    _backward_into(
        grad_logits, grads, logits, targets, temperature, scalar_temperature, softcap, num_columns, row_state, backend,
        group,
    )  # fmt: skip
    return grad_logits


@_backward_op.register_fake
def _(grads: Sequence[Tensor | None], logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@torch.library.custom_op("rlif::token_stats_backward_", mutates_args=("logits",))
def _backward_inplace_op(
    grads: Sequence[Tensor | None],
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    row_state: Tensor,
    backend: str,
    group: str,
) -> None:
    _backward_into(
        logits, grads, logits, targets, temperature, scalar_temperature, softcap, num_columns, row_state, backend, group
    )


def _backward_into(
    grad_logits: Tensor,
    grads: Sequence[Tensor | None],
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    row_state: Tensor,
    backend: str,
    group: str,
) -> None:
    backend_for(backend, logits, group).backward(
        grad_logits,
        present_gradients(grads),
        logits,
        targets,
        scalar_temperature if temperature is None else temperature,
        softcap,
        num_columns,
        row_state,
    )


def present_gradients(grads: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """The upstream gradients that there are, by field, flat."""
    # The gradient of a sum is one number expanded, stride 0: the backends want the numbers side by side.
    named = zip(FIELDS[: len(grads)], grads, strict=True)
    return {name: grad.contiguous().view(-1) for name, grad in named if grad is not None}


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, temperature, *options, outputs, backend, group, inplace_backward = inputs
    *fields, row_state = output
    ctx.save_for_backward(logits, targets, temperature, row_state)
    mark_differentiable(ctx, outputs, fields, row_state)
    ctx.options, ctx.inplace_backward, ctx.where = options, inplace_backward, (backend, group)


def mark_differentiable(ctx: Any, outputs: str, fields: Sequence[Tensor], *others: Tensor) -> None:
    """Tell autograd which of an op's outputs carry a gradient: the requested fields, but for `top_probs`."""
    ctx.differentiable = [name for name in outputs.split(",") if name != "top_probs"]
    ctx.mark_non_differentiable(
        *others, *(field for name, field in zip(FIELDS, fields, strict=True) if name not in ctx.differentiable)
    )
    ctx.set_materialize_grads(False)


def field_gradients(ctx: Any, grads: Sequence[Tensor | None], op: str) -> list[Tensor | None]:
    """The upstream gradients of the fields that are differentiable, in order."""
    if torch.is_grad_enabled():
        # Some of a second derivative would silently be missing.
        raise RuntimeError(f"{op} has no second derivative: backward was called with create_graph=True")
    # Tracing may hand over gradients of zeros for outputs that are not differentiable, of empty ones too.
    named = zip(FIELDS[:-1], grads[: len(FIELDS) - 1], strict=True)
    return [grad if name in ctx.differentiable else None for name, grad in named]


def _autograd_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    no_grads = (None,) * 9  # of everything but the logits
    field_grads = field_gradients(ctx, grads, "token_stats")
    if all(grad is None for grad in field_grads):
        return None, *no_grads
    logits, targets, temperature, row_state = ctx.saved_tensors
    arguments = (field_grads, logits, targets, temperature, *ctx.options, row_state, *ctx.where)
    if ctx.inplace_backward:
        _backward_inplace_op(*arguments)
        return logits, *no_grads
    return _backward_op(*arguments), *no_grads


torch.library.register_autograd("rlif::token_stats", _autograd_backward, setup_context=_setup_context)
