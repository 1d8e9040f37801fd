"""A known answer is found where a text states it, and not in what the question has already said.

More of what is whole and what is a part is in tests/rlif/self_feedback/test_spans.py, token by token.
"""

from __future__ import annotations

import pytest

from rlif.answers.places import answer_place


@pytest.mark.parametrize(
    ("question", "completion", "answer", "expected"),
    [
        ("What is the capital of France?", "The capital of France is Paris.", " The capital of France is Lyon", None),
        (
            "What is the capital of France?",
            "The capital of France is Paris.",
            " The capital of France is Paris",
            "Paris",
        ),
        ("What is the capital of France?", "It is Paris.", " The capital of France is Paris", "Paris"),
        ("Is it Paris or London?", "Paris and London are cities.", " Paris", None),
        ("Is it Paris or London?", "Of Paris and London, it is Paris.", " Paris", "Paris"),
        ("He has 12 apples and eats 5.", "He has 12 apples, eats 5 and so on. There are 7 left.", " 12", None),
        ("He has 12 apples.", "He has 12 - 0 = 12 apples.", " 12", "12"),  # it states what the question has
        ("Name a city.", "It is Paris, I think.", " Paris, which is the capital of France", "Paris"),
        ("Is 3 prime? Answer yes or no.", "Yes, it has no divisors.", " Yes.", "Yes"),
        ("Is 3 prime? Answer yes or no.", "Well, yes or no? It has no divisors.", " Yes.", None),
        ("", "She has twenty-one coins, I say.", " 21", "twenty-one"),
        ("", "She has 20 coins, I say.", " Twenty.", "20"),
        ("", "She has this one.", " 1", None),
        ("", "x=2 or x=3", " 2 and 3", None),  # one of them is a part
        ("", "It is 2 and 3, I say so.", " 2 and 3", "2 and 3"),
        ("", "He is 5'6\" tall", " 5", None),
        ("", "So x^2+1 it is.", " $x^2+1$", "x^2+1"),
        ("", "So x^2+1-y it is.", " $x^2+1$", None),
        ("", "The capital of France is Paris.", " The capital of France is Lyon", None),
    ],
)
def test_words_and_numbers_of_the_question_are_no_answer_unless_the_completion_states_them(
    question: str, completion: str, answer: str, expected: str | None
) -> None:
    place = answer_place(completion, answer, question=question)
    assert (None if place is None else completion[slice(*place)]) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (" The capital of France is Par", None),  # a word that was cut in two, and what stands before it
        (" Paris, the capital of Fra", "Paris"),
        (" 12 apples and 3 pe", "12"),
        (" 12", None),
        (" Paris. It has 2 mill", "Paris"),
    ],
)
def test_of_a_reply_that_was_cut_off_only_what_is_whole_counts(asked: str, expected: str | None) -> None:
    text = "The capital of France is Paris, and 12 it is."
    place = answer_place(text, asked, cut_off=True)
    assert (None if place is None else text[slice(*place)]) == expected


def test_texts_of_any_length_are_searched_in_one_pass() -> None:
    # A hundred thousand characters that a step back at each one would take hours over.
    for text in ("1 " * 50_000, "(" * 100_000, "(1," * 30_000, "is " * 30_000):
        assert answer_place(text, " 12.", question=text[:1000]) is None
