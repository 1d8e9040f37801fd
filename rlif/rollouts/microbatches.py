"""Divide sequences over forwards that stay within a budget of tokens.

A forward over rows of their own counts (longest prompt + longest completion) x rows. One over a packed row, in which
each prompt is there once, counts the tokens of its prompts and completions.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rlif.rollouts.rollout import Rollout


def is_shared(packed_tokens: int, padded_tokens: int, share_prompts: float) -> bool:
    """Tell whether a forward is over a packed row: if that has less than this share of the tokens of padded rows."""
    return packed_tokens < share_prompts * padded_tokens


def microbatches(
    rollout: Rollout, rows: list[int], max_tokens: int, *, whole_groups: bool = False, share_prompts: float = 0
) -> list[list[int]]:
    """Rows in parts, the longest first.

    Args:
        rollout: where the rows are from.
        rows: to divide; whole groups if these are to stay whole.
        max_tokens: of a part, which exceeds them only where one row, or one group that must stay whole, does by itself.
        whole_groups: keep the completions of a prompt together.
        share_prompts: of the scorer; 0: forwards are over rows of their own.
    """
    prompts, completions = rollout.lengths()
    size = rollout.num_generations if whole_groups else 1
    units = [rows[start : start + size] for start in range(0, len(rows), size)]
    if share_prompts:
        return pack_sharing(units, rollout.prompt_numbers, prompts, completions, max_tokens, share_prompts)
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
            if padded_tokens(prompts, completions, joined) <= max_tokens:
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
    share_prompts: float = 1,
) -> list[list[int]]:
    """Units of rows in packed rows, the largest first, each within the budget or one unit.

    Args:
        units: rows that stay together.
        prompt_numbers: what tells every row's prompt from others.
        prompts: length of every row's prompt, in tokens; it counts once a part.
        completions: of its completion.
        max_tokens: of a part, as its forward will be: over a packed row, or over padded rows.
        share_prompts: of the scorer.
    """

    def tokens(rows: Sequence[int]) -> int:
        return forward_tokens(
            [prompt_numbers[row] for row in rows],
            [prompts[row] for row in rows],
            [completions[row] for row in rows],
            share_prompts,
        )

    everything = [row for unit in units for row in unit]
    if not everything or tokens(everything) == padded_tokens(prompts, completions, everything):
        return pack(units, prompts, completions, max_tokens)
    # Units of one prompt side by side: what fits of them goes into one part, so that the prompt is computed once.
    together: dict[Hashable, list[list[int]]] = {}
    for unit in units:
        pieces = together.setdefault(prompt_numbers[unit[0]], [])
        if pieces and tokens(pieces[-1] + unit) <= max_tokens:
            pieces[-1] = pieces[-1] + unit
        else:
            pieces.append(list(unit))
    parts: list[list[int]] = []
    for piece in sorted((piece for pieces in together.values() for piece in pieces), key=tokens, reverse=True):
        # The first part with room: so parts are filled up.
        place = next((place for place, part in enumerate(parts) if tokens(part + piece) <= max_tokens), None)
        if place is None:
            parts.append(piece)
        else:
            parts[place] = parts[place] + piece
    return parts


def forward_tokens(
    prompt_numbers: Sequence[Hashable], prompts: Sequence[int], completions: Sequence[int], share_prompts: float
) -> int:
    """Count the tokens of one forward over some rows, packed or padded as `is_shared` says."""
    packed = sum(dict(zip(prompt_numbers, prompts, strict=True)).values()) + sum(completions)
    padded = padded_tokens(prompts, completions, range(len(prompts)))
    # The last token of a completion is not fed.
    fed = packed - sum(length > 0 for length in completions)
    return packed if is_shared(fed, padded - len(prompts), share_prompts) else padded


def padded_tokens(prompts: Sequence[int], completions: Sequence[int], rows: Sequence[int]) -> int:
    """Count the tokens of some rows, padding included."""
    return (max(prompts[row] for row in rows) + max(completions[row] for row in rows)) * len(rows)


def groups_fit(rollout: Rollout, max_tokens: int, *, share_prompts: float = 0) -> bool:
    """Tell whether every group is within the budget by itself."""
    prompts, completions = rollout.lengths()
    size = rollout.num_generations
    return all(
        forward_tokens(
            rollout.prompt_numbers[start : start + size],
            prompts[start : start + size],
            completions[start : start + size],
            share_prompts,
        )
        <= max_tokens
        for start in range(0, len(prompts), size)
    )
