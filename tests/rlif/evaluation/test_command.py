"""`rlif eval` measures what its tables say, keeps what it sampled, and resumes to the same file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from rlif.errors import UserError
from rlif.evaluation.command import run as run_eval
from rlif.evaluation.completions import Completions
from rlif.evaluation.measure import evaluate_completions
from rlif.evaluation.options import EvalConfig
from rlif.evaluation.report import print_tables
from rlif.evaluation.sampling import EvalSampling
from rlif.models.language_model import LanguageModel
from rlif.rewards import REWARDS
from rlif.rewards.interface import describe
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.sample import sample
from rlif.scoring.confidence import OUTPUTS, confidence_scores
from rlif.scoring.scorer import Scorer

WriteJsonl = Callable[..., Path]
MakeEval = Callable[..., EvalConfig]
SCORES = {
    "self_certainty",
    "token_entropy",
    "trajectory_entropy",
    "sequence_logprob",
    "inverse_perplexity",
    "entropy_confidence",
    "probability_disparity",
}


@pytest.fixture
def make_eval(model_dir: Path, write_jsonl: WriteJsonl, tmp_path: Path) -> MakeEval:
    """An evaluation of a few completions; keyword arguments change fields."""
    rows = [{"prompt": f"{a}+{b}=", "answer": a + b} for a in (1, 20) for b in (3, 4, 50)]

    def make(**changes: object) -> EvalConfig:
        settings: dict[str, object] = {
            "model": str(model_dir),
            "data": str(write_jsonl(*rows, name="prompts.jsonl")),
            "output_dir": tmp_path / "out",
            "num_generations": 4,
            "max_completion_length": 8,
            "device": "cpu",
        }
        return EvalConfig(**(settings | changes))  # type: ignore[arg-type]

    return make


def toy(golds: list[str | None] | None = None) -> Completions:
    """Two prompts: in the first the sure one is right, in the second the many are."""
    return Completions(
        prompts=["a", "b"],
        golds=["1", "2"] if golds is None else golds,
        answers=[["1", "3", "3", None], ["2", "2.0", "5", "2"]],
        scores={
            "self_certainty": np.array([[9.0, 1.0, 2.0, 3.0], [1.0, 2.0, 9.0, 3.0]]),
            "inverse_perplexity": np.array([[0.9, 0.1, 0.2, 0.3], [0.1, 0.2, 0.9, 0.3]]),
        },
    )


def test_every_way_of_choosing_is_measured_by_hand() -> None:
    evaluation = evaluate_completions(toy(), borda_powers=(0.0, 8.0))
    values = {name: estimate.value for name, estimate in evaluation.selection.items()}
    assert values == {
        "accuracy@1": 1.0,
        "average@4": (1 / 4 + 3 / 4) / 2,
        "majority@2": (1 / 2 + 1 / 2) / 2,  # of 1, 3 | 3, none | 2, 2 | 5, 2 the first of each wins
        "majority@4": 0.5,
        "best-of-4/self_certainty": 0.5,
        "best-of-4/inverse_perplexity": 0.5,
        "borda-0/self_certainty": 0.5,
        "borda-8/self_certainty": 0.5,
        "pass@2": (1 - 3 / 6 + 1) / 2,
        "pass@4": 1.0,
    }
    assert evaluation.selection["average@4"].standard_error == pytest.approx(0.25)  # of 1/4 and 3/4
    assert evaluation.label_free["majority_share"].value == (2 / 4 + 3 / 4) / 2
    assert evaluation.label_free["answered"].value == (3 / 4 + 1) / 2
    assert evaluation.majority_answers == [("3", 0.5), ("2", 0.75)]


def test_a_score_in_nats_is_calibrated_by_regression_only_and_a_probability_as_it_is_too() -> None:
    scores = evaluate_completions(toy()).scores
    assert scores["self_certainty"].as_is is None
    assert scores["self_certainty"].isotonic is not None
    assert scores["inverse_perplexity"].as_is is not None
    assert scores["inverse_perplexity"].as_is[0] == pytest.approx(
        (0.8 + 0.6 + 0.4 + 0.8) / 8
    )  # one of two right in each bin
    # Within the first prompt the right one is on top, within the second at the bottom: the mean of 1 and 0.
    assert scores["self_certainty"].auroc_within == 0.5
    assert set(scores) == {"self_certainty", "inverse_perplexity", "agreement"}


def test_without_gold_answers_there_is_only_what_needs_none() -> None:
    evaluation = evaluate_completions(toy(golds=[None, None]))
    assert evaluation.selection == {}
    assert evaluation.scores == {}
    assert evaluation.majority_answers == [("3", 0.5), ("2", 0.75)]
    console = Console(record=True, width=100)
    print_tables(evaluation, console)
    text = console.export_text()
    assert "no gold answers: only what needs none is measured" in text
    assert "right" not in text


def test_accuracies_are_of_the_prompts_with_a_gold_answer() -> None:
    evaluation = evaluate_completions(toy(golds=[None, "2"]))
    assert evaluation.labelled == 1
    assert evaluation.selection["average@4"].value == 0.75
    assert evaluation.scores["inverse_perplexity"].isotonic is None  # no other prompt to fit it on
    console = Console(record=True, width=100)
    print_tables(evaluation, console)
    assert "accuracies are of the 1 with a gold answer" in console.export_text()
    json.dumps(evaluation.to_json(), allow_nan=False)  # what is not a number has become null


def test_scores_of_the_sampling_pass_are_the_rewards_of_their_names(language_model: LanguageModel) -> None:
    ids = language_model.tokenizer("1+2=")["input_ids"]
    prompts = [EncodedPrompt("1+2=", "3", ids)]
    rollout = sample(
        language_model,
        prompts,
        num_generations=16,
        max_completion_length=12,
        temperature=0.7,
        seeds=[(0, 0)],
        outputs=OUTPUTS,
    )
    vocab_size = language_model.model.config.vocab_size
    scores = confidence_scores(rollout, language_model.tokenizer, vocab_size)
    assert set(scores) == SCORES
    with torch.no_grad():
        stats = Scorer(language_model.model, None)(rollout, 0.7, OUTPUTS)
    inputs = {
        "stats": stats,
        "completion_mask": rollout.completion_mask,
        "completions": rollout.texts,
        "completion_ids": rollout.completion_ids,
        "tokenizer": language_model.tokenizer,
    }
    for name in scores.keys() & REWARDS.keys():
        reward = describe(name, REWARDS[name], 1.0)
        expected = reward.function(**reward.arguments(inputs))
        # Sums of a dozen float32 statistics of logits that were computed in two ways: token by token and all at once.
        torch.testing.assert_close(scores[name], expected, rtol=1e-4, atol=1e-3)
    for name in ("inverse_perplexity", "entropy_confidence"):
        assert ((scores[name] >= 0) & (scores[name] <= 1)).all()


def test_the_command_writes_completions_results_and_figures(
    make_eval: MakeEval, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_eval(make_eval())
    printed = capsys.readouterr().out
    assert "6 prompts x 4 completions" in printed
    assert "majority@4" in printed
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "completions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 6
    assert all(set(row["scores"]) == SCORES and len(row["completions"]) == 4 for row in rows)
    results = json.loads((out / "eval.json").read_text())
    assert results["labelled"] == 6
    assert results["selection"]["pass@4"]["value"] >= results["selection"]["average@4"]["value"]
    assert {path.name for path in out.iterdir()} == {
        "completions.jsonl", "config.yaml", "eval.json", "majority.jsonl", "reliability.png", "risk_coverage.png"
    }  # fmt: skip
    # The file is all that the measures need.
    run_eval(EvalConfig(completions=out / "completions.jsonl", output_dir=tmp_path / "again"))
    again = json.loads((tmp_path / "again" / "eval.json").read_text())
    assert again == results


def test_completions_do_not_depend_on_how_many_are_sampled_at_a_time(make_eval: MakeEval, tmp_path: Path) -> None:
    run_eval(make_eval())
    run_eval(make_eval(output_dir=tmp_path / "one", max_batch_tokens=1))
    texts = [
        [json.loads(line)["completions"] for line in (tmp_path / name / "completions.jsonl").open(encoding="utf-8")]
        for name in ("out", "one")
    ]
    assert texts[0] == texts[1]


def test_an_evaluation_that_was_stopped_resumes_to_the_same_file(
    make_eval: MakeEval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_batch_tokens": 100}  # two prompts at a time
    run_eval(make_eval(output_dir=tmp_path / "whole", **settings))
    lines = EvalSampling.lines

    def stop_at_the_third_batch(self: EvalSampling, start: int, prompts: list[EncodedPrompt]) -> list[str]:
        if start == 4:
            raise KeyboardInterrupt
        return lines(self, start, prompts)

    with monkeypatch.context() as patch:
        patch.setattr(EvalSampling, "lines", stop_at_the_third_batch)
        with pytest.raises(KeyboardInterrupt, match=r"interrupted: 4 of 6 prompts are in .* --resume goes on"):
            run_eval(make_eval(**settings))
    path = tmp_path / "out" / "completions.jsonl"
    assert len(path.read_text(encoding="utf-8").splitlines()) == 4
    with path.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "20+')  # the machine went down in the middle of a line
    run_eval(make_eval(resume=True, **settings))
    assert path.read_bytes() == (tmp_path / "whole" / "completions.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"output_dir: .*exists, expected a new directory, or --resume"):
        run_eval(make_eval(**settings))


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


def test_a_long_name_of_a_score_leaves_the_numbers_readable(capsys: pytest.CaptureFixture[str]) -> None:
    completions = Completions(["a"], ["1"], [["1", "2"]], {"name " * 16: np.array([[0.9, 0.4]])})
    print_tables(evaluate_completions(completions), Console(width=80))
    assert "0.500" in capsys.readouterr().out.splitlines()[-1]


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
    results = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert results["selection"]["accuracy@1"]["standard_error"] is None
    # The tiny model states no answer: nothing is right, and nothing divides by zero.
    assert results["scores"]["inverse_perplexity"]["auroc"] is None
