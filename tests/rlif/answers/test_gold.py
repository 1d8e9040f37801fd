"""A gold answer is what a data set holds, of any type that has a meaning as one."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
import torch

from rlif.answers.gold import gold_answer, in_words
from rlif.answers.matching import is_right


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("#### ", None),
        (float("nan"), None),
        (np.float32("nan"), None),
        (Decimal("NaN"), None),
        (1e-05, "0.00001"),
        (1e16, "10000000000000000"),
        (7, "7"),
        (0.1, "0.1"),
        (np.float32(0.1), "0.1"),
        (np.float16(0.1), "0.1"),
        (np.float64(0.1), "0.1"),
        (np.int64(-3), "-3"),
        (Decimal("0.50"), "0.50"),
        (Decimal("1e-7"), "0.0000001"),
        (Decimal("1e99999999999"), "1E+99999999999"),
        pytest.param(10**5000, "1" + "0" * 5000, id="5001 digits"),
        (Fraction(1, 3), "1/3"),
        (float("-inf"), r"-\infty"),
        ("42", "42"),
        (" Paris ", "Paris"),
        ("5 + 37 = 42\n#### 42", "42"),
        ("#### Step 1: Simplify\nWe divide by two.\nSo \\boxed{4}.", "4"),
        ("The answer is 42.", "The answer is 42."),  # a gold answer that marks nothing is itself
        (np.str_("42"), "42"),
    ],
)
def test_a_gold_answer_is_text_written_out_in_full(value: object, answer: str | None) -> None:
    assert gold_answer(value) == answer


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (["Paris", "City of Paris"], ("Paris", "City of Paris")),
        (("1", 2.5), ("1", "2.5")),
        (["so #### 3", r"\boxed{4}"], ("3", "4")),
        (["7", 7, None, ""], "7"),  # one is not several
        ([], None),
        ([None, "  "], None),
        ([True, 1], ("true", "yes", "1")),
    ],
)
def test_a_list_is_of_answers_any_of_which_is_right(value: object, answer: str | tuple[str, ...] | None) -> None:
    assert gold_answer(value) == answer


def test_what_libraries_hold_counts_as_what_they_hold() -> None:
    for value, answer in (
        (np.array(0.1, dtype=np.float32), "0.1"),
        (torch.tensor(0.1), "0.1"),
        (torch.tensor(7), "7"),
        (pa.scalar(7, pa.int32()), "7"),
        (pa.scalar(Decimal("0.50")), "0.50"),
        (pa.scalar(None, pa.string()), None),
        (np.array([0.1, 7], dtype=np.float32), ("0.1", "7.0")),
        (np.array(["a", "b"]), ("a", "b")),
        (torch.tensor([1, 2]), ("1", "2")),
        (pa.scalar(["a", None, "b"]), ("a", "b")),
    ):
        assert gold_answer(value) == answer
    for value in (np.True_, np.array(True), torch.tensor(True), pa.scalar(True)):
        assert gold_answer(value) == gold_answer(True)
    for value, kind in ((np.zeros((2, 2)), "list"), (pa.scalar({"a": 1}), "dict"), (pa.scalar([["a"]]), "list")):
        with pytest.raises(TypeError, match=rf"of type {kind}, expected text"):
            gold_answer(value)


def test_true_is_what_a_model_says_for_it_and_so_is_false() -> None:
    gold = gold_answer(True)
    assert gold == ("true", "yes")
    assert is_right("Yes.", gold)
    assert is_right(r"\text{True}", gold)
    assert not is_right("no", gold)
    assert gold_answer(False) == ("false", "no")


def test_any_of_several_gold_answers_makes_an_answer_right() -> None:
    gold = gold_answer(["1/2", "18 miles"])
    assert gold is not None
    for answer in ("0.5", "18"):
        assert is_right(answer, gold)
        assert is_right(answer, list(gold))  # as a file has them
    assert not is_right("18 km", gold)
    assert in_words(gold) == "1/2 or 18 miles"
    assert in_words("1/2") == "1/2"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"text": ["a"]}, "dict"),
        ([["1", "2"], ["3"]], "list"),
        ([{"a": 1}], "dict"),
        (b"5", "bytes"),
        (3 + 4j, "complex"),
        (object(), "object"),
    ],
)
def test_what_has_no_meaning_as_a_gold_answer_is_refused_by_its_type(value: object, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"^got .* of type {kind}, expected text, a number, true or false, or a list"):
        gold_answer(value)
