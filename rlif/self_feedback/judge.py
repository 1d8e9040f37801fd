"""P(True): the model's own verdict on a completion (CORE-PO, arXiv 2505.17454; P(True) is of 2207.05221)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlif.errors import UserError
from rlif.models.language_model import LanguageModel, positions
from rlif.models.packed_row import pack_row, packed
from rlif.rollouts.encode import pad_left
from rlif.rollouts.microbatches import is_shared
from rlif.scoring.sequences import Ids, parts_within


def verdict_tokens(language_model: LanguageModel, words: tuple[str, str]) -> tuple[int, int]:
    """Return the first tokens of the words for right and for wrong.

    Raises:
        UserError: one has no token, or both begin with the same one.
    """
    ids = [language_model.tokenizer(word, add_special_tokens=False)["input_ids"][:1] for word in words]
    if not ids[0] or not ids[1] or ids[0] == ids[1]:
        raise UserError(f"verdicts: got {words[0]!r} and {words[1]!r}, expected words that begin with different tokens")
    if max(ids)[0] >= language_model.vocab_size:
        raise UserError(
            f"verdicts: got {words[0]!r} and {words[1]!r}, expected words within the first {language_model.vocab_size} "
            "tokens, which are all that vocab_size leaves"
        )
    return ids[0][0], ids[1][0]


@torch.no_grad()
def p_true(
    language_model: LanguageModel,
    prompts: Sequence[list[int]],
    completions: Sequence[list[int]],
    request: str,
    words: tuple[str, str],
    max_tokens_per_forward: int,
    *,
    share_prompts: float = 0,
) -> list[float]:
    """How likely the model is to call each of N completions right rather than wrong, in [0, 1].

    Args:
        language_model: in evaluation mode.
        prompts: N lists of token ids.
        completions: N completions; special tokens in them, such as an EOS, are left out.
        request: the text that asks for the verdict.
        words: for right and for wrong, whose first tokens are compared: p(right) / (p(right) + p(wrong)).
        max_tokens_per_forward: as `rlif.rollouts.microbatches` counts them.
        share_prompts: of a scorer of the model.

    Raises:
        UserError: the words cannot be told apart.
    """
    right, wrong = verdict_tokens(language_model, words)
    asked = language_model.tokenizer(request, add_special_tokens=False)["input_ids"]
    special = set(language_model.tokenizer.all_special_ids) | set(language_model.eos_token_ids)
    told = [[token for token in completion if token not in special] + asked for completion in completions]
    scores = [0.0] * len(told)
    for rows in parts_within(prompts, told, max_tokens_per_forward, share_prompts=share_prompts):
        logits = last_logits(language_model, [prompts[row] for row in rows], [told[row] for row in rows], share_prompts)
        odds = logits[:, right].double() - logits[:, wrong].double()
        for row, score in zip(rows, torch.sigmoid(odds).tolist(), strict=True):
            scores[row] = score
    return scores


def last_logits(
    language_model: LanguageModel, prompts: Sequence[Ids], completions: Sequence[Ids], share_prompts: float
) -> Tensor:
    """Return the logits behind N completions, (N, V): of a packed row, or of a padded row for each."""
    model, device = language_model.model, language_model.device
    sequences = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    row = pack_row(prompts, completions, device)
    if is_shared(row.input_ids.shape[1], max(map(len, sequences)) * len(sequences), share_prompts):
        last = [places[-1] if places else end for places, end in zip(row.places, row.prompt_ends, strict=True)]
        with packed(model, row):
            return model(**row.inputs(), logits_to_keep=torch.tensor(last, device=device)).logits[0]
    ids, mask = pad_left(sequences, language_model.pad_token_id, device)
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions(mask), "use_cache": False}
    return model(**inputs, logits_to_keep=1).logits[:, -1]
