"""What the frozen start model says of completions: computed once, and kept in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from rlif.files.jsonl import StageFile
from rlif.models.language_model import LanguageModel
from rlif.progress_bar import bar
from rlif.scoring.scorer import Scorer
from rlif.self_feedback.sequences import Ids, as_rollout, parts_within

# Sequences that are written to the file at a time.
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

    Returns:
        N lists: of a number for every token with `per_token`, else of one.

    Raises:
        UserError: the file belongs to something else, or cannot be written.
    """
    keys = [(tuple(prompt), tuple(completion)) for prompt, completion in sequences]
    distinct = list(dict.fromkeys(keys))
    file = StageFile(path, settings)
    with bar("Reference log-probabilities", "completions", len(distinct), len(file.rows)) as advance:
        for start in range(len(file.rows), len(distinct), SEQUENCES_PER_WRITE):
            batch = distinct[start : start + SEQUENCES_PER_WRITE]
            prompts, completions = [list(prompt) for prompt, _ in batch], [list(completion) for _, completion in batch]
            values: list[list[float]] = [[] for _ in batch]
            for rows in parts_within(prompts, completions, max_tokens_per_forward, share_prompts=scorer.share_prompts):
                rollout = as_rollout(language_model, [prompts[row] for row in rows], [completions[row] for row in rows])
                logprob = scorer(rollout, 1.0, outputs=("logprob",)).logprob
                if not per_token:
                    logprob = logprob.sum(dim=1, keepdim=True)
                for row, numbers in zip(rows, logprob.tolist(), strict=True):
                    values[row] = numbers[: len(completions[row])]
            file.append({"logprob": numbers} for numbers in values)
            advance(len(batch))
    by_key = dict(zip(distinct, (row["logprob"] for row in file.rows), strict=True))
    return [by_key[key] for key in keys]
