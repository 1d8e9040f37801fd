"""An answer's tokens are those that a part of it was decoded from."""

import pytest

from rlif.answers.extract import stated_answer
from rlif.scoring.answer_tokens import answer_tokens


class TokenPieces:
    """A tokenizer whose pieces are longer than a character, one of them special and one a part of a character."""

    pieces = ("<s>", "the ", "answer", ": \\boxed{", "1", "2", "3}", ".")

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(self.pieces[index] for index in ids if not (skip_special_tokens and index == 0))


@pytest.mark.parametrize(
    ("ids", "tokens"),
    [
        ([1, 2, 3, 4, 5, 6, 7], [4, 5, 6]),
        ([0, 1, 3, 4, 0, 6, 0], [4, 0, 6]),
        ([3, 6], [6]),
        ([1, 2], None),
    ],
)
def test_the_answers_tokens_are_those_that_a_part_of_it_was_decoded_from(ids: list[int], tokens: list[int]) -> None:
    tokenizer = TokenPieces()
    found = answer_tokens(stated_answer(tokenizer.decode(ids, skip_special_tokens=True)), ids, tokenizer)  # type: ignore[arg-type]
    assert (None if found is None else ids[found]) == tokens
