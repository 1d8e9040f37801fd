"""The tokens that an answer was decoded from. Loads no torch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlif.answers.extract import Stated

# What a decoder puts where the bytes of a token are only a part of a character.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def answer_tokens(stated: Stated | None, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> slice | None:
    """Find the tokens that a part of a stated answer was decoded from; None if there is no answer.

    Args:
        stated: by what `ids` decode to, without special tokens.
        ids: of the completion, without padding.
        tokenizer: that decodes them.
    """
    return None if stated is None else tokens_at(stated.start, stated.end, ids, tokenizer)


def tokens_at(start: int, end: int, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> slice | None:
    """Find the tokens that `text[start:end]` was decoded from, where text is what `ids` decode to; None if none was.

    Arguments are those of `answer_tokens`.
    """

    def decoded(count: int) -> str:
        return tokenizer.decode(ids[:count], skip_special_tokens=True)

    def decoded_length(count: int) -> int:
        return len(decoded(count).rstrip(REPLACEMENT))

    # The number of whole characters grows with the tokens, so bisection finds a place in it with few decodings. The
    # bytes of one that is not whole decode to one replacement or to one each.
    counts = range(len(ids) + 1)
    first = bisect_right(counts, start, key=decoded_length) - 1
    while first > 0 and decoded(first).endswith(REPLACEMENT):
        first -= 1
    last = bisect_left(counts, end, key=decoded_length)
    return slice(first, last) if first < last else None
