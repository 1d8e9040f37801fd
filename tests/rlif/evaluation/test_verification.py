"""`rlif eval` asks the model to verify each completion, and measures and votes by what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hurt import assert_same
from rlif.errors import UserError
from rlif.evaluation.command import run as run_eval
from rlif.evaluation.completions import Completions, read_completions
from rlif.evaluation.given import read_completed
from rlif.evaluation.measure import evaluate_completions
from rlif.evaluation.options import EvalConfig
from rlif.evaluation.report import print_tables
from rlif.evaluation.sampling import prepare_sampling
from rlif.files.jsonl import Row, read_rows, write_rows
from rlif.rollouts.encode import EncodedPrompt

MakeEval = Callable[..., EvalConfig]
# In the alphabet of the tests' tokenizer; answers in prose count, so that a random model states some ratings.
ASKED = {"verify_generations": 3, "verify_template": "{prompt}{completion}=", "verify_ratings": ("1", "2", "3"),
         "answer_style": "lenient", "max_completion_length": 12}  # fmt: skip


def verified(share: list[list[float]], *, left_out: tuple[int, int] | None = None) -> Completions:
    """Two prompts: of the first completions 0 and 1 are right, of the second completion 3 alone."""
    there = np.ones((2, 4), dtype=bool)
    if left_out is not None:
        there[left_out] = False
    answers: list[list[str | None]] = [["1", "1", "3", "3"], ["5", "5", "5", "2"]]
    return Completions(["a", "b"], ["1", "2"], answers, {"verification": np.array(share)}, verified=there)


def test_the_vote_goes_by_the_share_of_verifications_that_call_an_answer_right() -> None:
    evaluation = evaluate_completions(verified([[0.25, 0.25, 0.5, 0.25], [0.25, 0.0, 0.25, 0.75]]))
    assert evaluation.selection["majority@4"].value == 0.5  # of two equal votes the first
    assert evaluation.selection["weighted-majority/verification"].value == 0.5  # 0.5 to 0.75, then 0.75 to 0.5
    assert evaluation.selection["best-of-4/verification"].value == 0.5
    assert evaluation.scores["verification"].as_is is not None  # it is a probability


def test_the_balanced_accuracy_is_the_mean_over_right_completions_and_the_others() -> None:
    share = [[1.0, 0.5, 0.25, 0.0], [0.0, 0.0, 0.0, 0.75]]
    evaluation = evaluate_completions(verified(share))
    right, other = (1.0 + 0.5 + 0.75) / 3, (0.25 + 0.0 + 0.0 + 0.0 + 0.0) / 5
    assert evaluation.verifying == pytest.approx((right + 1 - other) / 2)
    without = evaluate_completions(verified([[1.0, 0.0, 0.25, 0.0], share[1]], left_out=(0, 1)))
    assert without.verifying == pytest.approx(((1.0 + 0.75) / 2 + 1 - other) / 2)
    console = Console(record=True, width=100)
    print_tables(without, console)
    text = console.export_text()
    assert f"balanced accuracy of {without.verifying:.1%}" in text
    assert "short enough to be verified  87.5" in " ".join(text.split("\n")).replace("   ", " ")


def test_where_all_are_right_or_nothing_was_verified_there_is_no_balanced_accuracy() -> None:
    share = np.array([[1.0, 0.5]])
    assert evaluate_completions(Completions(["a"], ["1"], [["1", "1"]], {"verification": share})).verifying is None
    assert evaluate_completions(Completions(["a"], ["1"], [["1", "2"]], {"sure": share})).verifying is None


def sampled(config: EvalConfig, path: Path) -> list[Row]:
    """The rows that sampling leaves, without what is measured of them."""
    prepare_sampling(config).run(path)
    return read_rows(path)


def test_each_completion_has_its_ratings_and_the_share_that_call_it_right(make_eval: MakeEval, tmp_path: Path) -> None:
    rows = sampled(make_eval(**ASKED), tmp_path / "all.jsonl")
    ratings = []
    for row in rows:
        groups = [[each["rating"] for each in verifications] for verifications in row["verifications"]]
        assert [len(group) for group in groups] == [3] * 4
        shares = [sum(rating in ("1", "01") for rating in group) / 3 for group in groups]
        assert row["scores"]["verification"] == pytest.approx(shares)
        ratings += [rating for group in groups for rating in group]
    stated = {rating for rating in ratings if rating is not None}
    assert stated
    assert {rating.lstrip("0") for rating in stated} <= {"1", "2", "3"}  # what is no rating is not taken for one
    completions = read_completions(tmp_path / "all.jsonl")
    assert completions.verified is not None
    assert completions.verified.all()
    assert evaluate_completions(completions).label_free["rated"].value == pytest.approx(
        sum(rating is not None for rating in ratings) / len(ratings)
    )
    one_at_a_time = sampled(make_eval(max_batch_tokens=1, **ASKED), tmp_path / "one.jsonl")
    assert [row["verifications"] for row in one_at_a_time] == [row["verifications"] for row in rows]


def test_what_is_asked_changes_nothing_of_the_completions(make_eval: MakeEval, tmp_path: Path) -> None:
    asked = sampled(make_eval(**ASKED), tmp_path / "asked.jsonl")
    plain = sampled(make_eval(**ASKED | {"verify_generations": 0}), tmp_path / "plain.jsonl")
    assert [row["completions"] for row in asked] == [row["completions"] for row in plain]
    assert "verifications" not in plain[0]
    assert "verification" not in plain[0]["scores"]


def test_a_completion_too_long_to_be_verified_is_left_out_and_counted(make_eval: MakeEval, tmp_path: Path) -> None:
    path = tmp_path / "short.jsonl"
    rows = sampled(make_eval(**ASKED | {"verify_max_prompt_length": 16}), path)
    for row in rows:
        scores = row["scores"]["verification"]
        for text, asked, score in zip(row["completions"], row["verifications"], scores, strict=True):
            assert (asked is None) is (len(row["prompt"] + text) + 1 > 16)
            assert asked is not None or score == 0
    completions = read_completions(path)
    assert completions.verified is not None
    assert 0 < completions.verified.mean() < 1
    assert evaluate_completions(completions).label_free["verified"].value == completions.verified.mean()


def verification(text: str, rating: str | None) -> Row:
    return {"text": text, "finished": rating is not None, "rating": rating}


def printed(path: Path, verifications: list[list[Row] | None], scores: list[float]) -> tuple[float | None, str]:
    """The balanced accuracy, and what is said, of a right and a wrong completion with these verifications."""
    row = {"prompt": "p", "answer": "1", "completions": ["#### 1", "#### 2"], "verifications": verifications}
    write_rows(path, [row | {"scores": {"verification": scores}}])
    evaluation = evaluate_completions(read_completions(path))
    console = Console(record=True, width=300)
    print_tables(evaluation, console)
    return evaluation.verifying, console.export_text()


def test_ratings_without_verifications_are_refused(tmp_path: Path) -> None:
    row = {"prompt": "p", "completions": ["#### 1"], "scores": {"verification": [0.5]}, "ratings": [["1", None]]}
    write_rows(tmp_path / "earlier.jsonl", [row])
    with pytest.raises(UserError, match="line 1: got `ratings` without `verifications`"):
        read_completions(tmp_path / "earlier.jsonl")


def test_where_no_verification_states_a_rating_nothing_is_said_to_be_verified(tmp_path: Path) -> None:
    silent = [verification("Let us see whether", None)]
    verifying, text = printed(tmp_path / "silent.jsonl", [silent, silent], [0.0, 0.0])
    assert verifying is None
    assert "No verification states a rating: the score verification is 0 throughout and says nothing; try" in text
    assert "a longer max_completion_length (100% were cut off)." in text
    assert "  without: Let us see whether" in text
    assert "balanced accuracy" not in text


def test_where_few_verifications_state_a_rating_the_share_is_said(tmp_path: Path) -> None:
    silent, right = verification("Let us see whether", None), verification("#### 1", "1")
    verifying, text = printed(tmp_path / "few.jsonl", [[right, silent, silent], None], [1 / 3, 0.0])
    assert "Only 33.3% of the verifications state a rating: the others call nothing right; try" in text
    assert verifying is None  # there is but a right completion
    verifying, text = printed(tmp_path / "all.jsonl", [[right], [right]], [1.0, 1.0])
    assert verifying == 0.5
    assert "state a rating:" not in text


@pytest.mark.parametrize("value", [[None], "x", [None, []], [None, ["1"]], [None, [{"text": "a", "finished": True}]]])
def test_verifications_of_another_form_are_named(value: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: got .*verifications`.*, expected"):
        printed(tmp_path / "odd.jsonl", value, [0.0, 0.0])  # type: ignore[arg-type]


def test_an_evaluation_with_verifications_goes_on_to_the_same_file(make_eval: MakeEval, tmp_path: Path) -> None:
    whole = sampled(make_eval(max_batch_tokens=100, **ASKED), tmp_path / "whole.jsonl")
    path = tmp_path / "stopped.jsonl"
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    assert_same(sampled(make_eval(max_batch_tokens=100, **ASKED), path), whole)


def other_file(path: Path, rows: list[Row], **more: Any) -> Path:
    """Completions as another program leaves them: without gold answers, with one score."""
    scores = {"sure": [0.5, 1.0, 0.0, 0.25]}
    kept = ("prompt", "completions", "tokens", "finished")
    write_rows(path, [{name: row[name] for name in kept} | {"scores": scores} | more for row in rows])
    return path


def test_a_model_verifies_the_completions_of_a_file_as_it_does_its_own(make_eval: MakeEval, tmp_path: Path) -> None:
    own = sampled(make_eval(**ASKED), tmp_path / "own.jsonl")
    given = make_eval(**ASKED, completions=other_file(tmp_path / "given.jsonl", own), num_generations=2)
    run_eval(given)
    rows = read_rows(tmp_path / "out" / "completions.jsonl")
    for name in ("prompt", "answer", "completions", "tokens", "finished", "verifications"):
        assert [row[name] for row in rows] == [row[name] for row in own]
    assert rows[0]["scores"] == {"sure": [0.5, 1.0, 0.0, 0.25], "verification": own[0]["scores"]["verification"]}
    results = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert results["num_generations"] == 4
    assert {"sure", "verification", "verified", "rated"} <= set(results["label_free"])
    # It goes on where it was stopped, with the completions that it began with.
    whole, lines = (tmp_path / "out" / "completions.jsonl").read_text(), tmp_path / "out" / "completions.jsonl"
    lines.write_text("".join(whole.splitlines(keepends=True)[:2]))
    run_eval(replace(given, resume=True))
    assert lines.read_text() == whole
    for change in ({"completions": ["#### 1"] * 4}, {"scores": {"new": [0.5] * 4}}, {"tokens": [1] * 4}):
        other_file(tmp_path / "given.jsonl", own, **change)
        with pytest.raises(
            UserError, match=r"resume: .*, line 1 has other completions, or scores of them, than .*given"
        ):
            run_eval(replace(given, resume=True))
    assert lines.read_text() == whole


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (slice(0, 2), "completions: .* has 2 prompts, but the data has 6; expected those of the data, in its order"),
        (
            slice(None, None, -1),
            "completions: .*, line 1 has another prompt than the data, .* for .* from character 0 on",
        ),
    ],
)
def test_completions_of_other_prompts_are_not_verified(
    rows: slice, reason: str, make_eval: MakeEval, tmp_path: Path
) -> None:
    own = sampled(make_eval(**ASKED | {"verify_generations": 0}), tmp_path / "own.jsonl")
    with pytest.raises(UserError, match=reason):
        run_eval(make_eval(**ASKED, completions=other_file(tmp_path / "given.jsonl", own[rows])))
    answers = other_file(tmp_path / "given.jsonl", own, completions=None, answers=["1"] * 4)
    with pytest.raises(UserError, match="line 1 has answers alone; expected `completions`, to be verified"):
        run_eval(make_eval(**ASKED, completions=answers))
    assert not (tmp_path / "out").exists()


def test_old_verifications_of_a_file_do_not_matter_and_its_gold_answers_serve_where_the_data_has_none(
    make_eval: MakeEval, tmp_path: Path
) -> None:
    config = make_eval(**ASKED)
    rows = read_rows(Path(str(config.data)))
    write_rows(tmp_path / "unlabelled.jsonl", [{"prompt": row["prompt"]} for row in rows])
    own = sampled(config, tmp_path / "own.jsonl")
    old = {"ratings": [["1"]] * 4, "verifications": "gone", "scores": {"verification": [1.0] * 4}, "answer": "7"}
    given = other_file(tmp_path / "given.jsonl", own, **old)
    data = str(tmp_path / "unlabelled.jsonl")
    for resume in (False, True):
        run_eval(make_eval(**ASKED, data=data, completions=given, resume=resume))
    found = read_rows(tmp_path / "out" / "completions.jsonl")
    assert [row["verifications"] for row in found] == [row["verifications"] for row in own]
    assert {row["answer"] for row in found} == {"7"}
    assert set(found[0]["scores"]) == {"verification"}


def test_another_models_chat_template_may_stand_around_a_prompt(make_eval: MakeEval, tmp_path: Path) -> None:
    prompt = EncodedPrompt("user: 1+2= model:", "3", [3], content=[{"role": "user", "content": "1+2="}])
    path = tmp_path / "given.jsonl"
    for text in ("<user>1+2=</user>", "1+2=", prompt.text):
        write_rows(path, [{"prompt": text, "completions": ["#### 3"]}])
        assert read_completed(path, [prompt])[0]["prompt"] == prompt.text
    write_rows(path, [{"prompt": "<user>2+2=</user>", "completions": ["#### 3"]}])
    with pytest.raises(UserError, match="line 1 has another prompt than the data, '<user>2"):
        read_completed(path, [prompt])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"tokens": ["x", 3]}, "has `tokens` .*, expected a list of 2, each a number or null"),
        ({"tokens": [3]}, "has `tokens` .*, expected a list of 2"),
        ({"finished": ["false", True]}, "has `finished` .*, expected a list of 2, each true or false or null"),
    ],
)
def test_what_a_file_says_of_its_completions_has_a_value_for_each(
    more: dict[str, object], reason: str, tmp_path: Path
) -> None:
    write_rows(tmp_path / "given.jsonl", [{"prompt": "1+2=", "completions": ["#### 3", "?"]} | more])
    with pytest.raises(UserError, match=reason):
        read_completed(tmp_path / "given.jsonl", [EncodedPrompt("1+2=", "3", [3], content="1+2=")])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"verify_template": None},
            "verify_template: got 'Rate the solution.*, of which the tokenizer cannot write 'R'",
        ),
        ({"verify_template": "?"}, r"verify_template: got '\?', expected text with {prompt} and {completion}"),
        ({"verify_generations": -1}, "verify_generations: got -1, expected an integer of at least 0"),
        (
            {"model": None, "data": None, "completions": Path("x.jsonl")},
            "model: got none beside completions and verify_",
        ),
        (
            {"data": None, "completions": Path("x.jsonl")},
            "data: got none beside completions and verify_generations, ex",
        ),
        (
            {"analyses": 2, "completions": Path("x.jsonl")},
            "analyses: got 2 beside completions, which are not continued",
        ),
        ({"completions": Path("x.jsonl")}, "completions: got 'x.jsonl', which is not a file"),
    ],
)
def test_what_cannot_be_asked_is_one_line_before_anything_is_written(
    changes: dict[str, object], reason: str, make_eval: MakeEval, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        run_eval(make_eval(**ASKED | changes))
    assert not (tmp_path / "out").exists()
