"""How sure a model was of each token of a completion, with the token's text: what reports and notebooks colour.

`samples.jsonl` keeps it as one object a completion, `tokens`, of about 30 bytes a token:

    {"lengths": [1, 0], "logprob": [-0.11, -2.3], "entropy": [0.4, 1.9], "self_certainty": [5.1, 2.2]}

`lengths` counts the characters of the completion that each token was decoded to: none for an end token, nor for a token
that is only a part of a character, which counts with the token that ends it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlif.scoring.answer_tokens import REPLACEMENT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlif.rollouts.rollout import Rollout
    from rlif_kernels import TokenStats

# The fields of `TokenStats` that are kept of a token, in nats.
TOKEN_OUTPUTS = ("logprob", "entropy", "self_certainty")
# Significant digits that are kept: more are no difference to the eye.
DIGITS = 3
# Tokens of a completion of which statistics are kept, from its beginning.
MAX_TOKENS = 2000


@dataclass(frozen=True)
class TokenConfidence:
    """The tokens of one completion, or the first of them, and how sure the model was of each.

    Attributes:
        texts: of each token; together they are the completion, or its beginning. Empty for a token that shows nothing.
        values: by name of a field of `TokenStats`, a number for each token, in nats; None where it was not finite.
    """

    texts: list[str]
    values: dict[str, list[float | None]]

    def to_json(self) -> dict[str, list[Any]]:
        """Return what `samples.jsonl` keeps beside the completion."""
        return {"lengths": [len(text) for text in self.texts], **self.values}

    @classmethod
    def from_json(cls, completion: str, kept: Mapping[str, Any]) -> TokenConfidence:
        """Put together what `to_json` made of a completion.

        Raises:
            ValueError: it is something else, or of another completion.
        """
        lengths = kept.get("lengths")
        if not isinstance(lengths, list) or not all(type(each) is int and each >= 0 for each in lengths):
            raise ValueError("lengths of tokens that are no counts")
        if sum(lengths) > len(completion):
            raise ValueError("tokens that are longer than the completion")
        values = {name: kept[name] for name in TOKEN_OUTPUTS if name in kept}
        for name, numbers in values.items():
            if not isinstance(numbers, list) or len(numbers) != len(lengths) or not all(map(_is_number, numbers)):
                raise ValueError(f"{name} that is no number for each token")
        ends = itertools.accumulate(lengths)
        return cls([completion[end - length : end] for end, length in zip(ends, lengths, strict=True)], values)


def token_confidence(
    rollout: Rollout,
    row: int,
    tokenizer: PreTrainedTokenizerBase,
    stats: TokenStats | None = None,
    *,
    stats_row: int | None = None,
) -> TokenConfidence:
    """Read off how sure the model was of each token of a completion.

    Args:
        rollout: N completions of at most T tokens.
        row: of the completion.
        tokenizer: that decoded it.
        stats: with (N, T) fields of `TOKEN_OUTPUTS`, or some of them; None: those of the rollout.
        stats_row: of the completion in `stats`, where that has other rows; None: the same.

    Returns:
        The first `MAX_TOKENS` tokens, with `DIGITS` digits of each number.

    Raises:
        ValueError: there are no statistics.
    """
    stats = rollout.stats if stats is None else stats
    if stats is None:
        raise ValueError(f"rollout: got no statistics, expected those of sample(..., outputs={TOKEN_OUTPUTS})")
    length = int(rollout.completion_mask[row].sum())
    kept = min(length, MAX_TOKENS)
    place = row if stats_row is None else stats_row
    values = {
        name: [_rounded(value) for value in field[place, :kept].tolist()]
        for name in TOKEN_OUTPUTS
        if (field := getattr(stats, name)) is not None
    }
    ids = rollout.completion_ids[row, :length].tolist()
    return TokenConfidence(token_texts(ids, rollout.texts[row], tokenizer)[:kept], values)


def token_texts(ids: list[int], text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Divide a completion into the texts of its tokens.

    Args:
        ids: of the completion, without padding.
        text: what they decode to, without special tokens.
        tokenizer: that decodes them.

    Returns:
        One text for each token, which make `text` together. A token that ends inside a character, or is special, has
        an empty one.
    """

    def decoded(first: int, last: int) -> str:
        return tokenizer.decode(ids[first:last], skip_special_tokens=True)

    texts: list[str] = []
    start = read = 0
    for end in range(1, len(ids) + 1):
        # Together with the token before it: some tokenizers take away the space that a text begins with.
        before, after = decoded(start, read), decoded(start, end)
        if after.endswith(REPLACEMENT) and end < len(ids):
            texts.append("")
            continue
        texts.append(after[len(before) :])
        start, read = read, end
    return texts if "".join(texts) == text else _by_prefixes(ids, text, tokenizer)


def _by_prefixes(ids: list[int], text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The same for a tokenizer that decodes a token otherwise after others, from as many decodings of all before it."""
    ends = [0]
    for count in range(1, len(ids)):
        whole = tokenizer.decode(ids[:count], skip_special_tokens=True)
        same = next((place for place, (a, b) in enumerate(zip(whole, text, strict=False)) if a != b), len(whole))
        ends.append(max(ends[-1], min(same, len(text))))
    ends.append(len(text))
    return [text[first:last] for first, last in itertools.pairwise(ends)][: len(ids)]


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e30)
