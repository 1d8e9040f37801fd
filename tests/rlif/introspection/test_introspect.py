"""Turns are collected, learned from and measured, and every stage goes on where it stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from rlif.cli import parse
from rlif.errors import UserError
from rlif.files.jsonl import Row, read_rows
from rlif.introspection.collect import Collecting
from rlif.introspection.command import run
from rlif.models.language_model import load_language_model
from rlif.rollouts.encode import EncodedPrompt
from rlif.tasks.arithmetic import ArithmeticConfig, write_jsonl
from rlif.training import items

TASK = ArithmeticConfig(digits=1)


@pytest.fixture
def words(answering_model: Path, tmp_path: Path) -> list[str]:
    """A whole introspection in miniature, whose directory comes last."""
    write_jsonl(tmp_path / "train.jsonl", TASK, "train", 6, seed=0)
    write_jsonl(tmp_path / "eval.jsonl", TASK, "eval", 4, seed=0)
    options = f"--data {tmp_path / 'train.jsonl'} --eval-data {tmp_path / 'eval.jsonl'} --feedback ? --turns 3"
    options += " --num-candidates 3 --blind-iterations 1 --max-completion-length 16 --prompts-per-batch 4 --device cpu"
    options += " --items-per-step 4 --num-train-epochs 1 --save-steps 1 --learning-rate 1e-3"
    return ["introspect", "--model", str(answering_model), *options.split(), "--output-dir", str(tmp_path / "out")]


def turns(directory: Path, iteration: int) -> list[Row]:
    return read_rows(directory / f"turns-{iteration}.jsonl", sealed_only=True)


def test_turns_are_collected_learned_and_measured(
    words: list[str], answering_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(parse(words))
    out = tmp_path / "out"
    tokenizer = load_language_model(str(answering_model), device="cpu", dtype="float32").tokenizer
    for row in [*turns(out, 1), *turns(out, 2)]:
        first, *later = row["turns"]
        assert row["label"] == row["answer"]
        assert tokenizer.decode(first["prompt_ids"]) == row["prompt"]
        assert len(first["rewards"]) == 1
        assert (first["reward"] == 1) == (not later)  # none follows a right one
        for each in later:
            assert each["reward"] == max(each["rewards"])
            assert len(each["rewards"]) == 3
            context = f"{row['prompt']}{first['text']}\n\n?\n\n{row['prompt']}"
            # Whether the candidates saw it or not, it is learned as what follows the attempt.
            assert tokenizer.decode(each["prompt_ids"]) == context
        for each in row["turns"]:
            assert tokenizer.decode(each["ids"], skip_special_tokens=True) == each["text"]
    assert {len(row["turns"]) for row in turns(out, 1)} == {1, 2}  # or the test would say little
    assert turns(out, 1) != turns(out, 2)
    # Everything so far is learned from, each attempt once.
    learned = [
        [(*turn["prompt_ids"], -1, *turn["ids"]) for row in turns(out, n) for turn in row["turns"]] for n in (1, 2)
    ]
    distinct = [set(learned[0]), set(learned[0] + learned[1])]
    steps = [len(read_rows(out / f"train-{iteration}" / "metrics.jsonl")) for iteration in (1, 2)]
    assert steps == [-(-len(each) // 4) for each in distinct]
    AutoModelForCausalLM.from_pretrained(out / "model")
    found = json.loads((out / "introspect.json").read_text())
    assert found["prompts"] == 4
    assert found["models"].keys() == {"start", "tuned"}
    assert [len(found["models"]["tuned"][name]) for name in ("right", "samples_majority", "lost", "tokens")] == [
        3,
        3,
        3,
        1,
    ]
    assert (out / "introspect.png").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "start model, 4 prompts, turn by turn" in said
    assert "tuned less start: m1@t1" in said
    assert "of the first attempts at 6 prompts are right" in said


def hurt_collecting(patch: pytest.MonkeyPatch) -> None:
    made = Collecting.rows

    def stop_at_the_second_batch(self: Collecting, start: int, prompts: list[EncodedPrompt]) -> list[Row]:
        if start == 4 and self.iteration == 2:
            raise KeyboardInterrupt
        return made(self, start, prompts)

    patch.setattr(Collecting, "rows", stop_at_the_second_batch)


def hurt_training(patch: pytest.MonkeyPatch) -> None:
    made, calls = items.train_batch, []

    def step(*arguments: Any) -> Row:
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return made(*arguments)

    patch.setattr(items, "train_batch", step)


def test_an_introspection_that_was_interrupted_goes_on_to_the_same_end(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(parse(words))
    again = [*words[:-1], str(tmp_path / "again")]
    for hurt, message in (
        (hurt_training, r"^interrupted in iteration 1: stopped after step 1 of \d of training; .* --resume goes on"),
        (hurt_collecting, r"^interrupted: 4 of 6 prompts are in .*turns-2.jsonl; .* --resume goes on$"),
    ):
        with monkeypatch.context() as patch:
            hurt(patch)
            with pytest.raises(KeyboardInterrupt, match=message):
                run(parse(again))
        assert not (tmp_path / "again" / "introspect.json").exists()
        if again[-1] != "--resume":
            again.append("--resume")
    run(parse(again))
    for name in ("turns-1.jsonl", "turns-2.jsonl", "eval-tuned.jsonl", "model/model.safetensors", "introspect.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
    with pytest.raises(UserError, match=r"^resume: tau is 0.5, but the introspection in .* had 0.4"):
        run(parse([*again, "--tau", "0.5"]))


def test_labels_of_the_majority_need_no_gold_answers(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in read_rows(path)))
    with pytest.raises(UserError, match=r"^data: .*train.jsonl, line 1: no `answer`, which a reward needs"):
        run(parse([*words, "--iterations", "1"]))
    assert not (tmp_path / "out").exists()
    run(parse([*words, "--iterations", "1", "--labels", "majority"]))
    rows = turns(tmp_path / "out", 1)
    labelled = [row for row in rows if row["label"] is not None]
    assert labelled
    for row in rows:
        assert (row["label"] is not None) == bool(row["turns"])
    for row in labelled:
        assert len(row["turns"][0]["rewards"]) == 3
        assert row["turns"][0]["rewards"].count(1.0) >= 2  # which agree


def test_without_iterations_a_model_is_only_measured(words: list[str], tmp_path: Path) -> None:
    place = words.index("--data")
    run(parse([*words[:place], *words[place + 2 :], "--iterations", "0"]))
    found = json.loads((tmp_path / "out" / "introspect.json").read_text())
    assert found["models"].keys() == {"start"}
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.slow
def test_an_adapter_is_on_the_start_model_each_time(words: list[str], answering_model: Path, tmp_path: Path) -> None:
    run(parse([*words, "--lora-rank", "2"]))
    for name in ("model-1", "model"):
        adapter = json.loads((tmp_path / "out" / name / "adapter_config.json").read_text())
        assert adapter["base_model_name_or_path"] == str(answering_model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("--feedback Wrong", "feedback: got 'Wrong', of which the tokenizer cannot write 'W'"),
        ("--max-completion-length 505", "feedback: with it after an empty attempt the shortest prompt takes 13 tokens"),
        ("--chat", "data: .* is a conversation, but the model's tokenizer has no chat template"),
        ("--temperature 0", "temperature: got 0, at which all candidates are the same"),
        ("--labels majority --num-candidates 1", "num_candidates: got 1 with majority, expected at least 2"),
        ("--window 1", "window: got 1, expected an integer of at least 2"),
    ],
)
def test_what_cannot_work_is_one_clear_error_before_work_starts(
    changes: str, message: str, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        run(parse([*words, *changes.split()]))
    assert not (tmp_path / "out").exists()


def test_held_out_prompts_need_gold_answers_and_learning_needs_data(words: list[str], tmp_path: Path) -> None:
    shutil.copy(tmp_path / "eval.jsonl", tmp_path / "gold.jsonl")
    (tmp_path / "eval.jsonl").write_text('{"prompt": "1+2\\n"}\n')
    with pytest.raises(UserError, match=r"^eval_data: .*eval.jsonl has no `answer`, which accuracy is measured by"):
        run(parse(words))
    for name, more, message in (
        ("--data", [], "data: got none, expected prompts to learn from"),
        ("--eval-data", ["--iterations", "0"], "eval_data: got none with 0 iterations"),
    ):
        place = words.index(name)
        with pytest.raises(UserError, match=f"^{message}"):
            run(parse([*words[:place], *words[place + 2 :], *more]))
