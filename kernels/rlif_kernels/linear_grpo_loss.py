"""`linear_grpo_loss`: the policy loss from hidden states and the head, with three matrix products instead of four.

A tile of whole rows of logits is multiplied, turned into the gradient of the loss in place, and multiplied into the
gradients of the hidden states and of the weight before the next tile takes its memory. Autograd would need the logits
once more, or all of them at a time.
"""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlif_kernels.backends import backend_for
from rlif_kernels.checks import RowArguments, check_head, check_tile_bytes, row_arguments
from rlif_kernels.grpo_loss import (
    average_over,
    fake_outputs,
    loss_of_rows,
    op_outputs,
    returned,
    scale_,
    terms_of_fields,
)
from rlif_kernels.head import head as linear_head
from rlif_kernels.head.head import DEFAULT_TILE_BYTES, Head, HeadGradients, HeadRows
from rlif_kernels.linear_token_stats import absent_as_empty, autocast, fake_gradients
from rlif_kernels.loss_arguments import LossArguments, loss_arguments
from rlif_kernels.policy_loss import GRPOLoss, LossOptions, LossRows, TokenTerms, sequence_average
from rlif_kernels.stats import DEFAULT_OUTPUTS, IGNORE_INDEX

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
    group: "ProcessGroup | None" = None,
    backend: str | None = None,
) -> GRPOLoss:
    """`grpo_loss` of ``hidden @ weight.T + bias``, with one tile of the logits in memory and three matrix products.

    The gradients of hidden, weight and bias are computed with the loss. Tokens whose gradient is 0 (masked; without an
    advantage and without another term) take part in no product but the first, masked ones in none: NaN in the former is
    seen in the loss, not in the gradients.

    Args:
        hidden, weight, bias, tile_bytes: as in `linear_token_stats`. Beyond the tile, a half-precision weight whose
            gradient several tiles add to has that gradient in float32 until it is complete.

    The other arguments, and the result, are those of `grpo_loss`. Two passes, four products, are needed where the
    tokens of a sequence share a ratio, off-policy, and are too many for a tile; and for half-precision weights in
    several tiles on devices whose products cannot add up in float32 (CPUs).

    Raises:
        ValueError, TypeError, IndexError: as `grpo_loss` and `linear_token_stats` do.
        RuntimeError: on a second derivative, or on a second backward.
    """
    check_head(hidden, weight, bias)
    hidden, weight, bias = autocast(hidden, weight, bias)
    check_tile_bytes(tile_bytes)
    rows, largest_slice = row_arguments(
        hidden, "hidden", len(weight), targets, temperature, mask, vocab_size, softcap, outputs, backend, group
    )
    rows, loss = loss_arguments(
        rows, advantages, old_logprob, ref_logprob, loss_type, epsilon_low, epsilon_high, delta, beta,
        importance_sampling_level, entropy_coef, self_certainty_coef, num_items_in_batch, max_completion_length,
        loss_scale,
    )  # fmt: skip
    values = _Function.apply(hidden, weight, bias, rows, loss, tile_bytes, largest_slice, torch.is_grad_enabled())
    return returned(values, outputs, ref_logprob)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: RowArguments,
        loss: LossArguments,
        tile_bytes: int,
        largest_slice: int,
        grad_enabled: bool,
    ) -> tuple[Tensor, ...]:
        needs = [grad_enabled and need for need in ctx.needs_input_grad[:3]]
        *values, d_hidden, d_weight, d_bias = _forward_op(
            hidden.detach(),
            weight.detach(),
            None if bias is None else bias.detach(),
            *rows,
            *loss,
            tile_bytes,
            largest_slice,
            needs,
        )
        ctx.needs = needs
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.mark_non_differentiable(*values[1:])
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("linear_grpo_loss has no second derivative: backward was called with create_graph=True")
        gradients: list[Tensor | None] = [None, None, None]
        if grad_loss is not None:
            for index, gradient in enumerate(ctx.saved_tensors):
                if ctx.needs[index]:
                    scale_(gradient, grad_loss)
                    gradients[index] = gradient
        return *gradients, None, None, None, None, None


@torch.library.custom_op("rlif::linear_grpo_loss", mutates_args=())
def _forward_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
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
    tile_bytes: int,
    largest_slice: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tau = scalar_temperature if temperature is None else temperature
    linear_head.check_unsliced(targets, tau, num_columns, group)
    head = Head(
        hidden, weight, bias, targets, tau, softcap, num_columns, backend_for(backend, hidden, group), tile_bytes,
        largest_slice,
    )  # fmt: skip
    with linear_head.no_autocast(hidden):
        fields, terms, gradients = _loss_and_gradients(
            head,
            outputs.split(","),
            LossRows(*loss_rows),  # type: ignore[arg-type]
            LossOptions(*options),
            sequence_length,
            (needs[0], needs[1], needs[2]),
        )
    return (*op_outputs(fields, terms, targets), *absent_as_empty(gradients, hidden))


@_forward_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, _, _, _, outputs, _, _, loss_rows, _, _, _, _, needs = rest
    return (*fake_outputs(hidden, targets, outputs, loss_rows), *fake_gradients(hidden, weight, bias, needs))


def _loss_and_gradients(
    head: Head,
    outputs: Sequence[str],
    loss_rows: LossRows,
    options: LossOptions,
    sequence_length: int,
    needs: tuple[bool, bool, bool],
) -> tuple[dict[str, Tensor], TokenTerms, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """Tile by tile: logits, loss, gradient of the logits in their place, gradients of hidden states and weight."""
    targets = head.targets.view(-1)
    learning = _has_gradient(targets, loss_rows, options, sequence_length) if any(needs) else targets.new_zeros(0)
    rows, num_learning = _learning_first(head, learning)
    per_tile = max(head.row_tile_sizes(rows), default=1)
    sizes = [min(per_tile, num_learning - start) for start in range(0, num_learning, per_tile)]
    if sequence_length and num_learning:
        sizes = _whole_sequences(learning.view(-1, sequence_length).sum(-1).tolist(), per_tile)
    adds_up = not needs[1] or len(sizes) <= 1 or linear_head.sums_products_in_float32(head.hidden)
    if max(sizes, default=0) > per_tile or not adds_up:
        # All statistics first, then the gradients from logits computed again.
        fields, row_state = linear_head.forward(head, rows, outputs)
        terms = terms_of_fields(fields, loss_rows, options, average_over(targets, sequence_length))
        return fields, terms, linear_head.backward(head, rows, terms.grads, row_state, needs)

    num_tiles, num_rows = len(sizes), targets.numel()
    sizes += [min(per_tile, rows.count - start) for start in range(num_learning, rows.count, per_tile)]
    gradients = HeadGradients(head, rows, needs, num_learning)
    # By name, of all rows; what no tile writes is a masked row's.
    results = {name: targets.new_zeros(num_rows, dtype=torch.float32) for name in (*outputs, "loss", "kl", "clipped")}
    taken_targets, taken_loss = rows.select(targets), loss_rows.map(rows.select)
    temperature = linear_head.temperature_of(head, rows)
    buffer = head.weight.new_empty(max(sizes, default=0) * head.num_columns)
    active = targets != IGNORE_INDEX
    for index, tile in enumerate(linear_head.tiles(sizes)):
        hidden = rows.take(tile)
        logits = head.logits(hidden, slice(head.num_columns), buffer)
        learns = index < num_tiles
        fields, terms = loss_of_rows(
            head.backend,
            logits if learns else None,
            logits,
            taken_targets[tile],
            temperature(tile),
            head.softcap,
            head.num_columns,
            outputs,
            taken_loss.map(operator.itemgetter(tile)),
            options,
            # Rows that do not learn have no advantage: whatever their ratio is, their loss is 0.
            sequence_average(active, sequence_length, rows.numbers(tile)) if sequence_length and learns else None,
        )
        for name, value in (*fields.items(), ("loss", terms.loss), ("kl", terms.kl), ("clipped", terms.clipped)):
            if value is not None:
                rows.put(results[name], tile, value.to(torch.float32))
        if learns:
            gradients.add_rows(tile, logits, hidden)
    terms = TokenTerms(
        results["loss"], None if loss_rows.ref_logprob is None else results["kl"], results["clipped"].bool(), {}
    )
    return {name: results[name] for name in outputs}, terms, gradients.finish()


def _has_gradient(targets: Tensor, rows: LossRows, options: LossOptions, sequence_length: int) -> Tensor:
    """(N,) bool: the tokens that the loss moves, or whole sequences of them where these share a ratio."""
    active = targets != IGNORE_INDEX
    if options.beta or options.entropy_coef or options.self_certainty_coef:
        return active
    moved = active & (rows.advantage * rows.weight != 0)
    if sequence_length:
        moved = moved.view(-1, sequence_length).any(-1).repeat_interleave(sequence_length) & active
    return moved


def _learning_first(head: Head, learning: Tensor) -> tuple[HeadRows, int]:
    """The rows not masked, those with a gradient first, and how many these are; `learning` is empty if none has."""
    targets = head.targets.view(-1)
    if not len(learning):
        return HeadRows(head.hidden, linear_head.active_rows(targets)), 0
    first = learning.nonzero()[:, 0]
    if len(first) == len(targets):
        return HeadRows(head.hidden, None), len(first)
    rest = ((targets != IGNORE_INDEX) & ~learning).nonzero()[:, 0]
    return HeadRows(head.hidden, torch.cat([first, rest])), len(first)


def _whole_sequences(lengths: list[int], per_tile: int) -> list[int]:
    """Tiles of whole sequences, of `per_tile` tokens at most; a longer sequence has a tile of its own."""
    sizes = [0]
    for length in lengths:
        if sizes[-1] and sizes[-1] + length > per_tile:
            sizes.append(0)
        sizes[-1] += length
    return sizes
