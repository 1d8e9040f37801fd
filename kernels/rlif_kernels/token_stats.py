"""`token_stats`: the public function, the library ops and their autograd formula.

Read `reference.token_stats` for the definition and `stats.TokenStats` for the gradients. Three backends compute it,
`triton_token_stats` (fused GPU kernels), `cpu_token_stats` (C) and `torch_token_stats` (row blocks in cache); each has

- ``forward(logits, targets, temperature, softcap, num_columns, outputs) -> (fields, row_state)``
- ``backward(grad_logits, grads, logits, targets, temperature, softcap, num_columns, row_state) -> None``
- ``row_maximum(row_state, temperature) -> Tensor``, for rows that are sharded

where `row_state` (STATE_ROWS, N) float32 holds what lets the backward skip every reduction; its rows are the backend's
own affair.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlif_kernels import cpu_token_stats, torch_token_stats
from rlif_kernels.arguments import check_arguments, check_inplace, check_vocab_size
from rlif_kernels.stats import DEFAULT_OUTPUTS, FIELDS, IGNORE_INDEX, STATE_ROWS, TokenStats

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
            are those of the whole rows, the same on every rank. One all-gather of ten numbers per row in the forward,
            none in the backward, which expects the same upstream gradient on every rank.
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
    check_arguments(logits, targets, temperature, mask, vocab_size, softcap, outputs, backend)
    if inplace_backward:
        check_inplace(logits)
    targets = targets.long().contiguous()
    if mask is not None:
        targets = targets.masked_fill(~mask, IGNORE_INDEX).contiguous()
    row_temperature, scalar_temperature = None, 1.0
    if isinstance(temperature, Tensor):
        row_temperature = temperature.detach().float().contiguous()
    else:
        scalar_temperature = float(temperature)
    if group is not None:
        from rlif_kernels.vocab_parallel import VocabParallelTokenStats  # torch.distributed may be absent

        fields = VocabParallelTokenStats.apply(
            logits,
            targets,
            scalar_temperature if row_temperature is None else row_temperature,
            softcap or 0.0,
            vocab_size,
            [name for name in FIELDS if name in outputs],
            inplace_backward,
            _backend_for(backend or "auto", logits),
            group,
        )
        return TokenStats(*fields)
    values = _forward_op(
        logits,
        targets,
        row_temperature,
        scalar_temperature,
        0.0 if softcap is None else float(softcap),
        check_vocab_size(vocab_size, logits.shape[-1]),
        ",".join(name for name in FIELDS if name in outputs),
        inplace_backward,
        backend or "auto",
    )
    return TokenStats(**{name: value for name, value in zip(FIELDS, values, strict=False) if name in outputs})


def _backend_for(name: str, logits: Tensor) -> ModuleType:
    """The module that computes: the one named, or for "auto" Triton on GPUs, elsewhere C if it can be had, or torch.

    The choice does not depend on the shape, so that a row has the same bits in any batch. Called inside the library
    ops, where a tracer does not look.
    """
    if name == "auto":
        on_gpu = logits.device.type in ("cuda", "xpu")
        name = "triton" if on_gpu else "cpu" if cpu_token_stats.serves(logits) else "torch"
    if name == "torch":
        return torch_token_stats
    if name == "cpu":
        if not cpu_token_stats.serves(logits):
            raise ValueError(
                f'backend is "cpu" and logits is {logits.dtype} on {logits.device}; expected float32 or bfloat16 on a '
                "CPU, and a C compiler to be there"
            )
        return cpu_token_stats
    try:
        # Imported on first use only: `import rlif_kernels` must work where Triton is not installed.
        from rlif_kernels import triton_token_stats
    except ImportError as error:
        raise ImportError('backend="triton" needs the triton package, which could not be imported') from error
    return triton_token_stats


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
    inplace_backward: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    fields, row_state = _backend_for(backend, logits).forward(
        logits,
        targets,
        scalar_temperature if temperature is None else temperature,
        softcap,
        num_columns,
        outputs.split(","),
    )
    absent = logits.new_empty(0, dtype=torch.float32)
    shaped = [
        fields[name].view(targets.shape + fields[name].shape[1:]) if name in fields else absent.clone()
        for name in FIELDS
    ]
    return (*shaped, row_state)


@_forward_op.register_fake
def _(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    outputs: str,
    inplace_backward: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    requested = outputs.split(",")

    def shape(name: str) -> tuple[int, ...]:
        return (0,) if name not in requested else (*targets.shape, 2) if name == "top_probs" else tuple(targets.shape)

    shapes = [*(shape(name) for name in FIELDS), (STATE_ROWS, targets.numel())]
    return tuple(logits.new_empty(shape, dtype=torch.float32) for shape in shapes)


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
) -> Tensor:
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    _backward_into(
        grad_logits, grads, logits, targets, temperature, scalar_temperature, softcap, num_columns, row_state, backend
    )
    return grad_logits


@_backward_op.register_fake
def _(
    grads: Sequence[Tensor | None],
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    row_state: Tensor,
    backend: str,
) -> Tensor:
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
) -> None:
    _backward_into(
        logits, grads, logits, targets, temperature, scalar_temperature, softcap, num_columns, row_state, backend
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
) -> None:
    # The gradient of a sum is one number expanded, stride 0: the backends want the numbers side by side.
    differentiable = FIELDS[: len(grads)]
    present = {
        name: grad.contiguous().view(-1) for name, grad in zip(differentiable, grads, strict=True) if grad is not None
    }
    _backend_for(backend, logits).backward(
        grad_logits,
        present,
        logits,
        targets,
        scalar_temperature if temperature is None else temperature,
        softcap,
        num_columns,
        row_state,
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, temperature, *options, outputs, inplace_backward, backend = inputs
    *fields, row_state = output
    ctx.save_for_backward(logits, targets, temperature, row_state)
    ctx.differentiable = [name for name in outputs.split(",") if name != "top_probs"]
    ctx.mark_non_differentiable(
        row_state, *(field for name, field in zip(FIELDS, fields, strict=True) if name not in ctx.differentiable)
    )
    ctx.set_materialize_grads(False)
    ctx.options, ctx.inplace_backward, ctx.backend = options, inplace_backward, backend


def _autograd_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        # Some of a second derivative would silently be missing.
        raise RuntimeError("token_stats has no second derivative: backward was called with create_graph=True")
    no_grads = (None,) * 8  # of everything but the logits
    # Tracing may hand over gradients of zeros for outputs that are not differentiable, of empty ones too.
    field_grads = [
        grad if name in ctx.differentiable else None
        for name, grad in zip(FIELDS[:-1], grads[: len(FIELDS) - 1], strict=True)
    ]
    if all(grad is None for grad in field_grads):
        return None, *no_grads
    logits, targets, temperature, row_state = ctx.saved_tensors
    arguments = (field_grads, logits, targets, temperature, *ctx.options, row_state, ctx.backend)
    if ctx.inplace_backward:
        _backward_inplace_op(*arguments)
        return logits, *no_grads
    return _backward_op(*arguments), *no_grads


torch.library.register_autograd("rlif::token_stats", _autograd_backward, setup_context=_setup_context)
