"""Draw tokens from logits, with random numbers that belong to a prompt and not to the batch or process it is in.

And keep the statistics of the distributions that they were drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlif.errors import UserError
from rlif_kernels import TokenStats, token_stats

# Tokens that are summed before the cumulative sum: the sums are a hundredth of the vocabulary, which most sizes divide.
DRAW_BLOCK = 128
# Logits that are drawn from at a time, 2 MB: as many as a processor's own cache holds.
CACHED_LOGITS = 1 << 19
# Logits whose statistics are computed in one call: of a small vocabulary a call costs as much as a step of sampling.
RECORDED_LOGITS = 1 << 20
IGNORE_INDEX = -100  # a target with this id is a row without statistics


def uniform_numbers(
    seeds: Sequence[Sequence[int]], num_generations: int, max_completion_length: int, device: torch.device
) -> Tensor:
    """The random numbers of a rollout: uniform in (0, 1], one for each completion and token.

    Args:
        seeds: one for each of B prompts, of integers >= 0; it alone decides the numbers of the prompt.
        num_generations: completions of each prompt.
        max_completion_length: tokens of a completion. More of them leave the numbers of the first ones as they are.
        device: where the numbers are wanted; they are the same on all.

    Returns:
        (B x num_generations, max_completion_length) float64, float32 where the device has nothing better.
    """
    shape = (max_completion_length, num_generations)
    numbers = np.stack([1.0 - np.random.default_rng(seed).random(shape) for seed in seeds])
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.from_numpy(numbers).transpose(1, 2).reshape(-1, max_completion_length).to(device, dtype)


def truncate(logits: Tensor, temperature: float, *, top_k: int | None, top_p: float) -> Tensor:
    """(N, V) logits with -inf for every token outside the `top_k` most likely, and outside the nucleus among these.

    The nucleus (arXiv 1904.09751) is the fewest most likely tokens whose probabilities at the temperature reach
    `top_p`. The most likely token always stays.
    """
    values, ids = logits.topk(min(top_k or logits.shape[-1], logits.shape[-1]))  # the most likely come first
    if top_p < 1:
        probabilities = torch.softmax(values.float() / temperature, dim=-1)
        outside = probabilities.cumsum(dim=-1) - probabilities >= top_p
        outside[:, 0] = False
        values = values.masked_fill(outside, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter_(1, ids, values)


def most_likely(logits: Tensor, count: int, excluded: Tensor) -> Tensor:
    """The ids of the `count` largest of (N, V) logits but for those in `excluded`: (N, count) int64, the largest first.

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


def draw(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Draw one token id a row, (N,) int64, from (N, V) logits; at temperature 0 the most likely one.

    By inversion: one number a row of `uniform` (N,), in (0, 1], looked up in the cumulative probabilities of blocks of
    tokens, then of the tokens of one block. torch.multinomial draws a random number for every token of the vocabulary,
    which on a CPU takes longer than a small model.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    # On a CPU the temporaries of a few rows stay in the cache; those of all would come anew from the system each time.
    rows = max(1, CACHED_LOGITS // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    parts = zip(logits.split(rows), uniform.split(rows), strict=True)
    return torch.cat([_draw_part(some, temperature, numbers) for some, numbers in parts])


def _draw_part(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    padding = -probabilities.shape[1] % DRAW_BLOCK
    if padding:
        probabilities = torch.nn.functional.pad(probabilities, (0, padding))
    blocks = probabilities.unflatten(1, (-1, DRAW_BLOCK))
    # Summed in the dtype of the random numbers: near 1 the steps of float32 are as large as a rare token's probability.
    reached = blocks.sum(dim=-1).cumsum(dim=-1, dtype=uniform.dtype)
    total = reached[:, -1:]
    if not total.isfinite().all():
        raise UserError("the model's logits are not finite: its weights have diverged; try a lower learning_rate")
    # In (0, total]: a block of probability 0 is never the first to reach it, and some block always does.
    goal = total * uniform[:, None]
    block = torch.searchsorted(reached, goal)
    within = blocks.take_along_dim(block[:, :, None], dim=1).squeeze(1).cumsum(dim=-1, dtype=uniform.dtype)
    # The same holds within the block, once rounding is kept from leading out of it.
    goal = goal - (reached.gather(1, block) - within[:, -1:])
    goal = torch.minimum(goal.clamp(min=torch.finfo(uniform.dtype).tiny), within[:, -1:])
    return (block * DRAW_BLOCK + torch.searchsorted(within, goal)).squeeze(1)


class StatsRecorder:
    """The statistics of a rollout's distributions, from the logits of one step after the other."""

    def __init__(self, outputs: tuple[str, ...], temperature: float, mask: Tensor) -> None:
        """`outputs` are fields of `TokenStats`; `mask` (N, T) says how many completions and tokens there may be."""
        self.outputs = outputs
        self.temperature = temperature
        self.fields = {
            name: mask.new_zeros(mask.shape + (2,) * (name == "top_probs"), dtype=torch.float32) for name in outputs
        }
        self.waiting: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, logits: Tensor, token: Tensor, rows: Tensor, step: int, growing: Tensor) -> None:
        """One step of R completions.

        Args:
            logits: (R, V), which nobody changes afterwards.
            token: (R,) int64, drawn from them.
            rows: (R,) int64, which of the N completions they are.
            step: the place of the token in its completion.
            growing: (R,) bool; the others have ended, and their statistics stay 0.
        """
        self.waiting.append((logits, token.masked_fill(~growing, IGNORE_INDEX), rows, torch.full_like(rows, step)))
        if sum(len(tokens) for _, tokens, _, _ in self.waiting) * logits.shape[1] >= RECORDED_LOGITS:
            self._compute()

    def stats(self, length: int) -> TokenStats:
        """The requested fields of all completions, (N, length)."""
        self._compute()
        return TokenStats(**{name: values[:, :length] for name, values in self.fields.items()})

    def _compute(self) -> None:
        if not self.waiting:
            return
        logits, token, rows, steps = (
            parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*self.waiting, strict=True)
        )
        self.waiting = []
        computed = token_stats(logits, token, temperature=self.temperature, outputs=self.outputs)
        for name, values in self.fields.items():
            values[rows, steps] = getattr(computed, name)
