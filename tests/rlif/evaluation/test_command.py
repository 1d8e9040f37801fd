"""`rlif eval` writes what its tables say, resumes to the same completions, and names bad input before it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from drawn_figures import plain_figures
from rlif.errors import UserError
from rlif.evaluation.command import run as run_eval
from rlif.evaluation.options import EvalConfig
from toy_completions import SCORE_NAMES

WriteJsonl = Callable[..., Path]
MakeEval = Callable[..., EvalConfig]


def test_the_command_writes_completions_results_and_figures(
    make_eval: MakeEval, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_eval(make_eval(answer_style="lenient", max_completion_length=24))  # some end, and with a number
    printed = capsys.readouterr().out
    assert "6 prompts x 4 completions" in printed
    assert "majority@4" in printed
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "completions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 6
    assert all(set(row["scores"]) == SCORE_NAMES and len(row["completions"]) == 4 for row in rows)
    results = json.loads((out / "eval.json").read_text())
    assert results["labelled"] == 6
    assert results["selection"]["pass@4"]["value"] >= results["selection"]["average@4"]["value"]
    assert {path.name for path in out.iterdir()} == {
        "completions.jsonl", "config.yaml", "eval.json", "majority.jsonl", "reliability.png", "risk_coverage.png"
    }  # fmt: skip
    # The file is all that the measures need.
    config = EvalConfig(completions=out / "completions.jsonl", output_dir=tmp_path / "again", answer_style="lenient")
    with plain_figures():
        run_eval(config)
    again = json.loads((tmp_path / "again" / "eval.json").read_text())
    assert again == results


def test_ctrl_c_while_measuring_says_that_nothing_sampled_is_lost(
    make_eval: MakeEval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rlif.evaluation.command.evaluate_completions", stop)
        with pytest.raises(KeyboardInterrupt, match=r"all completions are in .* --resume measures them"):
            run_eval(make_eval())
    run_eval(make_eval(resume=True))
    assert (tmp_path / "out" / "eval.json").is_file()


def test_an_evaluation_that_the_last_release_began_is_resumed(make_eval: MakeEval, tmp_path: Path) -> None:
    config = make_eval()
    run_eval(config)
    results = (tmp_path / "out" / "eval.json").read_bytes()
    for name in ("config.yaml", "eval.json"):
        (tmp_path / "out" / name).unlink()
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    del settings["answer_style"]  # which that release had not
    (tmp_path / "out" / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    with pytest.raises(UserError, match=r"resume: temperature is 0.5, but the evaluation in .* had 1.0"):
        run_eval(make_eval(resume=True, temperature=0.5))
    run_eval(make_eval(resume=True))
    assert (tmp_path / "out" / "eval.json").read_bytes() == results


def test_an_evaluation_by_lists_of_gold_answers_resumes(make_eval: MakeEval, tmp_path: Path) -> None:
    config = make_eval()
    prompts = Path(str(config.data))
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    prompts.write_text("".join(json.dumps(row | {"answer": [row["answer"], "none"]}) + "\n" for row in rows))
    run_eval(config)
    results = json.loads((tmp_path / "out" / "eval.json").read_text())
    run_eval(replace(config, resume=True))
    assert json.loads((tmp_path / "out" / "eval.json").read_text()) == results


def test_an_evaluation_does_not_resume_with_other_options_or_prompts(
    make_eval: MakeEval, write_jsonl: WriteJsonl
) -> None:
    run_eval(make_eval())
    with pytest.raises(UserError, match=r"resume: temperature is 0.5, but the evaluation in .* had 1.0"):
        run_eval(make_eval(resume=True, temperature=0.5))
    config = make_eval(resume=True)
    prompts = Path(str(config.data))
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in [rows[0], rows[1] | {"answer": "99"}, *rows[2:]]))
    with pytest.raises(UserError, match=r"resume: .*completions.jsonl, line 2 has another gold answer than the data"):
        run_eval(config)
    write_jsonl(rows[0], {"prompt": "7+7="}, *rows[2:], name="prompts.jsonl")
    with pytest.raises(UserError, match=r"resume: .*completions.jsonl, line 2 has another prompt than the data"):
        run_eval(config)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": None}, "model: got none, expected a model and data, or completions"),
        ({"data": None}, "data: got none"),
        ({"completions": Path("x.jsonl")}, "model: got .* beside completions, expected one or the other"),
        ({"resume": True, "output_dir": None}, "output_dir: got none, expected the directory of the evaluation"),
        ({"resume": True}, "output_dir: .*out does not exist, expected the directory of the evaluation to resume"),
        ({"num_generations": 0}, "num_generations: got 0, expected an integer of at least 1"),
        ({"temperature": float("nan")}, "temperature: got nan"),
        ({"top_p": 0.0}, "top_p: got 0.0"),
        ({"data": "nowhere.jsonl"}, "data: got 'nowhere.jsonl', which is not a file"),
        ({"max_completion_length": 64}, "data: line 1, prompt .* more than the model's 64 positions"),
    ],
)
def test_bad_input_is_one_error_before_anything_is_written(
    make_eval: MakeEval, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        run_eval(make_eval(**changes))
    assert not (tmp_path / "out").exists()


def test_data_with_splits_is_evaluated_on_its_test_split(make_eval: MakeEval, tmp_path: Path) -> None:
    for name, prompt in (("train", "1+1="), ("test", "2+2=")):
        (tmp_path / "splits").mkdir(exist_ok=True)
        (tmp_path / "splits" / f"{name}.jsonl").write_text(json.dumps({"prompt": prompt, "answer": "4"}) + "\n")
    run_eval(make_eval(data=str(tmp_path / "splits"), num_generations=1))
    assert json.loads((tmp_path / "out" / "majority.jsonl").read_text())["prompt"] == "2+2="


def test_one_prompt_and_no_right_answer_leave_out_what_cannot_be_measured(
    make_eval: MakeEval, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    data = write_jsonl({"prompt": "1+2=", "answer": "3"}, name="one.jsonl")
    run_eval(make_eval(data=str(data), temperature=0.0, num_generations=2))
    # The tiny model states no answer: nothing is measured, and nothing divides by zero.
    results = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert (results["labelled"], results["selection"], results["scores"]) == (1, {}, {})
    row = {"prompt": "1+2=", "answer": "3", "completions": ["#### 4", "#### 5"], "scores": {"sure": [0.5, 0.25]}}
    run_eval(EvalConfig(completions=write_jsonl(row, name="wrong.jsonl"), output_dir=tmp_path / "wrong"))
    results = json.loads((tmp_path / "wrong" / "eval.json").read_text())
    assert results["selection"]["accuracy@1"] == {"value": 0.0, "standard_error": None}
    assert results["scores"]["sure"]["auroc"] is None
