"""The loop stops at what is accepted, shows what is rejected, and goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlif.cli import parse
from rlif.errors import UserError
from rlif.files.jsonl import Row, read_rows
from rlif.metrics.calibration import LogisticModel
from rlif.retry.attempts import Retrying
from rlif.retry.command import run
from rlif.retry.discriminator import Discriminator, read_discriminator
from rlif.rollouts.encode import EncodedPrompt
from rlif.tasks.arithmetic import ArithmeticConfig, write_jsonl

TASK = ArithmeticConfig(digits=1)
CHAT = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}<assistant>"


@pytest.fixture
def words(answering_model: Path, tmp_path: Path) -> list[str]:
    """A retry with a discriminator that accepts a few of the attempts that state an answer."""
    write_jsonl(tmp_path / "data.jsonl", TASK, "eval", 6, seed=0)
    by_logprob(-5.0).write(tmp_path / "discriminator.json")
    options = f"--data {tmp_path / 'data.jsonl'} --discriminator {tmp_path / 'discriminator.json'} --feedback ?"
    options += " --max-completion-length 20 --max-rounds 3 --prompts-per-batch 4 --device cpu"
    return ["retry", "--model", str(answering_model), *options.split(), "--output-dir", str(tmp_path / "out")]


def by_logprob(middle: float) -> Discriminator:
    """A discriminator that gives one half to a sequence_logprob."""
    numbers = (np.array([value]) for value in (middle, 1.0, 1.0))
    return Discriminator(("sequence_logprob",), LogisticModel(*numbers, 0.0), 1.0, 64, {})


def rows(tmp_path: Path) -> list[Row]:
    return read_rows(tmp_path / "out" / "attempts.jsonl")


def test_attempts_end_with_the_first_that_is_accepted(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(parse(words))
    for row in rows(tmp_path):
        accepted = [
            answer is not None and probability >= 0.5
            for answer, probability in zip(row["stated"], row["probabilities"], strict=True)
        ]
        assert not any(accepted[:-1])
        assert row["end"] == ("accepted" if accepted[-1] else "max_rounds")
        assert row["end"] == "accepted" or len(accepted) == 3
        logprobs = np.array(row["scores"]["sequence_logprob"])
        expected = np.where([answer is None for answer in row["stated"]], 0, 1 / (1 + np.exp(-5 - logprobs)))
        assert row["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert len({row["end"] for row in rows(tmp_path)}) == 2  # or the test would say little
    found = json.loads((tmp_path / "out" / "retry.json").read_text())
    assert found["labelled"] == 6
    assert found["ends"]["accepted"] == np.mean([row["end"] == "accepted" for row in rows(tmp_path)])
    assert (tmp_path / "out" / "retry.png").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "6 prompts, attempt by attempt" in said
    assert "Right answers: " in said


def test_a_retry_that_was_interrupted_goes_on_to_the_same_end(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(parse(words))
    whole, path = (tmp_path / "out" / "attempts.jsonl").read_bytes(), tmp_path / "again" / "attempts.jsonl"
    made = Retrying.rows

    def stop_at_the_second_batch(self: Retrying, start: int, prompts: list[EncodedPrompt]) -> list[Row]:
        if start == 4:
            raise KeyboardInterrupt
        return made(self, start, prompts)

    again = [*words[:-1], str(tmp_path / "again")]
    with monkeypatch.context() as patch:
        patch.setattr(Retrying, "rows", stop_at_the_second_batch)
        with pytest.raises(KeyboardInterrupt, match=r"interrupted: 4 of 6 prompts are in .* --resume goes on"):
            run(parse(again))
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:4])
    (tmp_path / "discriminator.json").unlink()  # the directory has its own
    run(parse([*again, "--resume"]))
    assert path.read_bytes() == whole
    with pytest.raises(UserError, match=r"^resume: threshold is 0.9, but the retry in .* had 0.5"):
        run(parse([*again, "--resume", "--threshold", "0.9"]))


def test_attempts_of_equal_number_are_what_a_discriminator_can_be_fitted_on(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(parse([*words, "--threshold", "1"]))  # as the paper collects them: whatever was rejected, another one follows
    assert "Warning" not in capsys.readouterr().out
    assert {len(row["completions"]) for row in rows(tmp_path)} == {3}
    place = words.index("--discriminator")
    again = [
        *words[:place],
        "--labels",
        "majority",
        "--fit-on",
        str(tmp_path / "out" / "attempts.jsonl"),
        *words[place + 2 : -1],
    ]
    run(parse([*again, str(tmp_path / "fitted")]))
    fitted = read_discriminator(tmp_path / "fitted" / "discriminator.json")
    assert fitted.temperature == 1.0
    assert "sequence_logprob" in fitted.scores
    assert "Warning: it was fitted on 6 of these 6 prompts" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match=r"^temperature: got 0.5, but the discriminator was fitted on .* at 1.0"):
        run(parse([*again, str(tmp_path / "other"), "--temperature", "0.5"]))
    assert not (tmp_path / "other").exists()


def test_without_its_rejected_attempts_the_model_reads_the_prompt_alone(words: list[str], tmp_path: Path) -> None:
    run(parse([*words, "--no-show-rejected", "--feedback", "9" * 600, "--abstain"]))  # which no context could hold
    assert {row["end"] for row in rows(tmp_path)} == {"accepted", "max_rounds"}


def test_a_prompt_that_became_too_long_stops_with_what_it_has(words: list[str], tmp_path: Path) -> None:
    run(parse([*words, "--feedback", "9" * 240]))  # of 512 positions: one fits, two do not
    ends = [(row["end"], len(row["completions"])) for row in rows(tmp_path)]
    assert ("too_long", 2) in ends
    assert {end for end in ends if end[0] != "accepted"} == {("too_long", 2)}


def test_options_that_contradict_each_other_are_one_clear_error(words: list[str]) -> None:
    place = words.index("--discriminator")
    for changed, message in (
        ([*words, "--fit-on", "x"], "fit_on: got 'x' beside a discriminator"),
        ([*words[:place], *words[place + 2 :]], "discriminator: got none, expected a discriminator.json"),
        ([*words, "--feedback", " "], "feedback: got ' ', expected a sentence"),
        ([*words, "--threshold", "1.5"], "threshold: got 1.5, expected a number from 0 to 1"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            run(parse(changed))
