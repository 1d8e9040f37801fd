"""P(True): the model's own verdict on a completion (CORE-PO, arXiv 2505.17454; P(True) is of 2207.05221)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlif.errors import UserError
from rlif.models.language_model import LanguageModel, positions
from rlif.rollouts.encode import pad_left
from rlif.self_feedback.sequences import parts_within


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
) -> list[float]:
    """How likely the model is to call each of N completions right rather than wrong, in [0, 1].

    Args:
        language_model: in evaluation mode.
        prompts: N lists of token ids.
        completions: N completions; special tokens in them, such as an EOS, are left out.
        request: the text that asks for the verdict.
        words: for right and for wrong, whose first tokens are compared: p(right) / (p(right) + p(wrong)).
        max_tokens_per_forward: padding included.

    Raises:
        UserError: the words cannot be told apart.
    """
    right, wrong = verdict_tokens(language_model, words)
    asked = language_model.tokenizer(request, add_special_tokens=False)["input_ids"]
    special = set(language_model.tokenizer.all_special_ids) | set(language_model.eos_token_ids)
    sequences = [
        prompt + [token for token in completion if token not in special] + asked
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    scores = [0.0] * len(sequences)
    for rows in parts_within(sequences, [[]] * len(sequences), max_tokens_per_forward):
        ids, mask = pad_left([sequences[row] for row in rows], language_model.pad_token_id, language_model.device)
        logits = language_model.model(
            input_ids=ids, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False, logits_to_keep=1
        ).logits[:, -1]
        odds = logits[:, right].double() - logits[:, wrong].double()
        for row, score in zip(rows, torch.sigmoid(odds).tolist(), strict=True):
            scores[row] = score
    return scores
