"""`linear_grpo_loss`: the policy loss from hidden states and the head, with three matrix products instead of four.

Each tile of whole rows of logits is computed, overwritten with its gradient, and multiplied into the gradients of the
hidden states and of the weight before the next tile takes its memory. Autograd would compute the logits a second time,
or keep all of them.
"""

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from rlif_kernels.checks import check_head, check_logits_dtype, check_tile_bytes, row_arguments
from rlif_kernels.grpo_loss import loss_of_rows, loss_of_stats, sequences_of, tangent_of_loss
from rlif_kernels.head import gradients, head
from rlif_kernels.head.head import Head
from rlif_kernels.head.products import adds_at_full_speed
from rlif_kernels.head.tangents import head_tangents
from rlif_kernels.head.tiles import DEFAULT_TILE_BYTES, HiddenRows, active_rows, loss_tiles, tiles
from rlif_kernels.linear_token_stats import linear_token_stats
from rlif_kernels.loss_arguments import loss_arguments
from rlif_kernels.loss_functions import head_loss_functions
from rlif_kernels.loss_options import LossOptions, LossVariant
from rlif_kernels.loss_terms import LossRows, Sequences, TokenTerms, token_terms
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
from rlif_kernels.policy_loss import GRPOLoss
from rlif_kernels.stats import DEFAULT_OUTPUTS, IGNORE_INDEX
from rlif_kernels.transforms import apply_uncompiled, transformed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


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
        tile_bytes: bytes of logits to have at a time. A half-precision weight whose gradient several tiles add to has
            that gradient in float32 beside them, 4 V H bytes, until it is complete; where all logits take no more than
            tile and sum, as those of N <= 2 H rows, they are one tile instead. `head.tiles` has the formulas.

    The other arguments, and the result, are those of `grpo_loss`. Two passes, four products, are needed where the
    tokens of a sequence share a ratio, off-policy, and are too many for a tile; and for half-precision weights in
    several tiles where these are so small, or the device's products in float32 so slow, that a sum takes longer.

    A backward hands out the gradients that the forward computed, in their own memory. With retain_graph=True, for a
    second backward or for the gradient of one term, it makes copies of them: as large as hidden, weight and bias.
    Where a variant chooses tokens by what all say, this is `linear_token_stats` followed by `policy_loss`, with four
    products.

    Raises:
        ValueError, TypeError, IndexError: as `grpo_loss` and `linear_token_stats` do.
        RuntimeError: on a second derivative, and under torch.func.vmap.
    """
    check_head(hidden, weight, bias)
    hidden, weight, bias = head.autocast(hidden, weight, bias)
    check_tile_bytes(tile_bytes)
    logits_dtype = check_logits_dtype(logits_dtype, hidden.dtype)
    arguments = row_arguments(
        hidden, "hidden", len(weight), targets, temperature, mask, vocab_size, softcap, outputs, backend, group
    )
    given = (advantages, old_logprob, ref_logprob, token_weight)
    options: dict[str, Any] = {
        "loss_type": loss_type, "epsilon_low": epsilon_low, "epsilon_high": epsilon_high, "delta": delta, "beta": beta,
        "importance_sampling_level": importance_sampling_level, "entropy_coef": entropy_coef,
        "self_certainty_coef": self_certainty_coef, "num_items_in_batch": num_items_in_batch,
        "max_completion_length": max_completion_length, "loss_scale": loss_scale,
    }  # fmt: skip
    arguments, loss = loss_arguments(arguments, *given, variant, **options)
    if loss.selects:
        stats = linear_token_stats(
            hidden, weight, targets, bias=bias, temperature=temperature, mask=mask, vocab_size=vocab_size,
            softcap=softcap, outputs=arguments.outputs, tile_bytes=tile_bytes, logits_dtype=logits_dtype, group=group,
            backend=backend,
        )  # fmt: skip
        return loss_of_stats(stats, arguments.rows.targets, outputs, *given, **options, **variant)
    inputs = (
        hidden, weight, bias, (*op_arguments(arguments, loss), tile_bytes, logits_dtype, arguments.largest_slice),
        torch.is_grad_enabled(),
    )  # fmt: skip
    values = apply_uncompiled(_Transformed, *inputs)[:6] if transformed() else _Function.apply(*inputs)
    return grpo_loss_of(values, outputs, has_reference=ref_logprob is not None)


def _tangent(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    d_hidden: Tensor | None,
    d_weight: Tensor | None,
    d_bias: Tensor | None,
    arguments: tuple[Any, ...],
) -> Tensor:
    """The tangent of the loss."""
    *common, loss_rows, options, term, sequence_length, tile_bytes, logits_dtype, largest_slice = arguments
    *row_arguments, outputs, backend, group = common
    rows, names = op_rows(*row_arguments), requested(outputs)
    call = head.head_of(hidden, weight, bias, rows, backend, group, tile_bytes, largest_slice, logits_dtype)
    with head.no_autocast(hidden):
        taken = HiddenRows(hidden, active_rows(rows.targets))
        fields, _ = head.forward(call, taken, names)
        tangents = head_tangents(call, taken, names, d_hidden, d_weight, d_bias)
    return tangent_of_loss(fields, tangents, *op_loss(loss_rows, options, None), rows.targets, term, sequence_length)


@torch.library.custom_op("rlif::linear_grpo_loss", mutates_args=())
def _forward_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
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
    with head.no_autocast(hidden):
        fields, terms, parts = _loss_and_gradients(
            call, requested(outputs), *op_loss(loss_rows, options, varying), term, sequence_length, needs
        )
    return (*loss_outputs(fields, terms, targets), *absent_as_empty(parts, hidden))


@_forward_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, _, _, _, _, outputs, _, _, loss_rows, _, _, _, _, _, _, needs = rest
    return (*fake_loss_outputs(hidden, targets, outputs, loss_rows), *fake_head_gradients(hidden, weight, bias, needs))


_Function, _Transformed = head_loss_functions("linear_grpo_loss", _forward_op, _tangent)


def _loss_and_gradients(
    call: Head,
    outputs: Sequence[str],
    loss_rows: LossRows,
    options: LossOptions,
    term: str,
    sequence_length: int,
    needs: Sequence[bool],
) -> tuple[dict[str, Tensor], TokenTerms, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """Tile by tile: logits, loss, gradient of the logits in their place, gradients of hidden states and weight."""
    num_columns, targets = call.rows.num_columns, call.rows.targets.view(-1)
    learning = _has_gradient(targets, loss_rows, options, sequence_length) if any(needs) else targets.new_zeros(0)
    taken, num_learning = _learning_first(call, learning)
    per_tile, in_one_pass = loss_tiles(
        taken.count, num_learning, call.row_bytes(taken), call.tile_bytes, *_bytes_of_sums(call, num_learning, needs)
    )
    sizes = [min(per_tile, num_learning - start) for start in range(0, num_learning, per_tile)]
    if sequence_length and num_learning:
        sizes = _whole_sequences(learning.view(-1, sequence_length).sum(-1).tolist(), per_tile)
    if max(sizes, default=0) > per_tile or not in_one_pass:
        # All statistics first, then the gradients from logits computed again.
        fields, row_state = head.forward(call, taken, outputs)
        terms = token_terms(fields, loss_rows, options, term, sequences_of(targets, sequence_length))
        return fields, terms, gradients.backward(call, taken, terms.grads, row_state, needs)

    num_tiles, num_rows = len(sizes), targets.numel()
    sizes += [min(per_tile, taken.count - start) for start in range(num_learning, taken.count, per_tile)]
    parts = gradients.HeadGradients(call, taken, needs, num_learning)
    # By name, of all rows; what no tile writes is a masked row's.
    results = {name: targets.new_zeros(num_rows, dtype=torch.float32) for name in (*outputs, "loss", "kl", "clipped")}
    rows, taken_loss = call.rows.take(taken.index), loss_rows.map(operator.itemgetter(taken.index))
    buffer = call.new_buffer(max(sizes, default=0) * num_columns)
    active = targets != IGNORE_INDEX
    for index, tile in enumerate(tiles(sizes)):
        hidden, numbers = taken.take(tile), taken.numbers(tile)
        logits = call.logits(hidden, slice(num_columns), buffer)
        learns = index < num_tiles
        fields, terms = loss_of_rows(
            call.row_backend,
            logits if learns else None,
            logits,
            rows.take(tile),
            outputs,
            taken_loss.map(operator.itemgetter(tile)),
            options,
            term,
            # Rows that do not learn have no advantage: whatever their ratio is, their loss is 0.
            Sequences(active, sequence_length, numbers) if sequence_length and learns else None,
        )
        for name, value in (*fields.items(), ("loss", terms.loss), ("kl", terms.kl), ("clipped", terms.clipped)):
            if value is not None:
                results[name][numbers] = value.to(torch.float32)
        if learns:
            parts.add_rows(tile, logits, hidden)
    terms = TokenTerms(
        results["loss"], None if loss_rows.ref_logprob is None else results["kl"], results["clipped"].bool(), {}
    )
    return {name: results[name] for name in outputs}, terms, parts.finish()


def _bytes_of_sums(call: Head, num_learning: int, needs: Sequence[bool]) -> tuple[float, int]:
    """Of the float32 sums of the weight's and the hidden states' gradients, as `loss_tiles` takes them."""
    needs_hidden, needs_weight, _ = needs
    width = call.weight.shape[1]
    hidden_sum = 4 * num_learning * width if needs_hidden else 0
    if not needs_weight or call.weight.dtype == torch.float32:
        return 0, hidden_sum
    # Of a group all take the same tiles, whatever their processors.
    adds = adds_at_full_speed(call.weight) or (call.ranks is not None and call.weight.device.type == "cpu")
    return 4 * call.largest_slice * width if adds else math.inf, hidden_sum


def _has_gradient(targets: Tensor, rows: LossRows, options: LossOptions, sequence_length: int) -> Tensor:
    """(N,) bool: the tokens that the loss moves, or whole sequences of them where these share a ratio."""
    active = targets != IGNORE_INDEX
    if options.beta or options.entropy_coef or options.self_certainty_coef:
        return active
    moved = active & (rows.advantage * rows.weight != 0)
    if sequence_length:
        moved = moved.view(-1, sequence_length).any(-1).repeat_interleave(sequence_length) & active
    return moved


def _learning_first(call: Head, learning: Tensor) -> tuple[HiddenRows, int]:
    """The rows not masked, those with a gradient first, and how many these are; `learning` is empty if none has."""
    targets = call.rows.targets.view(-1)
    if not len(learning):
        return HiddenRows(call.hidden, active_rows(targets)), 0
    first = learning.nonzero()[:, 0]
    if len(first) == len(targets):
        return HiddenRows(call.hidden, None), len(first)
    rest = ((targets != IGNORE_INDEX) & ~learning).nonzero()[:, 0]
    return HiddenRows(call.hidden, torch.cat([first, rest])), len(first)


def _whole_sequences(lengths: list[int], per_tile: int) -> list[int]:
    """Tiles of whole sequences, of `per_tile` tokens at most; a longer sequence has a tile of its own."""
    sizes = [0]
    for length in lengths:
        if sizes[-1] and sizes[-1] + length > per_tile:
            sizes.append(0)
        sizes[-1] += length
    return sizes
