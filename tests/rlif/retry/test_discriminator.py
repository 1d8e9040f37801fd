"""A discriminator is fitted on completions with scores, and read back as it was written or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlif.errors import UserError
from rlif.retry.discriminator import KNOWN_SCORES, fit_discriminator, read_discriminator
from rlif.retry.report import acceptance

WriteJsonl = Callable[..., Path]
Rows = list[dict[str, object]]


def groups(gold: str | None = "1") -> Rows:
    """Of each prompt two completions state 1 and are sure of it, one states 2 and is not, and one states nothing."""
    noise = np.random.default_rng(0).normal(size=(20, 4))
    return [
        {
            "prompt": f"{number}=",
            "answer": gold,
            "answers": ["1", "1", "2", None],
            "scores": {"self_certainty": list(np.array([2.0, 2.0, 0.0, 9.0]) + row), "mine": [0.0] * 4},
        }
        for number, row in enumerate(noise)
    ]


@pytest.mark.parametrize("labels", ["gold", "majority"])
def test_what_is_right_or_the_majoritys_is_accepted_by_its_scores(
    labels: str, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    path = write_jsonl(*groups("1" if labels == "gold" else None))
    made = fit_discriminator([path], labels=labels)  # type: ignore[arg-type]
    assert made.scores == ("self_certainty",)  # `mine` is a score that no attempt has
    assert made.record["completions"] == 60  # those without an answer teach nothing
    assert made.record["accepted_by_the_labels"] == pytest.approx(2 / 3)
    sure, unsure = made.probabilities({"self_certainty": [3.0, -1.0]})
    assert sure > 0.9
    assert unsure < 0.3
    held_out = made.record["held_out"]
    at = dict(zip(held_out["thresholds"], zip(held_out["accepted"], held_out["precision"], strict=True), strict=True))
    assert at[0.0] == (1.0, pytest.approx(2 / 3))
    assert at[0.5][0] < 1.0
    assert at[0.5][1] > 0.75
    made.write(tmp_path / "discriminator.json")
    again = read_discriminator(tmp_path / "discriminator.json")
    assert again.probabilities({"self_certainty": [3.0, -1.0]}).tolist() == [sure, unsure]
    assert again.record == json.loads(json.dumps(made.record))


def test_labels_decide_where_the_majority_is_wrong(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl(*groups("2"))
    for labels, sign in (("gold", -1), ("majority", 1)):
        made = fit_discriminator([path], labels=labels)  # type: ignore[arg-type]
        assert np.sign(made.model.coefficients[0]) == sign


def test_a_prompt_of_two_files_is_one_prompt(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl(*groups())
    once, twice = fit_discriminator([path]), fit_discriminator([path, path])
    assert twice.record["prompts"] == once.record["prompts"] == 20
    # Were it two, its own labels would be among those that it is judged by.
    assert twice.record["held_out"]["auroc"] == pytest.approx(once.record["held_out"]["auroc"], abs=0.02)


def test_what_changed_or_is_no_discriminator_is_refused(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    path = tmp_path / "discriminator.json"
    fit_discriminator([write_jsonl(*groups())]).write(path)
    document = json.loads(path.read_text())
    for changes, message in (
        ({"intercept": 5.0}, "has changed since it was written"),
        ({"crc32": None, "scales": [0.0]}, "has scales of 0, expected numbers greater than 0"),
        ({"crc32": None, "means": [1.0, 2.0]}, "has means .*, expected 1 finite numbers"),
        ({"crc32": None, "scores": ["mine"]}, f"knows a score 'mine', expected some of {KNOWN_SCORES[0]}"),
        ({"crc32": None, "confidence_window": 0}, "confidence_window: got 0, expected an integer of at least 1"),
    ):
        path.write_text(json.dumps({name: each for name, each in (document | changes).items() if each is not None}))
        with pytest.raises(UserError, match=rf"^discriminator: {path}:? {message}"):
            read_discriminator(path)


def test_completions_that_teach_nothing_are_one_clear_error(write_jsonl: WriteJsonl) -> None:
    silent = [{"prompt": "p", "answer": "1", "completions": ["so", "thus"], "scores": {"self_certainty": [1.0, 2.0]}}]
    nameless = [{**row, "scores": {"mine": [0.0] * 4}} for row in groups()]
    for rows, message in (
        (groups(None), "has no gold answers, expected some, or --labels majority"),
        (silent, r"no completion of .* states an answer; try answer_style lenient"),
        (groups("3"), "none of the 60 answers are right, expected some to accept and some to reject"),
        (nameless, "has none of the scores self_certainty"),
    ):
        with pytest.raises(UserError, match=rf"^fit_on: .*{message}"):
            fit_discriminator([write_jsonl(*rows)])


@pytest.mark.parametrize("name", ["missing", "me/missing", "word_problems:level=1", "", "a.parquet"])
def test_what_is_no_file_of_completions_is_said_to_be_none_and_looked_for_nowhere_else(name: str) -> None:
    what = "which is a directory, not a file" if name == "" else "which is not a file"
    with pytest.raises(
        UserError, match=rf"^fit_on: got '{name or '.'}', {what}; expected JSONL, JSON, Parquet or CSV$"
    ):
        fit_discriminator([Path(name)])


def test_completions_of_two_temperatures_are_refused(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    paths = []
    for name, temperature in (("a", 1.0), ("b", 0.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"model: m\ndata: d\ntemperature: {temperature}\n")
        paths.append(write_jsonl(*groups(), name=f"{name}/completions.jsonl"))
    assert fit_discriminator(paths[1:]).temperature == 0.5
    with pytest.raises(UserError, match=r"^fit_on: .*was sampled at temperature 1.0 .*, another file otherwise"):
        fit_discriminator(paths)


def test_what_the_threshold_accepts_is_said_before_anything_is_sampled_and_one_that_accepts_enough() -> None:
    measured = {"thresholds": [0.05, 0.3, 0.4, 0.5], "accepted": [1.0, 0.24, 0.097, 0.025],
                "precision": [0.2, 0.35, 0.565, 0.833]}  # fmt: skip
    assert acceptance(measured, "gold", 0.5) == (
        " From 0.5 on it accepts 2.5% of their stated answers, of which 83.3% are right; with a threshold of 0.3 it "
        "would accept 24.0%, of which 35.0% are right."
    )
    assert acceptance(measured, "majority", 0.33) == (
        " From 0.3 on it accepts 24.0% of their stated answers, of which 35.0% are the majority's."
    )
    assert acceptance(measured, "gold", 0.8).startswith(" From 0.8 on it accepts none of their stated answers; with a")
    assert acceptance(measured, "gold", 1.0).startswith(" From 1 on it accepts none of their stated answers; with a")
    assert acceptance({name: [] for name in measured}, "gold", 0.5) == ""
