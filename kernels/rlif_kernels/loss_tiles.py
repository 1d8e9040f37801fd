"""The tiles of `linear_grpo_loss`: which rows they take, and what is done to each before the next takes its memory."""

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from rlif_kernels.grpo_loss import loss_of_rows, sequences_of
from rlif_kernels.head import gradients, head
from rlif_kernels.head.gradients import Gradients, HeadGradients
from rlif_kernels.head.head import Head
from rlif_kernels.head.pairs import PairTiles
from rlif_kernels.head.products import adds_at_full_speed
from rlif_kernels.head.tiles import HiddenRows, active_rows, loss_tiles, tiles
from rlif_kernels.kl_penalty import Penalty
from rlif_kernels.loss_options import LossOptions
from rlif_kernels.loss_terms import LossRows, Sequences, TokenTerms, token_terms
from rlif_kernels.stats import IGNORE_INDEX


def loss_and_gradients(
    call: Head,
    penalty: Penalty | None,
    outputs: Sequence[str],
    loss_rows: LossRows,
    options: LossOptions,
    term: str,
    sequence_length: int,
    needs: Sequence[bool],
) -> tuple[dict[str, Tensor], TokenTerms, Gradients]:
    """Tile by tile: logits, loss, gradient of the logits in their place, gradients of hidden states and weight."""
    targets, num_columns = call.rows.targets.view(-1), call.rows.num_columns
    learning = _has_gradient(targets, loss_rows, options, sequence_length) if any(needs) else targets.new_zeros(0)
    taken, num_learning = _learning_first(call, learning)
    row_bytes = call.row_bytes(taken)
    if penalty is not None:
        # The penalty has its own place: what is left is the loss without one.
        options = options._replace(beta=0.0)
        row_bytes = penalty.heads.row_bytes(taken, spare=penalty.moves and num_learning > 0)
    per_tile, in_one_pass = loss_tiles(
        taken.count, num_learning, row_bytes, call.tile_bytes, *_bytes_of_sums(call, num_learning, needs)
    )
    sizes = [min(per_tile, num_learning - start) for start in range(0, num_learning, per_tile)]
    if sequence_length and num_learning:
        sizes = _whole_sequences(learning.view(-1, sequence_length).sum(-1).tolist(), per_tile)
    if max(sizes, default=0) > per_tile or not in_one_pass:
        # All statistics first, then the gradients from logits computed again.
        fields, row_state = head.forward(call, taken, outputs)
        terms = token_terms(fields, loss_rows, options, term, sequences_of(targets, sequence_length))
        parts = gradients.backward(call, taken, terms.grads, row_state, needs)
        if penalty is not None:
            terms, parts = penalty.in_tiles_of_its_own(taken, terms, parts, needs)
        return fields, terms, parts

    num_tiles, num_rows = len(sizes), targets.numel()
    sizes += [min(per_tile, taken.count - start) for start in range(num_learning, taken.count, per_tile)]
    sums = HeadGradients(call, taken, needs, num_learning)
    # By name, of all rows; what no tile writes is a masked row's.
    results = {name: targets.new_zeros(num_rows, dtype=torch.float32) for name in (*outputs, "loss", "kl", "clipped")}
    rows, taken_loss = call.rows.take(taken.index), loss_rows.map(operator.itemgetter(taken.index))
    largest, active = max(sizes, default=0), targets != IGNORE_INDEX
    buffer = call.new_buffer(largest * num_columns if penalty is None else 0)
    both = None
    if penalty is not None:
        both = PairTiles(penalty.heads, taken, largest, spare=penalty.moves and num_learning > 0)
    for index, tile in enumerate(tiles(sizes)):
        numbers, learns = taken.numbers(tile), index < num_tiles
        kl = of_penalty = None
        if penalty is None or both is None:
            hidden = taken.take(tile)
            logits = call.logits(hidden, slice(num_columns), buffer)
        else:
            # First, while the policy's logits are there.
            hidden, logits, _, spare = each = both.take(tile)
            of_penalty = spare if learns and penalty.moves else None
            kl = penalty.of_tile(each, numbers, learns=of_penalty is not None)
        fields, terms = loss_of_rows(
            call.row_backend,
            logits if learns else None,
            logits,
            rows.take(tile),
            outputs,
            taken_loss.map(operator.itemgetter(tile)),
            options,
            term,
            # Of rows that do not learn the terms follow below.
            Sequences(active, sequence_length, numbers) if sequence_length and learns else None,
        )
        if penalty is not None and kl is not None:
            terms = penalty.with_values(terms, kl, numbers)
            if of_penalty is not None:
                logits.add_(of_penalty)
        for name, value in (*fields.items(), ("loss", terms.loss), ("kl", terms.kl), ("clipped", terms.clipped)):
            if value is not None:
                results[name][numbers] = value.to(torch.float32)
        if learns:
            sums.add_rows(tile, logits, hidden)
    known = penalty is not None or loss_rows.ref_logprob is not None
    terms = TokenTerms(results["loss"], results["kl"] if known else None, results["clipped"].bool(), {})
    if sequence_length and num_learning < taken.count:
        # Rows that do not learn lie in tiles of any rows, which know the ratios of no sequence.
        terms = token_terms(results, loss_rows, options, term, sequences_of(targets, sequence_length))
        if penalty is not None:
            terms = penalty.with_values(terms, results["kl"], slice(None))
    return {name: results[name] for name in outputs}, terms, sums.finish()


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
