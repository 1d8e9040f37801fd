"""The page of an evaluation shows its numbers with their intervals, and what the model was sure of and wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from made_evaluations import ROWS, row, write_evaluated, write_sampled
from made_runs import HOSTILE, write_run
from report_pages import page_of
from rlif.errors import UserError
from rlif.files.lock import Lock
from rlif.plots.heat_map import colored_tokens, scales_of
from rlif.printable import printable
from rlif.reporting.evaluation_files import read_evaluation
from rlif.reporting.evaluations import EvaluationView, view_evaluation
from rlif.reporting.intervals import MARGIN, WIDTH, Interval
from rlif.reporting.page import render
from rlif.reporting.report import read_subjects


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluated(tmp_path_factory.mktemp("evaluated") / "eval")


@pytest.fixture
def changeable(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of its files but for the figures."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("completions.jsonl", "eval.json", "config.yaml"):
        (copy / name).write_bytes((evaluated / name).read_bytes())
    return copy


def view_of(path: Path) -> EvaluationView:
    return view_evaluation(read_evaluation(path))


def test_each_way_of_choosing_has_its_share_with_an_interval_as_eval_json_has_them(evaluated: Path) -> None:
    view, results = view_of(evaluated), json.loads((evaluated / "eval.json").read_text())
    shown = {each.name: each for _, intervals in view.ways for each in intervals}
    assert len(shown) == len(results["selection"])
    for name, mean in results["selection"].items():
        interval = shown[name.replace("/", ", ")]
        assert interval.value == mean["value"]
        if 0 < mean["value"] < 1:
            assert interval.high == pytest.approx(min(1.0, mean["value"] + 1.96 * mean["standard_error"]))
        assert interval.mark == results["selection"]["majority@4"]["value"]
    best = next(intervals for _, intervals in view.ways if intervals[0].name.startswith("best-of-4"))
    assert [each.name for each in best] == ["best-of-4, token_entropy", "best-of-4, self_certainty"]  # the best first
    assert best[0].value > best[1].value


def test_every_score_has_what_it_knows_as_eval_json_has_it(evaluated: Path) -> None:
    results = json.loads((evaluated / "eval.json").read_text())["scores"]
    rows = {row[0].partition(" ")[0]: row[1:] for row in view_of(evaluated).scores}
    assert rows.keys() == results.keys() == {"token_entropy", "self_certainty", "agreement", "all_scores"}
    for name, quality in results.items():
        assert rows[name][0] == f"{quality['auroc']:.3f}"
        assert rows[name][3] == ("—" if quality["as_is"] is None else f"{quality['as_is']['ece']:.3f}")
        assert rows[name][6] == f"{quality['isotonic']['brier']:.3f}"


def test_sure_and_wrong_completions_come_first_by_confidence_each_of_another_prompt(evaluated: Path) -> None:
    ends = dict(view_of(evaluated).ends)
    assert list(ends) == ["Sure and wrong", "Sure and right", "Unsure and wrong", "Unsure and right"]
    numbers = {title: [each.sample.completion.partition(":")[0] for each in shown] for title, shown in ends.items()}
    assert numbers == {
        "Sure and wrong": ["7", "6", "5", "4"], "Sure and right": ["0", "1", "2", "3"],
        "Unsure and wrong": ["0", "1", "2", "3"], "Unsure and right": ["7", "6", "0", "1"],
    }  # fmt: skip
    assert [each.verdict for each in ends["Sure and wrong"]] == ["states 3, right is 2"] * 4
    assert {each.verdict for each in ends["Sure and right"]} == {"right: 2"}
    assert {each.verdict for each in ends["Unsure and wrong"]} == {"states no answer, cut off"}
    assert ends["Sure and wrong"][0].heading == "self_certainty 16, surer than 96% of all"  # 31 of 32
    assert ends["Unsure and wrong"][0].heading == "self_certainty 1, less sure than 71% of all"  # 23 of 32


def test_completions_are_coloured_on_one_scale_with_those_of_a_run(evaluated: Path, tmp_path: Path) -> None:
    subjects = read_subjects([write_run(tmp_path / "run"), evaluated])
    (run,), (view,) = subjects.runs, subjects.evaluations
    shown = [each.sample.tokens for _, ends in view.ends for each in ends]
    of_run = [each.sample.tokens for row in run.held_out for each in row]
    of_run += [each.sample.tokens for group in run.rewarded for each in (*group.highest, *group.lowest)]
    html, scales = render(subjects), scales_of([*shown, *of_run])
    for each in shown:
        assert colored_tokens(each, scales) in html


def test_nothing_is_loaded_and_nothing_runs_whatever_a_completion_says(evaluated: Path) -> None:
    page = page_of(evaluated)
    assert page.tags & {"script", "link", "iframe", "object", "embed", "base", "form"} == set()
    assert page.handlers == []
    pictures = [each for each in page.references if not each.startswith("#")]
    assert len(pictures) == 2
    assert all(each.startswith("data:image/png;base64,") for each in pictures)
    assert len(page.ids) == len(set(page.ids))
    assert f"7: {printable(HOSTILE)} #### 3▪" in page.texts["tokens"]
    assert re.findall(r"<title>(.*?)</title>", page.html)[0] == "Evaluation of model · rlif report"


def test_what_was_evaluated_is_said_with_the_options_that_were_changed(evaluated: Path) -> None:
    view = view_of(evaluated)
    facts = dict(view.facts)
    assert view.state == "Finished: 8 prompts x 4 completions."
    assert facts["Model"] == "some/model"
    assert facts["Sampling"] == "4 completions of at most 256 tokens each, at temperature 1, top_p 0.9, seed 0"
    assert facts["Versions"] == "rlif 1.2.3, Python 3.11"
    assert dict(view.changed)["num_generations"] == "4"


def test_several_evaluations_are_side_by_side_and_beside_runs(evaluated: Path, tmp_path: Path) -> None:
    few = write_evaluated(tmp_path / "few", [row(0, completions=["#### 2"] * 2, finished=[True] * 2, tokens=[1, 1],
                                                 scores={"mine": [0.5, 0.25]}, token_confidence=None)])  # fmt: skip
    page = page_of(write_run(tmp_path / "run"), evaluated, few)
    assert {"run-1", "evaluation-1", "evaluation-2"} <= set(page.ids)
    assert {"#run-1", "#evaluation-1", "#evaluation-2"} <= set(page.references)
    assert "<h1>1 run and 2 evaluations</h1>" in page.html
    assert re.search(r'<th scope="row">best-of-2, mine</th><td>—</td><td>100.0%</td>', page.html)
    assert re.search(r'<th scope="row">accuracy@1</th><td>0.0% \(0.0 to 32.4%\)</td><td>100.0%</td>', page.html)


# ---------------------------------------------------------------- evaluations that lack something


def test_without_gold_answers_the_surest_and_the_least_sure_are_shown(tmp_path: Path) -> None:
    view = view_of(write_evaluated(tmp_path / "eval", [each | {"answer": None} for each in ROWS]))
    assert (view.ways, view.scores, view.figures) == ([], [], [])
    assert "no gold answers" in view.state
    assert [title for title, _ in view.ends] == ["Surest, without a gold answer", "Least sure, without a gold answer"]
    assert [each.sample.completion.partition(":")[0] for each in view.ends[0][1]] == ["7", "6", "5", "4"]
    assert ("state an answer", "75.0% ± 0.0%") in view.label_free


def test_accuracy_that_was_not_measured_is_not_shown_as_nothing(tmp_path: Path) -> None:
    view = view_of(write_evaluated(tmp_path / "eval", [each | {"completions": ["well"] * 4, "token_confidence": None}
                                                       for each in ROWS]))  # fmt: skip
    assert view.ways == []
    assert view.warnings == [
        "No completion states an answer: accuracy is not 0%, it is not measured, nor are votes."
    ]  # fmt: skip
    few = [row(0), *(each | {"completions": ["well"] * 4, "token_confidence": None} for each in ROWS[1:])]
    view = view_of(write_evaluated(tmp_path / "few", few))
    assert view.warnings == ["Only 9.4% of the completions state an answer: the others count as wrong."]


def test_an_evaluation_of_an_earlier_version_is_shown_without_colours_and_it_is_said(tmp_path: Path) -> None:
    old = [{name: value for name, value in each.items() if name != "token_confidence"} for each in ROWS]
    page = page_of(write_evaluated(tmp_path / "eval", old, config=None))
    assert "no statistics of their tokens were kept with them" in page.text()
    assert f"7: {printable(HOSTILE)} #### 3" in page.texts["tokens"]
    assert "choice" not in page.texts
    assert "nothing says what was evaluated" in page.text()


def test_completions_that_were_measured_again_are_shown_as_long_as_their_file_is_there(changeable: Path) -> None:
    elsewhere = (changeable / "completions.jsonl").rename(changeable.parent / "elsewhere.jsonl")
    (changeable / "config.yaml").write_text(f"completions: {elsewhere}\nanswer_style: strict\n")
    view = view_of(changeable)
    assert (view.files.title, len(view.ends)) == ("elsewhere.jsonl", 4)
    text = elsewhere.read_text()
    elsewhere.write_text(
        "\ufeff" + text.replace('{"prompt"', '{"crc32": 7, "prompt"')
    )  # as other programs may write it
    assert len(view_of(changeable).ends) == 4
    elsewhere.write_text(text.partition("\n")[0] + "\n")
    view = view_of(changeable)
    assert (view.ends, view.note) == (
        [],
        f"{elsewhere} has changed since it was measured, so that its completions are not shown.",
    )
    elsewhere.unlink()
    view = view_of(changeable)
    assert (view.ends, view.note) == ([], f"The completions are not here: there is no {elsewhere}.")
    (changeable / "config.yaml").write_text("completions: some.parquet\n")
    assert view_of(changeable).note == "Completions are shown of .jsonl files, and some.parquet is none."


def test_answers_in_place_of_completions_are_measured_and_not_shown(tmp_path: Path) -> None:
    rows = [{"prompt": "1+1=", "answer": "2", "answers": ["2", "3"], "scores": {"mine": [0.5, 0.25]}}] * 2
    view = view_of(write_evaluated(tmp_path / "eval", rows))
    assert view.ends == []
    assert "has answers in place of completions" in view.note


def test_without_scores_completions_are_sorted_by_agreement(tmp_path: Path) -> None:
    rows = [each | {"scores": {}, "token_confidence": None} for each in ROWS]
    view = view_of(write_evaluated(tmp_path / "eval", rows))
    assert view.files.order == "agreement"
    assert view.ends[1][1][0].heading == "agreement 0.5, surer than 50% of all"


def test_an_evaluation_that_is_not_finished_says_how_far_it_is(tmp_path: Path) -> None:
    path = write_sampled(tmp_path / "eval")
    with (path / "completions.jsonl").open("a") as file:
        file.write('{"prompt": "1+')  # a line that is being written
    assert view_of(path).state == (
        "Not finished: 8 prompts have their completions so far. rlif eval --resume goes on with it."
    )
    with Lock(path):
        assert view_of(path).state == "Still sampling: 8 prompts have their completions so far."
    assert "Not finished" in page_of(path).text()
    (path / "config.yaml").unlink()
    with pytest.raises(UserError, match="`rlif lab` or `rlif eval`"):  # of completions from elsewhere nothing is told
        read_subjects([path])


# ---------------------------------------------------------------- what is damaged


@pytest.mark.parametrize(
    "changes",
    [
        {"selection": 3},
        {"selection": {"accuracy@1": {"value": None, "standard_error": 0.1}}},
        {"selection": {"accuracy@1": {"value": 7.0, "standard_error": 0.1}}},
        {"selection": {"accuracy@1": {"value": 0.5}}},
        {"label_free": {}},
        {"tiers": []},
        {"scores": {"a": {"auroc": "high"}}},
        {"scores": {"a": {"auroc": 0.5, "auroc_within": 0.5, "aurc": 0.5, "as_is": {}, "isotonic": None}}},
        {"prompts": None},
    ],
)
def test_damaged_results_are_one_error(changes: dict[str, Any], changeable: Path) -> None:
    results = json.loads((changeable / "eval.json").read_text())
    (changeable / "eval.json").write_text(json.dumps(results | changes))
    with pytest.raises(
        UserError, match=r"runs: .*eval.json is damaged \(\w+: .*expected what `rlif eval` writes"
    ) as error:
        read_subjects([changeable])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("eval.json", "[1, 2]", "eval.json is damaged"),
        ("eval.json", "{", "cannot read .*eval.json: it is not JSON"),
        ("config.yaml", "nonsense: 1\n", "got 'nonsense', which is no option of rlif eval"),
        ("completions.jsonl", json.dumps(row(0, scores=3)), "line 1: got `scores` 3, expected an object"),
        ("completions.jsonl", json.dumps(row(0, token_confidence=[])), r"row 1: got `token_confidence` \[\]"),
        ("completions.jsonl", json.dumps(row(0, token_confidence=[3] * 4)), "row 1: got tokens that are no object"),
        ("completions.jsonl", json.dumps(row(0, crc32="0")), "line 1: has changed since it was written"),
        ("risk_coverage.png", "no picture", "risk_coverage.png is no PNG"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_error(name: str, content: str, message: str, changeable: Path) -> None:
    (changeable / name).write_text(content)
    with pytest.raises(UserError, match=f"runs: .*{message}") as error:
        read_subjects([changeable])
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- intervals


def test_an_interval_is_drawn_where_it_is_and_never_beyond_nothing_or_all() -> None:
    half, all_right = Interval.of("a", 0.5, 0.1, prompts=9, mark=0.25), Interval.of("<b>", 1.0, 0.0, prompts=100)
    assert (half.low, half.high) == (pytest.approx(0.304), pytest.approx(0.696))
    assert half.words == "50.0% (30.4 to 69.6%)"
    assert (all_right.low, all_right.high) == (pytest.approx(0.963, abs=5e-4), 1.0)  # Wilson's
    scale = WIDTH - 2 * MARGIN
    assert f'<path class="dot" d="M{MARGIN + scale / 2}' in half.svg()
    assert f'<path class="mark" d="M{MARGIN + scale / 4}' in half.svg()
    assert "mark" not in all_right.svg()
    assert "<b>" not in all_right.svg()


def test_a_single_prompt_has_a_share_without_an_interval() -> None:
    alone = Interval.of("a", 0.5, float("nan"), prompts=1)
    assert alone.words == "50.0%"
    assert 'class="range"' not in alone.svg()
