"""What a model sampled: prompts, completions, masks and perhaps statistics, those of one prompt side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from rlif.answers.extract import AnswerStyle, Stated, stated_answer
from rlif.answers.matching import GoldAnswer
from rlif.models.packed_row import PackedRow, pack_row
from rlif_kernels import TokenStats


@dataclass(frozen=True)
class Rollout:
    """N = prompts x num_generations sampled completions, those of one prompt side by side."""

    prompts: list[str]
    """N prompts, each repeated for every completion of it."""
    answers: list[GoldAnswer | None]
    """N gold answers, each repeated for every completion of its prompt; None where there is none."""
    texts: list[str]
    """N completions as text, without special tokens."""
    prompt_ids: Tensor
    """(N, P) int64, padded on the left."""
    prompt_mask: Tensor
    """(N, P) bool, False on padding."""
    completion_ids: Tensor
    """(N, T) int64, padded on the right."""
    completion_mask: Tensor
    """(N, T) bool: True up to and including the EOS, False after it."""
    finished: Tensor
    """(N,) bool: whether the completion reached its EOS; the others were cut off."""
    num_generations: int
    """Completions of one prompt."""
    stats: TokenStats | None = None
    """(N, T) float32 fields (`top_probs` has two), 0 outside the mask: of the distributions that the tokens were drawn
    from, as far as `sample` was asked for them."""
    answer_style: AnswerStyle = "strict"
    """Where the answers of these completions are looked for."""
    verifies: list[bool] | None = None
    """N, whether the prompt asks if another completion is right; then the gold answer is that one's rating. None: no
    prompt does."""

    @cached_property
    def solutions(self) -> list[int]:
        """The rows that verify nothing."""
        return [row for row in range(len(self.texts)) if self.verifies is None or not self.verifies[row]]

    @cached_property
    def verifications(self) -> list[int]:
        """The rows that verify another completion."""
        return [row for row, verifies in enumerate(self.verifies or ()) if verifies]

    @cached_property
    def stated(self) -> list[Stated | None]:
        """The N answers that the completions state; None where one states none."""
        return [
            stated_answer(text, style=self.answer_style, finished=finished)
            for text, finished in zip(self.texts, self.finished.tolist(), strict=True)
        ]

    @cached_property
    def prompt_numbers(self) -> list[int]:
        """Number the N rows by their prompts' tokens, from 0: rows of one prompt have the same number."""
        prompts = zip(self.prompt_ids.tolist(), self.prompt_mask.sum(dim=1).tolist(), strict=True)
        numbers: dict[tuple[int, ...], int] = {}
        return [numbers.setdefault(tuple(ids[len(ids) - length :]), len(numbers)) for ids, length in prompts]

    @cached_property
    def packed(self) -> PackedRollout:
        """The rollout as one row, in which each prompt is there once."""
        return pack_rollout(self)

    def lengths(self) -> tuple[list[int], list[int]]:
        """Count the tokens of each prompt and of each completion."""
        return self.prompt_mask.sum(dim=1).tolist(), self.completion_mask.sum(dim=1).tolist()

    def select(self, rows: Sequence[int]) -> Rollout:
        """Select these completions, in this order, with no more padding than they need."""
        index = torch.tensor(list(rows), device=self.prompt_ids.device)
        prompt_mask, completion_mask = self.prompt_mask[index], self.completion_mask[index]
        first = prompt_mask.shape[1] - int(prompt_mask.sum(dim=1).max())
        length = int(completion_mask.sum(dim=1).max())
        fields = self.stats or ()
        return Rollout(
            prompts=[self.prompts[row] for row in rows],
            answers=[self.answers[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            prompt_ids=self.prompt_ids[index, first:],
            prompt_mask=prompt_mask[:, first:],
            completion_ids=self.completion_ids[index, :length],
            completion_mask=completion_mask[:, :length],
            finished=self.finished[index],
            num_generations=self.num_generations,
            stats=self.stats and TokenStats(*(field if field is None else field[index, :length] for field in fields)),
            answer_style=self.answer_style,
            verifies=self.verifies and [self.verifies[row] for row in rows],
        )


def with_verifications(solutions: Rollout, verifications: Rollout, pad_token_id: int) -> Rollout:
    """Return both rollouts as one, the solutions first.

    Args:
        solutions: of which none verifies another completion.
        verifications: by the same sampler, as many of each prompt, and with the same statistics.
        pad_token_id: stands before a prompt and after a completion.
    """

    def joined(one: Tensor, other: Tensor, value: float = 0, *, left: bool = False) -> Tensor:
        width = max(one.shape[1], other.shape[1])

        def padded(part: Tensor) -> Tensor:
            room = (width - part.shape[1], 0) if left else (0, width - part.shape[1])
            return torch.nn.functional.pad(part, (*(0, 0) * (part.dim() - 2), *room), value=value)

        return torch.cat([padded(one), padded(other)])

    stats = None
    if solutions.stats is not None:
        assert verifications.stats is not None
        pairs = zip(solutions.stats, verifications.stats, strict=True)
        stats = TokenStats(*(None if one is None or other is None else joined(one, other) for one, other in pairs))
    return replace(
        solutions,
        prompts=solutions.prompts + verifications.prompts,
        answers=solutions.answers + verifications.answers,
        texts=solutions.texts + verifications.texts,
        prompt_ids=joined(solutions.prompt_ids, verifications.prompt_ids, pad_token_id, left=True),
        prompt_mask=joined(solutions.prompt_mask, verifications.prompt_mask, left=True),
        completion_ids=joined(solutions.completion_ids, verifications.completion_ids, pad_token_id),
        completion_mask=joined(solutions.completion_mask, verifications.completion_mask),
        finished=torch.cat([solutions.finished, verifications.finished]),
        stats=stats,
        verifies=[False] * len(solutions.texts) + [True] * len(verifications.texts),
    )


@dataclass(frozen=True)
class PackedRollout:
    """A rollout without padding, and without each completion's last token, which predicts none."""

    row: PackedRow
    """Of S tokens."""
    sources: Tensor
    """(N, T) int64: the place in the row whose logits predict each completion token; any place, where there is none."""

    @property
    def num_tokens(self) -> int:
        """S."""
        return self.row.input_ids.shape[1]


def pack_rollout(rollout: Rollout) -> PackedRollout:
    """Put the completions of each prompt behind it, and say where the logits of each of their tokens come from."""
    device, (prompt_lengths, lengths) = rollout.prompt_ids.device, rollout.lengths()
    prompts = [ids[len(ids) - n :] for ids, n in zip(rollout.prompt_ids.tolist(), prompt_lengths, strict=True)]
    fed = [ids[: max(0, n - 1)] for ids, n in zip(rollout.completion_ids.tolist(), lengths, strict=True)]
    row = pack_row(prompts, fed, device)
    width = rollout.completion_ids.shape[1]
    sources = [[end, *places, *[end] * width][:width] for end, places in zip(row.prompt_ends, row.places, strict=True)]
    return PackedRollout(row, torch.tensor(sources, dtype=torch.long, device=device))
