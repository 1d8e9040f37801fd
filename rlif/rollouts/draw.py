"""Draw tokens from logits, and keep the statistics of the distributions that they were drawn from.

The random numbers belong to a prompt, and not to the batch or the process that it is in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlif.errors import UserError
from rlif_kernels import TokenStats, sample_tokens, token_stats

# A sum of probabilities reaches `top_p` if it does but for this: .5 and .3 make .8 together, though their logits in
# float32 make each wrong by up to 3e-8.
ROUNDING = 1e-7


def uniform_numbers(
    seeds: Sequence[Sequence[int]], num_generations: int, max_completion_length: int, device: torch.device
) -> Tensor:
    """Draw the random numbers of a rollout: uniform in (0, 1], one for each completion and token.

    Args:
        seeds: one for each of B prompts, of integers >= 0; it alone decides the numbers of the prompt.
        num_generations: completions of each prompt.
        max_completion_length: tokens of a completion. More of them leave the numbers of the first ones as they are.
        device: where the numbers are wanted; they are the same on all.

    Returns:
        (B x num_generations, max_completion_length) float64, float32 where the device has nothing better.
    """
    shape = (max_completion_length, num_generations)
    drawn = np.stack([1.0 - np.random.default_rng(seed).random(shape) for seed in seeds])
    numbers = torch.from_numpy(drawn).transpose(1, 2).reshape(-1, max_completion_length)
    return numbers.to(device, widest_float(device))


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for devices that have nothing better."""
    return torch.float32 if device.type == "mps" else torch.float64


def truncate(logits: Tensor, temperature: float, *, top_k: int | None, top_p: float) -> Tensor:
    """Set (N, V) logits to -inf for every token outside the `top_k` most likely, and outside the nucleus among these.

    The nucleus (arXiv 1904.09751) is the fewest most likely tokens whose probabilities at the temperature reach
    `top_p`, in float64 where the device has it and up to `ROUNDING`. The most likely token always stays.
    """
    values, ids = logits.topk(min(top_k or logits.shape[-1], logits.shape[-1]))  # the most likely come first
    if top_p < 1:
        probabilities = torch.softmax(values.to(widest_float(logits.device)) / temperature, dim=-1)
        outside = probabilities.cumsum(dim=-1) - probabilities >= top_p - ROUNDING
        outside[:, 0] = False
        values = values.masked_fill(outside, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter_(1, ids, values)


def most_likely(logits: Tensor, count: int, excluded: Tensor) -> Tensor:
    """Find the `count` largest of (N, V) logits but for those in `excluded`: (N, count) int64 ids, the largest first.

    Raises:
        UserError: there are not that many, or they are not finite.
    """
    allowed = logits.float().index_fill(1, excluded, -torch.inf)
    num_tokens = logits.shape[1] - len(excluded)
    if count > num_tokens:
        raise UserError(
            f"num_generations: got {count} branches, expected at most {num_tokens}: the vocabulary without end tokens"
        )
    values, ids = allowed.topk(count)
    if not values.isfinite().all():
        raise UserError(f"num_generations: got {count} branches, but fewer first tokens have a finite logit")
    return ids


def draw_tokens(
    logits: Tensor, temperature: float, uniform: Tensor, outputs: tuple[str, ...] = ()
) -> tuple[Tensor, TokenStats]:
    """Draw one token id a row, (N,) int64, from (N, V) logits; at temperature 0 the most likely one.

    With it the fields of `TokenStats` that are named in `outputs`, (N,) each; at temperature 0 those at 1.

    Raises:
        UserError: the logits are not finite.
    """
    if temperature == 0:
        token = logits.argmax(dim=-1)
        return token, token_stats(logits, token, outputs=outputs) if outputs else TokenStats()
    token, stats = sample_tokens(logits, uniform, temperature=temperature, outputs=outputs)
    if (token < 0).any():
        raise UserError("the model's logits are not finite: its weights have diverged; try a lower learning_rate")
    return token, stats


class StatsRecorder:
    """The statistics of a rollout's distributions, collected one step after the other."""

    def __init__(self, outputs: tuple[str, ...], shape: torch.Size) -> None:
        """`outputs` are fields of `TokenStats`; `shape` (N, T) says how many completions and tokens there may be."""
        self.outputs = outputs
        self.shape = shape
        self.steps: list[tuple[TokenStats, Tensor, Tensor, Tensor]] = []

    def add(self, stats: TokenStats, rows: Tensor, step: int, growing: Tensor) -> None:
        """Add one step of R completions.

        Args:
            stats: (R,) of the tokens that were drawn.
            rows: (R,) int64, which of the N completions they are.
            step: the place of the token in its completion.
            growing: (R,) bool; the others have ended, and their statistics stay 0.
        """
        self.steps.append((stats, rows, torch.full_like(rows, step), growing))

    def stats(self, length: int) -> TokenStats:
        """Return the requested fields of all completions, (N, length)."""
        steps, *places = zip(*self.steps, strict=True)
        rows, columns, growing = (torch.cat(parts) for parts in places)
        fields = {}
        for name in self.outputs:
            # Once for all steps: of a small vocabulary, writing costs as much as a step of sampling.
            values = torch.cat([getattr(stats, name) for stats in steps])
            whole = values.new_zeros(self.shape + values.shape[1:])
            whole[rows[growing], columns[growing]] = values[growing]
            fields[name] = whole[:, :length]
        return TokenStats(**fields)
