"""RLCR pays most for stating what one believes, and nothing where the form is broken."""

from __future__ import annotations

import numpy as np
import pytest

from rlif.rewards.verbalized import rlcr, rlcr_majority, verbalized_confidence, verbalized_extremes


def completion(answer: object, confidence: object) -> str:
    return f"</think><answer>{answer}</answer><analysis>?</analysis><confidence>{confidence}</confidence>"


@pytest.mark.parametrize(
    ("answer", "confidence", "reward"),
    [(4, 1, 1.5), (4, 0, 1.0), (5, 0, 1.0), (5, 1, 0.5), (4, 0.8, 1.0 + 0.5 * (1 - 0.04)), (5, 0.8, 0.5 + 0.5 * 0.36)],
)
def test_the_reward_is_that_of_the_paper(answer: int, confidence: float, reward: float) -> None:
    assert rlcr([completion(answer, confidence)], ["4"]) == [pytest.approx(reward)]


def test_what_is_not_of_the_form_gets_nothing_even_if_it_is_right() -> None:
    broken = [completion(4, 0.9) + "!", completion(4, "90%"), completion(4, 90), "#### 4", ""]
    assert rlcr(broken, ["4"] * len(broken)) == [0.0] * len(broken)


def test_an_answer_in_a_box_within_its_tag_is_read() -> None:
    assert rlcr([completion(r"\boxed{4}", 1)], ["4"]) == [1.5]


def test_the_best_confidence_is_the_chance_of_being_right() -> None:
    stated = np.linspace(0, 1, 101)
    for chance in (0.1, 0.37, 0.9):
        right, wrong = (np.array(rlcr([completion(answer, q) for q in stated], ["4"] * 101)) for answer in (4, 5))
        assert stated[np.argmax(chance * right + (1 - chance) * wrong)] == pytest.approx(chance)


def test_without_labels_the_majority_of_the_group_is_right() -> None:
    group = [completion(answer, 1) for answer in ("4", "4.0", "5")] + ["4", completion(7, 0), completion(7, 0)]
    assert rlcr_majority(group[:4], 4) == [1.5, 1.5, 0.5, 0.0]
    assert rlcr_majority(group[:2] + group[4:], 2) == [1.5, 1.5, 1.0, 1.0]


def test_confidence_alone_can_be_watched() -> None:
    texts = [completion(1, 0.3), completion(1, 0.995), completion(1, 0), "1"]
    assert verbalized_confidence(texts) == [0.3, 0.995, 0.0, None]
    assert verbalized_extremes(texts) == [0.0, 1.0, 1.0, None]
