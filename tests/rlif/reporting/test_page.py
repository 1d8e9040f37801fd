"""The page shows what the files say, as text whatever they hold, and loads nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from made_runs import CONFIG, HOSTILE, RISE_AND_FALL, SAMPLES, sample, write_run
from pages import ROOT
from report_pages import Page, page_of
from rlif.errors import UserError
from rlif.files.lock import LOCK_FILE, Lock
from rlif.plots.heat_map import colored_tokens, scales_of
from rlif.printable import printable
from rlif.reporting.page import Subjects, render
from rlif.reporting.report import read_subjects, report
from rlif.reporting.run_files import read_run, read_samples
from rlif.reporting.runs import view_run

LAB = ROOT / "benchmarks/results/lab"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_nothing_is_loaded_and_nothing_runs_whatever_a_completion_says(run: Path) -> None:
    page = page_of(run)
    assert page.tags & {"script", "link", "iframe", "object", "embed", "base", "form", "img"} == set()
    assert page.handlers == []
    assert [each for each in page.references if not each.startswith("#")] == []
    assert re.findall(r"url\(|@import", page.html) == []
    assert re.findall(r'(?:src|href)="https?:', page.html) == []
    assert "default-src 'none'" in page.html  # the browser holds the page to it, too
    assert len(page.ids) == len(set(page.ids))


def test_a_completion_is_shown_as_it_is(run: Path) -> None:
    shown = page_of(run).texts["tokens"]
    for step in (0, 10, 50):
        text = f"{printable(HOSTILE)}↵\nwell, {step}▪"
        assert text in shown


def test_tokens_are_coloured_by_the_function_of_notebooks_on_one_scale(run: Path) -> None:
    view = view_run(read_run(run))
    shown = [each.sample.tokens for row in view.held_out for each in row]
    shown += [each.sample.tokens for group in view.rewarded for each in (*group.highest, *group.lowest)]
    html = render(Subjects([view], []))
    scales = scales_of(shown)
    for each in shown:
        assert colored_tokens(each, scales) in html
    for name in ("entropy", "self_certainty", "logprob"):
        assert f"#by-{name}:checked~main" in html
        assert f'<label for="by-{name}">' in html


def test_the_guards_decisions_are_told_with_its_warning(run: Path) -> None:
    page = page_of(run)
    (decisions,) = page.texts["decisions"]
    assert decisions.index("The start model") < decisions.index("The best so far") < decisions.index("patience is over")
    assert "It said: the policy has probably begun to fall: 40% of completions" in page.texts["warning"][0]
    assert "The guard takes the policy of step 10 for the best" in page.text()
    assert "Its patience was over at step 40; the run went on" in page.text()
    assert "The policy has collapsed, its collapse step is 40: 30% of completions" in page.text()


def test_what_was_rewarded_most_and_least_is_sorted_at_the_start_and_at_the_end(run: Path) -> None:
    groups = view_run(read_run(run)).rewarded
    assert [group.step for group in groups] == [1, 50]
    for group in groups:
        assert [each.sample.reward for each in group.highest] == [4.5, 3.5]
        assert [each.sample.reward for each in group.lowest] == [1.5, 0.5]


def test_held_out_prompts_are_shown_at_the_start_at_the_guards_choice_and_at_the_end(run: Path) -> None:
    view = view_run(read_run(run))
    assert [(each.step, each.title) for each in view.columns] == [(0, "start"), (10, "guard's choice"), (50, "last")]
    assert [[each.sample.step for each in row] for row in view.held_out] == [[0, 10, 50]] * 2
    assert {each.verdict for row in view.held_out for each in row} == {"right: 2"}


@pytest.mark.parametrize(
    ("stated", "answer", "verdict", "right"),
    [
        ("2.0", "2", "right: 2.0", True),
        ("3", "2", "states 3, right is 2", False),
        ("2.0", ["two", "2"], "right: 2.0", True),
        ("3", ["two", "2"], "states 3, right is two or 2", False),
        ("3", None, "states 3", None),
        (None, "2", "states no answer, cut off", False),
        (None, None, "states no answer, cut off", None),
    ],
)
def test_what_became_of_an_answer_is_said(tmp_path, stated, answer, verdict, right) -> None:
    row = sample(0, "x", stated=stated, answer=answer, finished=stated is not None)
    ((shown,),) = view_run(read_run(write_run(tmp_path / "run", RISE_AND_FALL[:1], [row]))).held_out
    assert (shown.verdict, shown.is_right) == (verdict, right)


def test_the_numbers_are_those_of_the_metrics_at_the_same_steps(run: Path) -> None:
    summary = dict(view_run(read_run(run)).summary)
    assert summary["Accuracy, share right (held out)"] == ["45.0%", "63.0%", "27.0%"]
    assert summary["Entropy, nats a token (held out)"] == ["0.5", "0.4", "0"]
    assert summary["Reward (in training)"] == ["—", "4", "8"]


def test_what_the_run_was_is_said_with_the_options_that_were_changed(run: Path) -> None:
    view = view_run(read_run(run))
    facts = dict(view.facts)
    assert facts["Start model"] == "some/model"
    assert facts["Versions"] == "rlif 1.2.3, Python 3.11"
    assert facts["A step"].startswith("32 prompts x 8 completions of at most 256 tokens")
    assert dict(view.changed) == {
        "model": "some/model", "data": "prompts.jsonl", "max_steps": "30", "guard_patience": "2",
        "learning_rate": "0.001",
    }  # fmt: skip


# ---------------------------------------------------------------- runs that are not finished, old, or lack files


def test_a_run_says_how_far_it_is(run: Path) -> None:
    def state() -> str:
        return view_run(read_run(run)).state

    assert (
        state() == "Not finished: stopped at step 50 of 30. rlif train --resume goes on with it if it has a checkpoint."
    )
    with Lock(run):
        assert (run / LOCK_FILE).exists()
        assert state().startswith("Still running: step 50 of 30.")
    (run / "model").mkdir()
    assert state() == "Finished after step 50."
    (run / "config.yaml").write_text(CONFIG.replace("max_steps: 30", "max_steps: 90"))
    assert state() == "Not finished: stopped at step 50 of 90, where its model was saved."
    rows = "".join(json.dumps(row) + "\n" for row in RISE_AND_FALL[:5])
    (run / "metrics.jsonl").write_text(rows + '{"step": 50, "rew')  # a line that is being written
    assert state() == "Ended by the guard at step 40 of 90."


def test_a_run_of_one_step_without_guard_samples_or_record_is_shown(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", [{"step": 1, "reward": 2.0, "loss": None}], None, None))
    assert "The guard has seen no evaluation yet." in page.text()
    assert "The run has kept no completions yet." in page.text()
    assert "nothing says what the run was" in page.text()
    assert "choice" not in page.texts  # nothing to colour


def test_samples_of_an_earlier_version_are_shown_without_colours_and_it_is_said(tmp_path: Path) -> None:
    old = [{name: value for name, value in row.items() if name not in ("split", "reward", "tokens")} for row in SAMPLES]
    page = page_of(write_run(tmp_path / "run", samples=old))
    assert "no statistics of their tokens were kept with them" in page.text()
    assert f"{printable(HOSTILE)}\nwell, 0" in page.texts["tokens"]
    assert "t" not in page.texts


def test_metrics_that_are_not_finite_are_said_to_be(tmp_path: Path) -> None:
    rows = [{"step": 1, "reward": 1.0, "entropy": None}, {"step": 2, "reward": None, "entropy": None}]
    view = view_run(read_run(write_run(tmp_path / "run", rows, None)))
    assert dict(view.summary)["Entropy, nats a token (in training)"] == ["not finite", "not finite"]


# ---------------------------------------------------------------- several runs, demonstrations, labs


def test_several_runs_are_drawn_in_the_same_charts_and_each_has_its_section(tmp_path: Path) -> None:
    for name, reward in (("a", "token_entropy"), ("b", "verifiable")):
        write_run(tmp_path / "demo" / name, config=f"{CONFIG}reward: [{reward}]\n")
    page = page_of(tmp_path / "demo")  # as a demonstration has them
    assert "<title>token_entropy, step 0: 45.0%</title>" in page.html
    assert "<title>verifiable, step 0: 45.0%</title>" in page.html
    assert {"run-1", "run-2"} <= set(page.ids)
    assert {"#run-1", "#run-2"} <= set(page.references)
    assert re.findall(r"<figcaption>(Reward.*?)<", page.html) == ["Reward of token_entropy", "Reward of verifiable"]
    again = page_of(tmp_path / "demo/a", tmp_path / "demo/a")  # the same reward: named by their directories
    assert again.html.count(f"<title>{tmp_path / 'demo/a'}, step 0: 45.0%</title>") == 2


def test_a_lab_has_its_findings_tables_charts_and_figures(tmp_path: Path) -> None:
    page, lab = page_of(LAB), json.loads((LAB / "lab.json").read_text())
    text = page.text()
    for each in lab["findings"]:
        assert each["title"] in text
    assert f"{100 * lab['guard_rules'][0]['regret']:.1f}" in text
    assert text.count("mix-0.1") >= 1 + len([each for each in lab["trials"] if each["ratio"] == 0.1])
    images = [each for each in page.references if not each.startswith("#")]
    assert len(images) == 4
    assert all(each.startswith("data:image/png;base64,") for each in images)
    mean = sum(each["rows"][0]["eval/accuracy"] for each in lab["trials"] if each["ratio"] == 0.0 and
               each["reward"] == "self_certainty") / 3  # fmt: skip
    assert f"<title>self_certainty, step 0: {mean:.1%}</title>" in page.html


def test_a_lab_that_is_not_finished_says_which_trials_have_begun(tmp_path: Path) -> None:
    (tmp_path / "lab/starts").mkdir(parents=True)
    write_run(tmp_path / "lab/runs/base-self_certainty-seed-0")
    write_run(tmp_path / "lab/runs/base-verifiable-seed-0", rows=[])
    page = page_of(tmp_path / "lab")
    assert "Not finished: 1 trials have begun." in page.text()
    assert "base-self_certainty-seed-0: step 50" in page.text()
    assert "What the guard decided" in page.text()  # one trial in full
    assert re.search(r"<h2>base-self_certainty-seed-0</h2>", page.html)


# ---------------------------------------------------------------- what is no run


def test_a_directory_that_is_no_run_is_one_error(tmp_path: Path, run: Path) -> None:
    (tmp_path / "empty").mkdir()
    damaged = {
        "no-metrics": dict(rows=[]),
        "no-number": dict(rows=[{"step": 1, "reward": "high"}]),
        "far": dict(rows=[{"step": 10**20, "reward": 1.0}]),
        "guard": dict(rows=[{"step": 0, "guard/falling": 0.0}]),
        "config": dict(config="nonsense: 1\n"),
        "text": dict(samples=[SAMPLES[0] | {"completion": 3}]),
        "step": dict(samples=[SAMPLES[0] | {"step": "x"}]),
        "reward": dict(samples=[SAMPLES[0] | {"reward": "x"}]),
        "tokens": dict(samples=[SAMPLES[0] | {"tokens": {"lengths": [10**6]}}]),
        "list": dict(samples=[SAMPLES[0] | {"tokens": []}]),
    }
    for name, changes in damaged.items():
        write_run(tmp_path / name, **changes)
    for directories, message in (
        ([], "runs: got none, expected at least one"),
        (["empty"], "runs: .*empty has no metrics.jsonl, expected the directory of `rlif train`"),
        (["nothing"], "runs: .*nothing is no directory"),
        (["run/metrics.jsonl"], "runs: .*metrics.jsonl is no directory"),
        (["no-metrics"], "has no metrics yet"),
        (["no-number"], "row 1: got reward 'high', expected a number"),
        (["far"], "got step 1e\\+20, expected at most"),
        (["guard"], "lacks what the guard goes by: 'base_nll'"),
        (["config"], "got 'nonsense', which is no option of rlif train"),
        (["text"], "samples.jsonl, row 1: got completion '3', expected text"),
        (["step"], "samples.jsonl, row 1: got step 'x', expected a whole number"),
        (["reward"], "samples.jsonl, row 1: got reward 'x', expected a number"),
        (["tokens"], "row 1: got tokens that are longer than the completion"),
        (["list"], "row 1: got tokens that are no object"),
    ):
        with pytest.raises(UserError, match=message) as error:
            read_subjects([tmp_path / name for name in directories])
        assert "\n" not in str(error.value)


def test_a_damaged_lab_is_one_error(tmp_path: Path) -> None:
    whole = json.loads((LAB / "lab.json").read_text())
    for changes in ({"findings": 3}, {"trials": [{}]}, {"size": None}, {"guard_rules": [{"rule": "x"}]}):
        (tmp_path / "lab.json").write_text(json.dumps(whole | changes))
        with pytest.raises(UserError, match=r"runs: .*lab.json is damaged \(\w+: "):
            read_subjects([tmp_path])
    (tmp_path / "lab.json").write_text(json.dumps(whole))
    (tmp_path / "guard.png").write_text("no picture")
    with pytest.raises(UserError, match=r"guard.png is no PNG"):
        read_subjects([tmp_path])


def test_half_a_surrogate_pair_is_no_reason_not_to_write_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", samples=[sample(0, "a\ud800b", prompt="\udc00")])
    report(run, tmp_path / "page.html")
    assert "a?b" in Page((tmp_path / "page.html").read_text(encoding="utf-8")).text()


def test_samples_are_read_while_they_are_written(run: Path) -> None:
    whole = read_samples(run / "samples.jsonl")
    with (run / "samples.jsonl").open("a") as file:
        file.write('{"step": 60, "prom')
    assert read_samples(run / "samples.jsonl") == whole
