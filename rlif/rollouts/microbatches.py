"""Divide sequences over forwards that stay within a budget of tokens, padding included."""

from __future__ import annotations

from collections.abc import Sequence

from rlif.rollouts.rollout import Rollout


def microbatches(rollout: Rollout, rows: list[int], max_tokens: int, *, whole_groups: bool = False) -> list[list[int]]:
    """Rows in parts of similar length, the longest first.

    Args:
        rollout: where the rows are from.
        rows: to divide; whole groups if these are to stay whole.
        max_tokens: (longest prompt + longest completion) x rows of a part exceed it only where one row, or one group
            that must stay whole, does by itself.
        whole_groups: keep the completions of a prompt together.
    """
    prompts, completions = rollout.lengths()
    size = rollout.num_generations if whole_groups else 1
    units = [rows[start : start + size] for start in range(0, len(rows), size)]
    return pack(units, prompts, completions, max_tokens)


def pack(
    units: Sequence[list[int]], prompts: Sequence[int], completions: Sequence[int], max_tokens: int
) -> list[list[int]]:
    """Units of rows in parts of similar length, the longest first, each within the budget or one unit.

    Args:
        units: rows that stay together.
        prompts: length of every row's prompt, in tokens.
        completions: of its completion.
        max_tokens: (longest prompt + longest completion) x rows of a part.
    """
    ordered = sorted(units, key=lambda unit: max(prompts[row] + completions[row] for row in unit), reverse=True)
    parts: list[list[int]] = []
    for unit in ordered:
        if parts:
            joined = parts[-1] + unit
            width = max(prompts[row] for row in joined) + max(completions[row] for row in joined)
            if width * len(joined) <= max_tokens:
                parts[-1] = joined
                continue
        parts.append(list(unit))
    return parts


def groups_fit(rollout: Rollout, max_tokens: int) -> bool:
    """Tell whether every group is within the budget by itself."""
    everything = list(range(len(rollout.texts)))
    prompts, completions = rollout.lengths()
    size = rollout.num_generations
    groups = (everything[start : start + size] for start in range(0, len(everything), size))
    return all(
        (max(prompts[row] for row in group) + max(completions[row] for row in group)) * size <= max_tokens
        for group in groups
    )
