"""What the frozen start model says of the pairs: computed once, and kept in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlif.models import LanguageModel
from rlif.scoring import Scorer
from rlif.self_feedback.preferences import Pair
from rlif.self_feedback.progress import bar
from rlif.self_feedback.sequences import parts_within, sequence_logprobs
from rlif.self_feedback.stage_file import StageFile

# Sequences that are written to the file at a time, if so many fit the budget of tokens together.
SEQUENCES_PER_WRITE = 256


@torch.no_grad()
def reference_logprobs(
    scorer: Scorer,
    language_model: LanguageModel,
    pairs: Sequence[Pair],
    path: Path,
    *,
    model_fingerprint: str,
    max_tokens_per_forward: int,
) -> tuple[Tensor, Tensor]:
    """log pi_ref of every chosen and of every rejected completion: (n,) float32 each, nats, on the model's device.

    A completion of several pairs is computed once. An interrupted computation goes on where it stopped.

    Args:
        scorer: of the frozen model.
        language_model: that it scores.
        pairs: n preference pairs.
        path: of the file.
        model_fingerprint: of the frozen model; the file belongs to it and to these pairs.
        max_tokens_per_forward: padding included.

    Raises:
        UserError: the file was made of another model or of other pairs, or cannot be written.
    """
    chosen = [(tuple(pair.prompt_ids), tuple(pair.chosen_ids)) for pair in pairs]
    rejected = [(tuple(pair.prompt_ids), tuple(pair.rejected_ids)) for pair in pairs]
    distinct = list(dict.fromkeys([*chosen, *rejected]))
    settings = {"model": model_fingerprint[:16], "preferences": pairs_fingerprint(pairs)}
    file = StageFile(path, settings)
    with bar("Reference log-probabilities", "completions", len(distinct), len(file.rows)) as advance:
        for start in range(len(file.rows), len(distinct), SEQUENCES_PER_WRITE):
            batch = distinct[start : start + SEQUENCES_PER_WRITE]
            prompts, completions = [list(prompt) for prompt, _ in batch], [list(completion) for _, completion in batch]
            logprobs = torch.zeros(len(batch))
            for rows in parts_within(prompts, completions, max_tokens_per_forward):
                part = sequence_logprobs(
                    scorer, language_model, [prompts[row] for row in rows], [completions[row] for row in rows]
                )
                logprobs[rows] = part.cpu()
            file.append({"logprob": logprob} for logprob in logprobs.tolist())
            advance(len(batch))
    by_sequence = dict(zip(distinct, (row["logprob"] for row in file.rows), strict=True))
    values = torch.tensor([[by_sequence[each] for each in side] for side in (chosen, rejected)])
    return values[0].to(language_model.device), values[1].to(language_model.device)


def pairs_fingerprint(pairs: Sequence[Pair]) -> str:
    """Changes with any token or gap of the pairs, and with their order."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(json.dumps([pair.prompt_ids, pair.chosen_ids, pair.rejected_ids, pair.gap]).encode())
    return digest.hexdigest()[:16]
