"""Tags are read as the authors of RLCR read them, in one pass."""

from __future__ import annotations

import pytest

from rlif.answers.extract import stated_answer
from rlif.answers.tags import read_confidence, read_tags, strict_confidence

GOOD = "First 6 * 7. </think>\n<answer>42</answer> <analysis>I may be wrong.</analysis>\n<confidence>0.8</confidence>\n"


def answer_of(text: str) -> str | None:
    span = read_tags(text).answer
    return None if span is None else text[slice(*span)]


def test_a_completion_of_the_right_form_is_known_whether_or_not_it_opens_its_thought() -> None:
    for text in (GOOD, f"<think>{GOOD}", GOOD.replace("First", "An <answer>41</answer> first")):
        assert read_tags(text).well_formed
        assert answer_of(text) == "42"
        assert read_tags(text).confidence == "0.8"


@pytest.mark.parametrize(
    "broken",
    [
        GOOD.replace("</think>", ""),
        GOOD.replace("<analysis>I may be wrong.</analysis>", ""),
        GOOD.replace("</answer> ", "</answer> and so "),
        GOOD + "That is all.",
        GOOD.replace("</confidence>", ""),
        GOOD.replace("<confidence>", "<confidence><confidence>"),
        "<confidence>0.8</confidence>" + GOOD.replace("<confidence>0.8</confidence>", ""),
        "42",
        "",
    ],
)
def test_a_completion_of_another_form_is_not_well_formed(broken: str) -> None:
    assert not read_tags(broken).well_formed


def test_the_last_complete_tag_counts() -> None:
    text = "<answer>1</answer><confidence>0.1</confidence><answer> **2** </answer><confidence>0.2</confidence><answer>3"
    assert answer_of(text) == "2"
    assert read_tags(text).confidence == "0.2"


@pytest.mark.parametrize(
    ("content", "strictly", "generously"),
    [
        ("0.8", 0.8, 0.8),
        ("1", 1.0, 1.0),
        ("0", 0.0, 0.0),
        ("90", None, 0.9),
        ("90%", None, 0.9),
        ("1%", None, 0.01),
        ("0.5 %", None, 0.005),
        ("about 70 of 100", None, 0.7),
        ("100.0", None, 1.0),
        ("101", None, None),
        ("-0.1", None, None),
        ("nan", None, None),
        ("inf", None, None),
        ("sure", None, None),
        ("", None, None),
        (None, None, None),
        ("0." + "9" * 99, None, None),
    ],
)
def test_confidence_is_read_strictly_in_training_and_generously_in_evaluation(
    content: str | None, strictly: float | None, generously: float | None
) -> None:
    assert strict_confidence(content) == strictly
    assert read_confidence(content) == (None if generously is None else pytest.approx(generously))


@pytest.mark.parametrize(
    ("text", "tier", "answer"),
    [
        (GOOD, "tag", "42"),
        (r"<answer>\boxed{42}</answer>", "box", "42"),
        (r"\boxed{41} <answer>42</answer>", "tag", "42"),
        (r"<answer>41</answer> \boxed{42}", "box", "42"),
        ("<answer>41</answer>\n#### 42", "marker", "42"),
        ("#### 41\n<answer>42</answer>", "tag", "42"),
        ("<answer> </answer> The answer is 42.", "phrase", "42"),
    ],
)
def test_of_a_marker_a_box_and_a_tag_the_last_one_counts(text: str, tier: str, answer: str) -> None:
    stated = stated_answer(text, style="lenient", finished=True)
    assert stated is not None
    assert (stated.tier, stated.text) == (tier, answer)
    assert text[stated.start : stated.end] == answer
