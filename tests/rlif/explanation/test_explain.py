"""The implicit reward is the difference of two models' log-probabilities, and the command says what explains it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rlif.answers.extract import stated_answer
from rlif.cli import parse
from rlif.errors import UserError
from rlif.explanation.command import run
from rlif.explanation.samples import agreement_with_start
from rlif.files.jsonl import read_rows
from rlif.models.language_model import load_language_model
from rlif.tasks.arithmetic import ArithmeticConfig, write_jsonl
from rlif.tasks.options import BaseModelConfig
from rlif.tasks.pretraining import pretrain

TASK = ArithmeticConfig(digits=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small model that states answers, and one with its logits times 1.5: pi_start^1.5, normalised a token."""
    torch.set_num_threads(1)
    config = BaseModelConfig(
        task=TASK, hidden_size=64, num_hidden_layers=1, pretraining_steps=120, pretraining_batch_size=32
    )
    model, tokenizer = pretrain(config, None)
    places = tuple(tmp_path_factory.mktemp("models") / name for name in ("start", "tuned"))
    for place in places:
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(1.5 * model.lm_head.weight.detach())
    return places[0], places[1]


@pytest.fixture
def words(models: tuple[Path, Path], tmp_path: Path) -> list[str]:
    write_jsonl(tmp_path / "data.jsonl", TASK, "eval", 6, seed=0)
    start, tuned = models
    options = f"--data {tmp_path / 'data.jsonl'} --num-generations 3 --max-completion-length 20 --prompts-per-batch 4"
    return ["explain", str(start), str(tuned), *options.split(), "--output-dir", str(tmp_path / "found")]


def test_a_model_that_was_sharpened_was_rewarded_for_its_log_probability(
    words: list[str], models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(parse([*words, "--reward", "probability_disparity"]))
    said = capsys.readouterr().out
    document = json.loads((tmp_path / "found" / "explanation.json").read_text())
    assert next(iter(document["scores"])) in ("sequence_logprob", "trajectory_entropy")
    assert "probability_disparity" in document["scores"]
    assert document["kl"]["value"] > 0
    assert document["accuracy"].keys() == {"start", "tuned"}
    assert "What the training rewarded" in said
    assert "explanation.png are in" in said
    assert (tmp_path / "found" / "explanation.png").stat().st_size > 10_000

    # Of one completion by hand, in float64.
    row = read_rows(tmp_path / "found" / "samples.jsonl")[1]
    logprobs = []
    for place in models:
        language_model = load_language_model(str(place), device="cpu", dtype="float32")
        tokenizer, model = language_model.tokenizer, language_model.model.double()
        text = row["prompt"] + row["completions"][0]
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        if row["scores"]["ended"][0]:
            ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
        count = int(row["scores"]["length"][0])
        with torch.no_grad():
            logits = model(ids).logits[0, -count - 1 : -1]
        logprobs.append(float(logits.log_softmax(-1).gather(1, ids[0, -count:, None]).sum()))
    assert row["scores"]["sequence_logprob"][0] == pytest.approx(logprobs[0], abs=1e-4)
    assert row["implicit_reward"][0] == pytest.approx(logprobs[1] - logprobs[0], abs=1e-4)


def test_an_explanation_that_was_interrupted_goes_on_to_the_same_end(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(parse(words))
    whole = (tmp_path / "found" / "samples.jsonl").read_bytes()
    found = json.loads((tmp_path / "found" / "explanation.json").read_text())
    rows = whole.splitlines(keepends=True)
    (tmp_path / "found" / "samples.jsonl").write_bytes(b"".join(rows[:5]))  # four prompts
    (tmp_path / "found" / "explanation.json").unlink()
    run(parse([*words, "--resume"]))
    assert (tmp_path / "found" / "samples.jsonl").read_bytes() == whole
    assert json.loads((tmp_path / "found" / "explanation.json").read_text()) == found


def test_models_that_cannot_be_compared_are_one_clear_error(
    words: list[str], models: tuple[Path, Path], tmp_path: Path
) -> None:
    start, tuned = map(str, models)
    with pytest.raises(UserError, match=r"^tuned: got .*, the start model itself; expected the model after"):
        run(parse(["explain", start, start, *words[3:]]))
    with pytest.raises(UserError, match=r"^tuned: got .*/nothere', which does not exist"):
        run(parse(["explain", start, f"{tuned}/nothere", *words[3:]]))
    # As model/ of a run whose guard finds the start model the best.
    shutil.copytree(start, tmp_path / "model")
    with pytest.raises(UserError, match=r"^tuned: its weights are those of the start model, .* and last/ what the run"):
        run(parse(["explain", start, str(tmp_path / "model"), *words[3:]]))
    assert not (tmp_path / "found" / "samples.jsonl").exists()


def test_models_with_other_tokens_are_refused(words: list[str], models: tuple[Path, Path], tmp_path: Path) -> None:
    other, tokenizer = pretrain(
        BaseModelConfig(task=TASK, hidden_size=64, num_hidden_layers=1, pretraining_steps=1, pretraining_batch_size=2),
        None,
    )
    other.resize_token_embeddings(other.config.vocab_size + 3)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"^tuned: its head has \d+ columns, expected \d+ as the start model's"):
        run(parse(["explain", str(models[0]), str(tmp_path / "other"), *words[3:]]))


def test_agreement_is_with_the_start_model_alone() -> None:
    start = [stated_answer(f"#### {value}") for value in (1, 1, 2, 3)] + [None] * 4
    tuned = [stated_answer(f"#### {value}") for value in (7, 7, 7, 1)] + [stated_answer("#### 5")] * 4
    first, second = agreement_with_start(tuned, start, 4)
    assert first["semantic_entropy"] == [0, 0, 0, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert first["majority_vote"] == [0, 0, 0, 1, 1, 1, 0, 0]
    assert second["semantic_entropy"] == [0] * 8  # the start model states nothing
    assert second["majority_vote"] == [0] * 8
    assert np.isfinite(first["semantic_entropy"]).all()
