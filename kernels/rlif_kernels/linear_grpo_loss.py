"""`linear_grpo_loss`: the policy loss from hidden states and the head, with three matrix products instead of four.

Each tile of whole rows of logits is computed, overwritten with its gradient, and multiplied into the gradients of the
hidden states and of the weight before the next tile takes its memory. Autograd would compute the logits a second time,
or keep all of them. With ``kl="full"`` the tile has the reference's logits of its rows too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from rlif_kernels import kl_penalty
from rlif_kernels.checks import check_head, check_logits_dtype, check_tile_bytes, row_arguments
from rlif_kernels.dtensors import takes_dtensors
from rlif_kernels.grpo_loss import loss_of_stats, tangent_of_loss
from rlif_kernels.head import head
from rlif_kernels.head.pairs import HeadTensors, TeacherTensors, as_linear_layers, pair_of_heads
from rlif_kernels.head.tangents import head_tangents
from rlif_kernels.head.tiles import DEFAULT_TILE_BYTES, HiddenRows, active_rows
from rlif_kernels.linear_divergence import linear_divergence
from rlif_kernels.linear_token_stats import linear_token_stats
from rlif_kernels.loss_arguments import loss_arguments
from rlif_kernels.loss_functions import head_loss_functions
from rlif_kernels.loss_options import LossVariant
from rlif_kernels.loss_tiles import loss_and_gradients
from rlif_kernels.op_names import op_name
from rlif_kernels.op_values import (
    absent_as_empty,
    fake_head_gradients,
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
from rlif_kernels.policy_loss import GRPOLoss
from rlif_kernels.stats import DEFAULT_OUTPUTS, IGNORE_INDEX
from rlif_kernels.transforms import apply_uncompiled, transformed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@takes_dtensors
def linear_grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    advantages: Tensor,
    old_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    *,
    token_weight: Tensor | None = None,
    bias: Tensor | None = None,
    ref_hidden: Tensor | None = None,
    ref_weight: Tensor | None = None,
    ref_bias: Tensor | None = None,
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
    tile_bytes: int = DEFAULT_TILE_BYTES,
    logits_dtype: torch.dtype | None = None,
    group: "ProcessGroup | None" = None,
    backend: str | None = None,
    **variant: Unpack[LossVariant],
) -> GRPOLoss:
    """`grpo_loss` of ``hidden @ weight.T + bias``, with one tile of the logits in memory and three matrix products.

    The gradients of hidden, weight and bias are computed with the loss. Tokens whose gradient is 0 (masked; without an
    advantage and without another term) take part in no product but the first, masked ones in none: NaN in the former is
    seen in the loss, not in the gradients.

    Args:
        hidden, weight, bias, logits_dtype: as in `linear_token_stats`.
        ref_hidden, ref_weight, ref_bias: (..., H'), (V', H') and (V',), the reference's, for ``kl="full"``: constants,
            with a size and a dtype of their own. Without a weight the head is the policy's own, as where an adapter is
            switched off; both sides are then one product, that reads each tile of the weight once.
        tile_bytes: bytes of logits to have at a time. A half-precision weight whose gradient several tiles add to has
            that gradient in float32 beside them, 4 V H bytes, until it is complete; where all logits take no more than
            tile and sum, as those of N <= 2 H rows, they are one tile instead. `head.tiles` has the formulas.

    The other arguments, and the result, are those of `grpo_loss`. Two passes, four products, are needed where the
    tokens of a sequence share a ratio, off-policy, and are too many for a tile; and for half-precision weights in
    several tiles where these are so small, or the device's products in float32 so slow, that a sum takes longer.
    ``kl="full"`` is one product more, and there four.

    A backward hands out the gradients that the forward computed, in their own memory. With retain_graph=True, for a
    second backward or for the gradient of one term, it makes copies of them: as large as hidden, weight and bias.
    Where a variant chooses tokens by what all say, this is `linear_token_stats` followed by `policy_loss`, with four
    products, and a `linear_divergence` for ``kl="full"``.

    Raises:
        ValueError, TypeError, IndexError: as `grpo_loss` and `linear_token_stats` do.
        RuntimeError: on a second derivative, and under torch.func.vmap.
    """
    check_head(hidden, weight, bias)
    of_reference = ("ref_hidden", ref_hidden), ("ref_weight", ref_weight), ("ref_bias", ref_bias)
    (hidden, weight, bias), reference = _linear_layers((hidden, weight, bias), kl, ref_logprob, *of_reference)
    check_tile_bytes(tile_bytes)
    own_dtype, ref_dtype = (
        check_logits_dtype(logits_dtype, dtype)
        for dtype in (hidden.dtype, hidden.dtype if reference is None else reference.hidden.dtype)
    )
    arguments = row_arguments(
        hidden, "hidden", len(weight), targets, temperature, mask, vocab_size, softcap, outputs, backend, group
    )
    if reference is not None and reference.weight is not None:
        expected = arguments.rows.num_columns if group is None else len(weight)
        kl_penalty.check_columns("ref_weight", len(reference.weight), expected, exactly=group is not None)
    given = (advantages, old_logprob, ref_logprob, token_weight)
    options: dict[str, Any] = {
        "loss_type": loss_type, "epsilon_low": epsilon_low, "epsilon_high": epsilon_high, "delta": delta, "beta": beta,
        "importance_sampling_level": importance_sampling_level, "entropy_coef": entropy_coef,
        "self_certainty_coef": self_certainty_coef, "num_items_in_batch": num_items_in_batch,
        "max_completion_length": max_completion_length, "loss_scale": loss_scale,
    }  # fmt: skip
    arguments, loss = loss_arguments(arguments, *given, variant, kl=kl, **options)
    in_common: dict[str, Any] = {
        "bias": bias, "temperature": temperature, "mask": mask, "vocab_size": vocab_size, "softcap": softcap,
        "tile_bytes": tile_bytes, "logits_dtype": logits_dtype, "group": group, "backend": backend,
    }  # fmt: skip
    if reference is not None and (loss.selects or transformed()):
        result = linear_grpo_loss(
            hidden, weight, targets, advantages, old_logprob, token_weight=token_weight, outputs=outputs, **in_common,
            **options | {"beta": 0.0}, **variant,
        )  # fmt: skip
        of_tokens = beta * loss.loss_rows.weight.view(targets.shape)
        in_common["mask"] = arguments.rows.targets != IGNORE_INDEX
        return kl_penalty.added(result, _penalty(hidden, weight, reference, of_tokens, in_common), beta)
    if loss.selects:
        stats = linear_token_stats(hidden, weight, targets, outputs=arguments.outputs, **in_common)
        return loss_of_stats(stats, arguments.rows.targets, outputs, *given, kl=kl, **options, **variant)
    inputs = (
        hidden, weight, bias,
        (
            *(reference or (None, None, None)), ref_dtype, *op_arguments(arguments, loss), tile_bytes, own_dtype,
            arguments.largest_slice,
        ),
        torch.is_grad_enabled(),
    )  # fmt: skip
    values = apply_uncompiled(_Transformed, *inputs)[:6] if transformed() else _Function.apply(*inputs)
    return grpo_loss_of(values, outputs, has_kl=ref_logprob is not None or reference is not None)


def _linear_layers(
    layer: HeadTensors, kl: str, ref_logprob: Tensor | None, *of_reference: tuple[str, Tensor | None]
) -> tuple[HeadTensors, TeacherTensors | None]:
    """Cast the head as autocast would, and the reference's if the penalty takes one: hidden states, weight and bias."""
    kl_penalty.check_kl(kl, ref_logprob, *of_reference)
    ref_hidden, ref_weight, ref_bias = (tensor for _, tensor in of_reference)
    if ref_hidden is None:
        return head.autocast(*layer), None
    if ref_weight is None:
        if ref_bias is not None:
            raise ValueError("ref_bias is a tensor and ref_weight None; expected None, or both")
        _, ref_weight, ref_bias = layer
    check_head(ref_hidden, ref_weight, ref_bias, "ref_")
    check_paired_rows("ref_hidden", ref_hidden, "hidden", layer[0])
    return as_linear_layers(layer, (ref_hidden, ref_weight, ref_bias))


def _penalty(
    hidden: Tensor, weight: Tensor, reference: TeacherTensors, token_weight: Tensor, options: dict[str, Any]
) -> Divergence:
    """The penalty by an op of its own."""
    _, ref_weight, ref_bias = reference
    if ref_weight is None:
        ref_weight, ref_bias = weight, options["bias"]
    return linear_divergence(
        hidden, weight, reference.hidden, ref_weight, kind="reverse_kl", teacher_bias=ref_bias,
        token_weight=token_weight, teacher_softcap=options["softcap"], **options,
    )  # fmt: skip


def _tangent(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    d_hidden: Tensor | None,
    d_weight: Tensor | None,
    d_bias: Tensor | None,
    arguments: tuple[Any, ...],
) -> Tensor:
    """The tangent of the loss; a reference has an op of its own there."""
    _, _, _, _, *common, loss_rows, options, term, sequence_length, tile_bytes, logits_dtype, largest_slice = arguments
    *row_arguments, outputs, backend, group = common
    rows, names = op_rows(*row_arguments), requested(outputs)
    call = head.head_of(hidden, weight, bias, rows, backend, group, tile_bytes, largest_slice, logits_dtype)
    with head.no_autocast(hidden):
        taken = HiddenRows(hidden, active_rows(rows.targets))
        fields, _ = head.forward(call, taken, names)
        tangents = head_tangents(call, taken, names, d_hidden, d_weight, d_bias)
    return tangent_of_loss(fields, tangents, *op_loss(loss_rows, options, None), rows.targets, term, sequence_length)


@torch.library.custom_op(op_name("linear_grpo_loss"), mutates_args=())
def _forward_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ref_hidden: Tensor | None,
    ref_weight: Tensor | None,
    ref_bias: Tensor | None,
    ref_dtype: torch.dtype,
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
    tile_bytes: int,
    logits_dtype: torch.dtype,
    largest_slice: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = op_rows(targets, temperature, varying, scalar_temperature, softcap, num_columns)
    call = head.head_of(hidden, weight, bias, rows, backend, group, tile_bytes, largest_slice, logits_dtype)
    head.check_before_tiles(call)
    of_tokens, numbers = op_loss(loss_rows, options, varying)
    penalty = None
    if ref_hidden is not None:
        heads = pair_of_heads(call, TeacherTensors(ref_hidden, ref_weight, ref_bias), rows, ref_dtype)
        penalty = kl_penalty.penalty_of_heads(heads, rows, of_tokens.weight, numbers.beta, backend, group)
    with head.no_autocast(hidden):
        fields, terms, parts = loss_and_gradients(
            call, penalty, requested(outputs), of_tokens, numbers, term, sequence_length, needs
        )
    return (*loss_outputs(fields, terms, targets), *absent_as_empty(parts, hidden))


@_forward_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, ref_hidden: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    _, _, _, targets, _, _, _, _, _, outputs, _, _, loss_rows, _, _, _, _, _, _, needs = rest
    values = fake_loss_outputs(hidden, targets, outputs, loss_rows, has_kl=ref_hidden is not None)
    return (*values, *fake_head_gradients(hidden, weight, bias, needs))


_Function, _Transformed = head_loss_functions("linear_grpo_loss", _forward_op, _tangent)
