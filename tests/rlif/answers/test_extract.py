"""The answer that a text states last is found, whole and without what stands around it."""

import sys
from collections.abc import Callable
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlif.answers.extract import extract_answer, stated_answer

STRICT = [
    ("5+8=13\n#### 13", "13"),
    ("####13", "13"),
    ("#### 1 \n and then some", "1"),
    ("#### 1\n#### 2", "2"),
    ("#### 1\n#### ", None),
    ("####", None),
    ("the answer is 13", None),
    ("", None),
    (r"so \boxed{13}.", "13"),
    (r"\boxed{1}, no, \boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\{1, 2\}} done", r"\{1, 2\}"),
    (r"\boxed{1} and \boxed{2", "1"),
    (r"\boxed{1", None),
    (r"\boxed{}", None),
    ("\\boxed{1}\n#### 2", "2"),
    # Headings are no answers, wherever the answer stands.
    ("#### Step 1: Simplify\nWe divide.\nTherefore \\boxed{4}", "4"),
    ("\\boxed{4}\n#### Verification\nIt is.", "4"),
    ("\\boxed{4}\n#### Verification", "4"),
    ("#### 1. Simplify\nWe divide both sides by two.\n#### 7", "7"),
    ("#### Step 2: Solve\nWe divide both sides by two and find four.", None),
    ("#### 5\nwait, no\n\\boxed{4}", "4"),
    ("#### A simple way\nWe divide both sides by two and find four.", None),
    ("#### 3 Ways to solve it\nWe divide both sides by two and find four.", None),
    ("#### 42 Apples", "42 Apples"),
    ("#### B", "B"),
    ("#### B.", "B"),
    # Forms of the marker.
    ("####\n42", "42"),
    ("####\n\n42\n", "42"),
    ("#### 42 ####", "42"),
    (r"#### \boxed{73}", "73"),
    ("#### **42**", "42"),
    ("**#### 42**", "42"),
    ("#### Answer: 42", "42"),
    ("#### **Answer:** 42", "42"),
    ("#### The final answer is 42.", "42"),
    ("#### `42`", "42"),
    (r"#### \(42\)", "42"),
    ("#### $42$", "42"),
    ("#### $42", "$42"),
    ("#### 42 apples", "42 apples"),
    ("#### 42.", "42"),
    ("#### = 42", "42"),
    ("#### Paris", "Paris"),
    ("#### x = 5", "x = 5"),
    ("#### (B)", "(B)"),
    ("##### 42", None),
    ("### 42", None),
    # Forms of the box.
    (r"\boxed{\text{Paris}}", r"\text{Paris}"),
    (r"\boxed{$42$}", "42"),
    (r"\boxed {42}", "42"),
    (r"$\boxed 2$", "2"),
    (r"\fbox{7}", "7"),
    (r"\boxed{\boxed{5}}", "5"),
]
LENIENT = [
    ("The answer is 42.", "42", "phrase"),
    ("The answer is 42. I hope this helps!", "42", "phrase"),
    ("So the answer is:\n\n42", "42", "phrase"),
    ("The final answer is: $x = 5$.", "5", "phrase"),
    (r"The answer is $\frac{3}{4}$.", r"\frac{3}{4}", "phrase"),
    ("The answer is 12 because 5 + 7 = 12.", "12", "phrase"),
    ("The answer is 12 + 5 = 17.", "17", "phrase"),
    ("The answer to the question is 7.", "7", "phrase"),
    ("The answer is B.", "B", "phrase"),
    ("The answer is (B) 12.", "B", "phrase"),
    ("The correct answer is Paris.", "Paris", "phrase"),
    ("**Answer: 42**", "42", "phrase"),
    ("The answer is **$1,200**.", "$1,200", "phrase"),
    ("Therefore, x = 5.", "5", "equation"),
    ("= 2,200 people", "2,200", "equation"),
    ("So 12 - 4 = 8 apples are left.", "8", "equation"),
    ("Total = $4,500.", "4,500", "equation"),
    (r"Total = \$4,500.", "4,500", "equation"),
    ("Thus\n\\[\nx = 5\n\\]", "5", "equation"),
    ("The smallest such number is 36 = 6^2.", "36", "number"),
    ("The total is 30, since 30 = 5 * 6.", "30", "number"),
    ("So she has 35 (= 20 + 15) apples.", "35", "number"),
    ("The total cost is 45 dollars = 9 * 5 dollars.", "45", "number"),
    ("So the total is $18 = $20 - $2.", "18", "number"),
    ("The number of days is 9 (= 27 / 3).", "9", "number"),
    ("So the mean is 5 = 20 / 4.", "5", "number"),
    ("Hence, the total is $5 + 6 = 11$ dollars.", "11", "equation"),
    (r"So $x = \frac{1}{2}$.", r"\frac{1}{2}", "equation"),
    ("So they have **12** left.", "12", "bold"),
    ("She sold **48 clips** in April and May.", "48", "bold"),
    ("5 + 7 = 12, so she needs 3 buses.", "3", "number"),
    ("He has 5 apples left.\n\nI hope this helps! Let me know if you have questions.", "5", "number"),
    ("He pays $12 and she pays $15.", "15", "number"),
    ("The temperature is -5 degrees.", "-5", "number"),
    ("It takes 2 1/2 hours.", "2 1/2", "number"),
    # Not every last number is the answer, and not every last sentence has one.
    ("So, there are 24 eggs in 4 boxes.", "24", "number"),
    ("So the car uses 20 liters of fuel for 300 km.", "20", "number"),
    ("She worked for 8 hours.", "8", "number"),
    ("He pays for 3 shirts a total of 45 dollars.", "45", "number"),
    ("So, she travels a distance of 20 miles in 5 hours.", "20", "number"),
    ("That makes a profit of 12 dollars for 3 days.", "12", "number"),
    ("So he buys 3 shirts for $45.", "45", "number"),
    ("She reads an average of 7 pages per day for 3 days.", "7", "number"),
    ("That is half of the 40 pages in 2 hours.", "2", "number"),
    ("So, 2 \u00d7 3 = 6 cups of flour are needed for 36 cookies.", "6", "equation"),
    ("18 * 6 cents = 128 cents, which is the cost of 6 pens.", "128", "equation"),
    ("So the sale price is $4.\n\nThis is a classic example of a word problem.", "4", "number"),
    ("This is equivalent to 7 * 8 + 1.", None, None),
    ("The probability is 50%.", "50%", "number"),
    (r"The value is $\sqrt{2}$.", r"\sqrt{2}", "number"),
    ("The train leaves at 5:30.", "5:30", "number"),
    ("He finishes on the 3rd day.", None, None),
    ("I do not know.", None, None),
    ("The answer is not 5. So it is 7.", "7", "number"),
    ("We look for the answer to this: first we add 5 and 3.\nSo he has 8 apples.", "8", "number"),
    ("So the final answer is:", None, None),
    # Several solutions, and those that prose writes with a sign of its own.
    ("The solutions are 2 and 3.", "2 and 3", "phrase"),
    ("The answers are 1, 2, and 3.", "1, 2, and 3", "phrase"),
    ("The solutions are $x = 2$ and $x = 3$.", "$x = 2$ and $x = 3$", "phrase"),
    ("The answer is 5 and then we stop at 3.", "5", "phrase"),
    ("The answer is 2.5 million.", "2.5 million", "phrase"),
    ("The population is 3 million people.", "3 million", "number"),
    ("The area is 25\u03c0.", "25\u03c0", "number"),
    ("They need 2\u00bd cups.", "2\u00bd", "number"),
    ("They need \u00bd cup.", "\u00bd", "number"),
    ("The ratio is 3:4.", "3:4", "number"),
    ("Therefore:\n\\[\n\\frac{1}{2}\n\\]", r"\frac{1}{2}", "number"),
    ("Hence\n$$\n\\frac{3}{4}\n$$\nI hope this helps!", r"\frac{3}{4}", "number"),
    ("Thus\n\\[\nx = 3\n+ y\n\\]", "3\n+ y", "equation"),
    ("The answer is 42!", "42", "phrase"),
    ("The answer is 5! = 120.", "120", "phrase"),
    ("The answer is 5 * 3, which is 15.", "15", "phrase"),
    ("So the correct option is D.", "D", "phrase"),
    ("The correct answer is **option (C)**.", "C", "phrase"),
    ("Therefore, option (B) is the correct answer.", "B", "phrase"),
    ("The speed is 3 \u00d7 10^8 m/s.", "3 \u00d7 10^8", "number"),
    ("The answer is 3.0 x 10^8 meters per second.", "3.0 x 10^8", "phrase"),
    (r"He ate \frac{2}{3} of the pizza.", r"\frac{2}{3}", "number"),
    ("\\[\n\\begin{aligned} x &= 3+4 \\\\ &= 7 \\end{aligned}\n\\]", "7", "equation"),
    ("**Solution:**\n\nFirst, 3+4=7.\nThen 7*2=14.", "14", "equation"),
    ("The answer is found by adding 3 and 4. So it is 7.", "7", "number"),
    ("The solution is as follows. First 3+4=7. So 7*2=14.", "14", "equation"),
    ("**Solution**: 7 apples.", "7", "phrase"),
    ("Answer:\n```\n42\n```", "42", "phrase"),
    ("Tom has 12 apples left after giving away 3.", "12", "number"),
]


@pytest.mark.parametrize(("text", "answer"), STRICT)
def test_the_last_stated_answer_is_extracted(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(("text", "answer", "tier"), LENIENT)
def test_prose_states_an_answer_where_it_may(text: str, answer: str | None, tier: str | None) -> None:
    stated = stated_answer(text, style="lenient", finished=True)
    assert (answer, tier) == (None, None) if stated is None else (stated.text, stated.tier) == (answer, tier)
    assert extract_answer(text) is None


@pytest.mark.parametrize(("text", "answer"), STRICT)
def test_a_marker_or_box_comes_before_prose(text: str, answer: str | None) -> None:
    if answer is not None:
        assert extract_answer(f"The answer is 99.\n{text}", style="lenient", finished=True) == answer


@pytest.mark.parametrize("text", ["She has 12 apples and gives away 2,2", "The answer is 42. So she has 1", "= 4"])
def test_a_text_that_was_cut_off_states_no_answer_in_prose(text: str) -> None:
    assert extract_answer(text, style="lenient", finished=False) is None
    assert extract_answer(text, style="lenient") is None  # nobody knows, and the last sentence is not ended
    assert extract_answer(f"{text}\n#### 7", style="lenient", finished=False) == "7"


def test_a_text_that_ends_as_a_sentence_does_states_an_answer_where_nobody_knows_whether_it_was_cut_off() -> None:
    assert extract_answer("So they have 12 left.", style="lenient") == "12"


@given(inner=st.text(alphabet="ab{}\\ ").filter(lambda text: text.strip()))
def test_the_braces_of_a_boxed_answer_are_balanced(inner: str) -> None:
    answer = extract_answer(f"x \\boxed{{{inner}}} y")
    if answer is not None:
        assert answer.count("{") == answer.count("}")


@given(
    text=st.one_of(
        st.text(),
        st.lists(
            st.sampled_from(
                ["####", "\n", " ", "4", "2.5", "**", "$", "\\boxed{", "}", "=", "The answer is ", ". ", "a"]
            )
        ).map("".join),
    ),
    style=st.sampled_from(["strict", "lenient"]),
    finished=st.sampled_from([True, False, None]),
)
def test_an_answer_is_a_part_of_the_text_never_empty_and_never_surrounded_by_space(
    text: str, style: str, finished: bool | None
) -> None:
    stated = stated_answer(text, style=style, finished=finished)  # type: ignore[arg-type]
    if stated is not None:
        assert stated.text == text[stated.start : stated.end] == stated.text.strip() != ""


class CountedText(str):
    """A text that counts the characters that are copied out of it, or searched."""

    characters = 0

    def __getitem__(self, place: object) -> str:
        part = super().__getitem__(place)  # type: ignore[index]
        CountedText.characters += len(part)
        return part

    def find(self, wanted: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        limit = len(self) if end is None else end
        found = super().find(wanted, start, limit)
        CountedText.characters += (limit if found == -1 else found) - start
        return found


def operations(function: Callable[[], object]) -> int:
    """Lines of Python, calls of C and characters copied by a function: as many however busy the machine is."""
    count = 0
    CountedText.characters = 0

    def on_line(frame: FrameType, event: str, argument: object) -> object:
        nonlocal count
        count += event == "line"
        return on_line

    def on_call(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "c_call"

    tracer, profiler = sys.gettrace(), sys.getprofile()
    sys.settrace(on_line)
    sys.setprofile(on_call)
    try:
        function()
    finally:
        sys.settrace(tracer)
        sys.setprofile(profiler)
    return count + CountedText.characters


@pytest.mark.parametrize(
    "repeated",
    [
        *(r"\boxed{", r"\boxed{1} ", "{", "#### ", "####\n", "#### a\n", "#### 1\n"),
        *("**", "$", "The answer is ", "= ", "1 ", "(", "hope. ", "\\[", "1 and ", "solution: "),
    ],
)
def test_the_work_grows_no_faster_than_the_text(repeated: str) -> None:
    def work(times: int) -> int:
        text = CountedText(repeated * times + "x.")
        return operations(lambda: stated_answer(text, style="lenient", finished=True))

    work(10)  # what is compiled once
    # Twice the text, and the last sentences, which are bounded.
    assert work(4000) <= 2.2 * work(2000) + 20_000
