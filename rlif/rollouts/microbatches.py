"""Divide sequences over forwards that stay within a budget of tokens.

A forward over rows of their own counts (longest prompt + longest completion) x rows. One over a packed row, in which
each prompt is there once, counts the tokens of its prompts and completions.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rlif.rollouts.rollout import Rollout


def microbatches(
    rollout: Rollout, rows: list[int], max_tokens: int, *, whole_groups: bool = False, share_prompts: bool = False
) -> list[list[int]]:
    """Rows in parts, the longest first.

    Args:
        rollout: where the rows are from.
        rows: to divide; whole groups if these are to stay whole.
        max_tokens: of a part, which exceeds them only where one row, or one group that must stay whole, does by itself.
        whole_groups: keep the completions of a prompt together.
        share_prompts: whether forwards are over packed rows.
    """
    prompts, completions = rollout.lengths()
    size = rollout.num_generations if whole_groups else 1
    units = [rows[start : start + size] for start in range(0, len(rows), size)]
    if share_prompts:
        return pack_sharing(units, rollout.prompt_numbers, prompts, completions, max_tokens)
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


def pack_sharing(
    units: Sequence[list[int]],
    prompt_numbers: Sequence[Hashable],
    prompts: Sequence[int],
    completions: Sequence[int],
    max_tokens: int,
) -> list[list[int]]:
    """Units of rows in packed rows, the largest first, each within the budget or one unit.

    Args:
        units: rows that stay together.
        prompt_numbers: what tells every row's prompt from others.
        prompts: length of every row's prompt, in tokens; it counts once a part.
        completions: of its completion.
        max_tokens: of a part.
    """

    def tokens(rows: Sequence[int]) -> int:
        of_prompts = {prompt_numbers[row]: prompts[row] for row in rows}
        return sum(of_prompts.values()) + sum(completions[row] for row in rows)

    # Units of one prompt side by side: what fits of them goes into one part, so that the prompt is computed once.
    together: dict[Hashable, list[list[int]]] = {}
    for unit in units:
        pieces = together.setdefault(prompt_numbers[unit[0]], [])
        if pieces and tokens(pieces[-1] + unit) <= max_tokens:
            pieces[-1] = pieces[-1] + unit
        else:
            pieces.append(list(unit))
    parts: list[list[int]] = []
    sizes: list[int] = []
    for piece in sorted((piece for pieces in together.values() for piece in pieces), key=tokens, reverse=True):
        # The first part with room: rows are filled up, where the next best order would leave gaps.
        place = next((place for place, size in enumerate(sizes) if size + tokens(piece) <= max_tokens), None)
        if place is None:
            parts.append(piece)
            sizes.append(tokens(piece))
        else:
            parts[place] += piece
            sizes[place] += tokens(piece)
    return parts


def groups_fit(rollout: Rollout, max_tokens: int, *, share_prompts: bool = False) -> bool:
    """Tell whether every group is within the budget by itself."""
    everything = list(range(len(rollout.texts)))
    prompts, completions = rollout.lengths()
    size = rollout.num_generations
    for start in range(0, len(everything), size):
        group = everything[start : start + size]
        longest = max(prompts[row] for row in group)
        if share_prompts:
            tokens = longest + sum(completions[row] for row in group)
        else:
            tokens = (longest + max(completions[row] for row in group)) * size
        if tokens > max_tokens:
            return False
    return True
