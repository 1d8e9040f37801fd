"""The statistics of what transformers' generate draws, from the logits of its own forwards."""

from __future__ import annotations

import torch
from torch import Tensor

from rlif.rollouts.draw import StatsRecorder
from rlif_kernels import TokenStats, token_stats
from rlif_kernels.stats import IGNORE_INDEX


class SamplingRecorder:
    """Listens to the forwards of one call of generate: those of the whole prompts, then of a token at a time.

    The statistics are those of the model's own distribution at the temperature: what top-k, top-p, min-p and penalties
    do afterwards has no part in them. Where the model has dropout and generate runs in training mode, as TRL's trainer
    has it, they are of the distribution with the dropout that the token was drawn with.
    """

    def __init__(
        self, outputs: tuple[str, ...], *, temperature: float, max_length: int, eos_token_ids: list[int]
    ) -> None:
        """`outputs` are fields of `TokenStats`; completions have at most `max_length` tokens."""
        self.outputs = outputs
        self.temperature = temperature
        self.max_length = max_length
        self.eos_token_ids = eos_token_ids
        self.drawn: list[Tensor] = []
        self.last: Tensor | None = None
        self.follows = True

    def __call__(self, input_ids: Tensor | None, logits: Tensor) -> None:
        """Take in one forward: `input_ids` (N, S) end with the tokens drawn from the logits of the one before."""
        if self.last is None or len(logits) != len(self.last):
            self.drawn = []
            self.recorder = StatsRecorder(self.outputs, torch.Size((len(logits), self.max_length)))
            self.rows = torch.arange(len(logits), device=logits.device)
            self.growing = torch.ones_like(self.rows, dtype=torch.bool)
            self.ends = torch.tensor(self.eos_token_ids, device=logits.device)
        elif input_ids is None:
            self.follows = False
        elif len(self.drawn) < self.max_length:
            self._add(input_ids[:, -1])
        # Of the prompts' forward all positions may be there; a view of one would keep them.
        self.last = logits[:, -1].clone() if logits.shape[1] > 1 else logits[:, -1]

    def _add(self, token: Tensor) -> None:
        assert self.last is not None
        targets = token.masked_fill(~self.growing, IGNORE_INDEX)
        stats = token_stats(self.last, targets, temperature=self.temperature, outputs=self.outputs)
        self.recorder.add(stats, self.rows, len(self.drawn), self.growing)
        self.drawn.append(token)
        self.growing = self.growing & ~torch.isin(token, self.ends)

    def stats(self, completion_ids: list[list[int]]) -> TokenStats | None:
        """Return the requested fields of the N completions that generate returned, (N, T), 0 after their ends.

        None if the forwards were not those of one token after the other (beam search, guidance, prompts in chunks), or
        there were more tokens than there is room for: then what was listened to is not what was drawn.
        """
        length = max(map(len, completion_ids))
        if not self.follows or self.last is None or len(self.last) != len(completion_ids) or length > self.max_length:
            return None
        device = self.last.device
        ids = torch.tensor([row + [0] * (length - len(row)) for row in completion_ids], device=device)
        lengths = torch.tensor([len(row) for row in completion_ids], device=device)
        if len(self.drawn) == length - 1:  # the last token never goes through the model
            self._add(ids[:, -1])
        if len(self.drawn) < length:
            return None
        counted = torch.arange(length, device=device) < lengths[:, None]
        drawn = torch.stack(self.drawn[:length], dim=1)
        if not torch.equal(drawn.where(counted, ids), ids):
            return None
        return self.recorder.stats(length)
