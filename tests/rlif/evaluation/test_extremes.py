"""What a page shows of an evaluation was kept when it was sampled, and little else was."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from rlif.errors import UserError
from rlif.evaluation.extremes import ENDS, SHOWN, End, Extremes, ends_of, order_score

Row = dict[str, Any]


def made_rows(seed: int, count: int) -> tuple[list[Row], list[list[bool | None]]]:
    """Rows of four completions, and whether each is right; scores have ties."""
    draw, rows, kinds = random.Random(seed), [], []
    for _ in range(count):
        gold = draw.choice(["2", "2", None])
        texts = [draw.choice(["#### 2", "#### 3", "nothing"]) for _ in range(4)]
        scores = {"self_certainty": [draw.randint(0, count) / 4 for _ in range(4)]}
        rows.append({"answer": gold, "completions": texts, "finished": [True] * 4, "scores": scores})
        kinds.append([None if gold is None else text == "#### 2" for text in texts])
    return rows, kinds


@pytest.mark.parametrize("seed", range(5))
def test_the_most_extreme_of_all_rows_were_kept_when_their_rows_came(seed: int) -> None:
    rows, kinds = made_rows(seed, 60)
    extremes = Extremes("strict")
    kept = [extremes.places(row) for row in rows]
    for end in ENDS:
        scores = [row["scores"]["self_certainty"] for row in rows]
        found = [(number, ends_of(*each)) for number, each in enumerate(zip(scores, kinds, strict=True))]
        places = [(number, ends[end]) for number, ends in found if end in ends]
        places.sort(key=lambda at: scores[at[0]][at[1]], reverse=end.is_sure)
        assert len(places) > SHOWN
        assert all(place in kept[number] for number, place in places[:SHOWN])


def test_few_are_kept_of_many() -> None:
    rows, _ = made_rows(0, 1000)
    extremes = Extremes("strict")
    kept = sum(len(extremes.places(row)) for row in rows)
    # 4 (1 + log(1000 / 4)) of each of six ends are 157 on average, of 4000 completions.
    assert 6 * SHOWN <= kept < 250


def test_rows_that_are_there_already_decide_what_is_kept_of_those_that_follow() -> None:
    rows, _ = made_rows(1, 40)
    whole, resumed = Extremes("strict"), Extremes("strict")
    kept = [whole.places(row) for row in rows]
    resumed.take(rows[:25], Path("completions.jsonl"))
    assert [resumed.places(row) for row in rows[25:]] == kept[25:]


@pytest.mark.parametrize(
    "damaged", [{"scores": {}}, {"scores": 3}, {"completions": [1, 2, 3, 4]}, {"finished": [True]}, {"answer": 3}]
)
def test_a_damaged_row_is_one_error(damaged: Row) -> None:
    rows, _ = made_rows(0, 2)
    with pytest.raises(UserError, match=r"resume: some/completions\.jsonl, line 2 is damaged \(\w+: ") as error:
        Extremes("strict").take(
            [rows[0], {**rows[1], "completions": ["#### 2"] * 4, **damaged}], Path("some/completions.jsonl")
        )
    assert "\n" not in str(error.value)


def test_of_equal_scores_the_first_is_the_extreme_of_its_kind() -> None:
    assert ends_of([1.0, 2.0, 2.0, 1.0], [True, True, True, False]) == {
        End(True, True): 1, End(True, False): 0, End(False, True): 3, End(False, False): 3,
    }  # fmt: skip


def test_completions_are_sorted_by_self_certainty_where_there_is_any() -> None:
    assert order_score(["verbalized", "self_certainty"]) == "self_certainty"
    assert order_score(["verbalized", "other"]) == "verbalized"
    assert order_score([]) is None
