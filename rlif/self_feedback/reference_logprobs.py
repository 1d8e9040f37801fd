"""What the frozen start model says of completions: computed once, and kept in a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from rlif.errors import UserError
from rlif.files.jsonl import StageFile
from rlif.models.language_model import LanguageModel
from rlif.progress_bar import bar
from rlif.rollouts.batch_size import tokens_at_a_time
from rlif.scoring.scorer import Scorer
from rlif.scoring.sequences import Ids, as_rollout, parts_within

# Sequences that are written to the file at a time, by a GPU.
SEQUENCES_PER_WRITE = 256


@torch.no_grad()
def reference_logprobs(
    scorer: Scorer,
    language_model: LanguageModel,
    sequences: Sequence[tuple[Ids, Ids]],
    path: Path,
    *,
    settings: dict[str, str],
    max_tokens_per_forward: int,
    per_token: bool = False,
    title: str = "Reference log-probabilities",
) -> list[list[float]]:
    """log pi_ref of N completions given their prompts, in nats: the sum over the tokens, or each token's.

    A sequence that occurs several times is computed once. An interrupted computation goes on where it stopped.

    Args:
        scorer: of the frozen model.
        language_model: that it scores.
        sequences: N pairs of prompt and completion, as token ids.
        path: of the file.
        settings: what tells this model and these sequences from others, to which the file may belong.
        max_tokens_per_forward: as `rlif.rollouts.microbatches` counts them.
        per_token: whether each token is wanted.
        title: of the progress bar.

    Returns:
        N lists: of a number for every token with `per_token`, else of one.

    Raises:
        UserError: the file belongs to something else, or cannot be written.
    """

    def compute(prompts: list[Ids], completions: list[Ids]) -> list[list[float]]:
        logprob = scorer(as_rollout(language_model, prompts, completions), 1.0, outputs=("logprob",)).logprob
        if not per_token:
            logprob = logprob.sum(dim=1, keepdim=True)
        return [numbers[: len(ids)] for numbers, ids in zip(logprob.tolist(), completions, strict=True)]

    return kept_numbers(
        compute,
        language_model,
        sequences,
        path,
        settings=settings,
        max_tokens_per_forward=max_tokens_per_forward,
        share_prompts=scorer.share_prompts,
        per_token=per_token,
        title=title,
    )


def kept_numbers(
    compute: Callable[[list[Ids], list[Ids]], list[list[float]]],
    language_model: LanguageModel,
    sequences: Sequence[tuple[Ids, Ids]],
    path: Path,
    *,
    settings: dict[str, str],
    max_tokens_per_forward: int,
    title: str,
    share_prompts: float = 0,
    per_token: bool = False,
) -> list[list[float]]:
    """What is computed of N sequences, from a file as far as it is there: see `reference_logprobs`.

    Args:
        compute: returns the numbers of some prompts' completions, which are one forward.
        language_model: whose size says how many sequences are written at a time.
        sequences: N pairs of prompt and completion, as token ids.
        path: of the file.
        settings: to which the file may belong.
        max_tokens_per_forward: as `rlif.rollouts.microbatches` counts them.
        title: of the progress bar.
        share_prompts: of the scorer.
        per_token: whether each token has a number, or each completion.

    Raises:
        UserError: the file belongs to something else, or cannot be written.
    """
    keys = [(tuple(prompt), tuple(completion)) for prompt, completion in sequences]
    distinct = list(dict.fromkeys(keys))
    file = StageFile(path, settings)
    longest = max(len(prompt) + len(completion) for prompt, completion in distinct)
    at_a_time = max(1, tokens_at_a_time(language_model, SEQUENCES_PER_WRITE * longest) // longest)
    for number, (kept, (_, completion)) in enumerate(zip(file.rows, distinct, strict=False), start=1):
        if not _is_finite(kept.get("logprob"), len(completion) if per_token else 1):
            raise UserError(f"output_dir: {path}, row {number} has no logprob, or one of another completion")
    if len(file.rows) > len(distinct):
        raise UserError(f"output_dir: {path} has {len(file.rows)} rows, expected at most {len(distinct)}")
    with bar(title, "completions", len(distinct), len(file.rows)) as advance:
        for start in range(len(file.rows), len(distinct), at_a_time):
            batch = distinct[start : start + at_a_time]
            prompts, completions = [list(prompt) for prompt, _ in batch], [list(completion) for _, completion in batch]
            values: list[list[float]] = [[] for _ in batch]
            for rows in parts_within(prompts, completions, max_tokens_per_forward, share_prompts=share_prompts):
                found = compute([prompts[row] for row in rows], [completions[row] for row in rows])
                for row, numbers in zip(rows, found, strict=True):
                    values[row] = numbers
            file.append({"logprob": numbers} for numbers in values)
            advance(len(batch))
    by_key = dict(zip(distinct, (row["logprob"] for row in file.rows), strict=True))
    return [by_key[key] for key in keys]


def _is_finite(value: object, length: int) -> bool:
    """Tell whether a value is a list of that many finite numbers."""
    if not isinstance(value, list) or len(value) != length:
        return False
    return all(type(each) in (int, float) and abs(each) <= sys.float_info.max for each in value)
