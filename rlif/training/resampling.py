"""Draw completions anew where a group's rewards are all equal: it would teach nothing (DAPO, arXiv 2503.14476)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlif.answers.math_verification import limited_cost
from rlif.rewards.advantages import equal_groups
from rlif.rollouts.rollout import Rollout
from rlif.training.distributed import all_reduce_max, unsharded
from rlif.training.learner import Learner
from rlif_kernels import TokenStats

# Samples the prompts of these groups, for the given time from 1 on.
Draw = Callable[[Sequence[int], int], Rollout]


@torch.no_grad()
def redraw_equal_groups(learner: Learner, rollout: Rollout, draw: Draw, step: int) -> tuple[Rollout, int]:
    """Put new completions in the place of groups of equal rewards, `max_num_gen_batches` - 1 times at most.

    Rewards that need no statistics tell which these are, and are computed once more for that. Where they read
    statistics, which only a forward would give, they are the groups whose completions are all the same tokens.

    Returns:
        The rollout, and how many groups were drawn anew, each time counted, on this process.
    """
    config, accelerator = learner.config, learner.accelerator
    pending, redrawn = list(range(len(rollout.texts) // config.num_generations)), 0
    for attempt in range(1, config.max_num_gen_batches):
        with limited_cost():
            pending = _equal(learner, rollout, pending, step)
        if all_reduce_max(accelerator, len(pending)) == 0:
            break
        with unsharded(accelerator, learner.models.scorer):
            if pending:
                drawn = draw(pending, attempt)
                rollout = with_groups(rollout, pending, drawn, learner.models.language_model.pad_token_id)
        redrawn += len(pending)
    return rollout, redrawn


def _equal(learner: Learner, rollout: Rollout, groups: list[int], step: int) -> list[int]:
    """Return those of the groups that have nothing to compare."""
    if not groups:
        return []
    part = rollout.select(_rows(groups, rollout.num_generations))
    if learner.rewards.outputs:
        ids = part.completion_ids.masked_fill(~part.completion_mask, -1).view(len(groups), part.num_generations, -1)
        equal = (ids == ids[:, :1]).flatten(1).all(dim=1)
    else:
        tokenizer = learner.models.language_model.tokenizer
        total, _ = learner.rewards(TokenStats(), part, tokenizer=tokenizer, step=step)
        equal = equal_groups(total, part.num_generations)
    return [group for group, same in zip(groups, equal.tolist(), strict=True) if same]


def with_groups(rollout: Rollout, groups: Sequence[int], drawn: Rollout, pad_token_id: int) -> Rollout:
    """Return the rollout with other completions of the same prompts in some groups.

    Args:
        rollout: to change.
        groups: by their numbers, from 0.
        drawn: their completions, in this order.
        pad_token_id: stands after a completion.
    """
    rows = _rows(groups, rollout.num_generations)
    length = max(rollout.completion_ids.shape[1], drawn.completion_ids.shape[1])

    def merged(whole: Tensor, part: Tensor, value: float) -> Tensor:
        joined = whole.new_full((whole.shape[0], length, *whole.shape[2:]), value)
        joined[:, : whole.shape[1]] = whole
        joined[rows] = value
        joined[rows, : part.shape[1]] = part
        return joined

    texts, finished = list(rollout.texts), rollout.finished.clone()
    for row, text in zip(rows, drawn.texts, strict=True):
        texts[row] = text
    finished[rows] = drawn.finished
    stats = rollout.stats
    if stats is not None:
        assert drawn.stats is not None
        pairs = zip(stats, drawn.stats, strict=True)
        stats = TokenStats(*(None if a is None or b is None else merged(a, b, 0) for a, b in pairs))
    return replace(
        rollout,
        texts=texts,
        completion_ids=merged(rollout.completion_ids, drawn.completion_ids, pad_token_id),
        completion_mask=merged(rollout.completion_mask, drawn.completion_mask, False),
        finished=finished,
        stats=stats,
    )


def _rows(groups: Sequence[int], num_generations: int) -> list[int]:
    """Return the rows of these groups."""
    return [group * num_generations + offset for group in groups for offset in range(num_generations)]
