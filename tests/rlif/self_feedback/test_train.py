"""Preferences are learned, an interrupted training loses nothing, and a reward model serves the GRPO loop."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from rlif.errors import UserError
from rlif.files.jsonl import Row
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.rewards import load_rewards
from rlif.rewards import reward_model as learned
from rlif.scoring import scorer as scorer_module
from rlif.scoring.scorer import Scorer
from rlif.scoring.sequences import sequence_logprobs
from rlif.self_feedback.objectives import DPO
from rlif.self_feedback.options import SelfFeedbackConfig, TrainOptions
from rlif.self_feedback.rank import Pair
from rlif.self_feedback.reference_logprobs import reference_logprobs
from rlif.self_feedback.train import train_model
from rlif.training import items as training
from rlif.training.items import step_rows, train_batch
from rlif.training.loop import train
from rlif.training.options import TrainConfig
from tiny_models import EOS, frozen_copy, make_tokenizer

# Which of two digits is preferred is the same in every pair; lengths differ.
PAIRS = [
    Pair([3 + a, 13, 3 + b, 14], [3 + a, 5, EOS], [3 + b, 6, 6, 6, EOS] if b % 2 else [3 + b, 6, EOS], 0.1 * (a % 4))
    for a in range(6)
    for b in range(3)
]


def make_config(**changes: Any) -> SelfFeedbackConfig:
    options = TrainOptions(learning_rate=1e-3, num_train_epochs=3, pairs_per_step=4, **changes)
    return SelfFeedbackConfig(stage="train", model="m", data="d", device="cpu", train=options).resolved()


def fresh(model_dir: Path) -> LanguageModel:
    return load_language_model(str(model_dir), device="cpu", dtype="float32")


def run(model_dir: Path, directory: Path, config: SelfFeedbackConfig) -> list[Row]:
    return train_model(config, fresh(model_dir), str(model_dir), PAIRS, directory)


def logprobs(language_model: LanguageModel) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        scorer, prompts = Scorer(language_model.model, None), [pair.prompt_ids for pair in PAIRS]
        return (
            sequence_logprobs(scorer, language_model, prompts, [pair.chosen_ids for pair in PAIRS]),
            sequence_logprobs(scorer, language_model, prompts, [pair.rejected_ids for pair in PAIRS]),
        )


@pytest.mark.parametrize(
    "changes",
    [{}, {"loss_type": "ipo"}, {"loss_type": "hinge"}, {"label_smoothing": 0.1, "use_margin": True}, {"lora_rank": 4}],
)
def test_training_raises_the_chosen_over_the_rejected_from_the_loss_of_no_preference(
    changes: dict[str, Any], model_dir: Path, tmp_path: Path
) -> None:
    rows = run(model_dir, tmp_path, make_config(**changes))
    assert [row["step"] for row in rows] == list(range(1, 16))  # 3 epochs of 18 pairs, four at a time
    if not changes:
        assert rows[0]["loss"] == pytest.approx(0.6931472, abs=1e-5)  # log 2: the model is its own reference
    assert rows[-1]["loss"] < rows[0]["loss"]
    tuned = load_language_model(str(tmp_path / "model"), device="cpu", dtype="float32")
    before, after = logprobs(fresh(model_dir)), logprobs(tuned)
    gains = (after[0] - before[0]) - (after[1] - before[1])
    assert (gains > 0).float().mean() > 0.9


def test_each_epoch_has_every_pair_once_in_an_order_of_its_own() -> None:
    epochs = [[row for step in range(1, 6) for row in step_rows(18, 5 * epoch + step, 4, seed=0)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(18))
    assert epochs[0] != epochs[1]


def test_parts_of_a_step_and_pairs_that_share_their_prompt_have_the_gradient_of_the_whole(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer_module, "ATTENTION_COST", 0)  # so small a model would not share
    weights = []
    for budget, share_prompts in ((8192, False), (8192, True), (20, True), (20, False)):
        config = replace(make_config(), max_tokens_per_forward=budget, share_prompts=share_prompts)
        directory = tmp_path / f"{budget} {share_prompts}"
        run(model_dir, directory, config)
        weights.append(load_file(directory / "model" / "model.safetensors"))
    for others in weights[1:]:
        for name, value in weights[0].items():
            # Sums in another order, over fifteen steps of Adam, which divides by the gradient's size.
            torch.testing.assert_close(others[name], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4}, {"objective": "reward_model"}])
def test_a_stopped_training_goes_on_to_the_very_weights_of_one_that_never_stopped(
    changes: dict[str, Any], model_dir: Path, tmp_path: Path
) -> None:
    config = make_config(**changes)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(model_dir, whole, config)
    objective = config.train.objective
    metrics = stopped / f"train-{objective}" / "metrics.jsonl"

    def stop_after_three_steps() -> None:
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=stop_after_three_steps)
    watcher.start()
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step \d+ of 15"):
        run(model_dir, stopped, config)
    watcher.join()
    assert 3 <= metrics.read_text().count("\n") < 15
    with metrics.open("a") as file:  # a step that was logged after the checkpoint, and a line cut short
        file.write('{"step": 99}\n{"st')
    run(model_dir, stopped, config)
    folder = "model" if objective == "dpo" else "reward_model"
    assert metrics.read_text() == (whole / f"train-{objective}" / "metrics.jsonl").read_text()
    name = "adapter_model.safetensors" if changes.get("lora_rank") else "model.safetensors"
    assert (stopped / folder / name).read_bytes() == (whole / folder / name).read_bytes()


def test_a_finished_training_is_not_repeated_and_another_is_refused(model_dir: Path, tmp_path: Path) -> None:
    run(model_dir, tmp_path, make_config())
    model = tmp_path / "model" / "model.safetensors"
    written = model.stat().st_mtime_ns
    left = tmp_path / "train-dpo" / "checkpoint"
    left.mkdir()  # as by one that was killed when its model was written
    run(model_dir, tmp_path, make_config())
    assert model.stat().st_mtime_ns == written
    assert not left.exists()
    with pytest.raises(UserError, match=r"beta: got 0.7, but .*metrics.jsonl was made with 0.2; expected the same"):
        run(model_dir, tmp_path, make_config(beta=0.7))
    assert model.stat().st_mtime_ns == written


def test_a_checkpoint_of_another_training_is_never_gone_on_from(model_dir: Path, tmp_path: Path) -> None:
    directory = tmp_path / "train-dpo"

    def kill_after(steps: int, config: SelfFeedbackConfig) -> None:
        def step(*arguments: Any) -> Row:
            if not remaining:
                raise MemoryError  # no checkpoint is written
            remaining.pop()
            return train_batch(*arguments)

        remaining = [None] * steps
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "train_batch", step)
            with pytest.raises(MemoryError):
                run(model_dir, tmp_path, config)

    kill_after(3, make_config(save_steps=2))
    (directory / "metrics.jsonl").unlink()
    other = make_config(beta=0.7)
    kill_after(5, other)
    run(model_dir, tmp_path, other)
    run(model_dir, tmp_path / "whole", other)
    metrics = (tmp_path / "whole" / "train-dpo" / "metrics.jsonl").read_text()
    assert (directory / "metrics.jsonl").read_text() == metrics


def test_reference_log_probabilities_are_computed_once_and_go_on_after_an_interruption(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    scorer, path = Scorer(frozen_copy(language_model.model), None), tmp_path / "reference.jsonl"

    sequences = [sequence for pair in PAIRS for sequence in pair.sequences()]

    def compute(model: str = "start") -> tuple[torch.Tensor, torch.Tensor]:
        numbers = reference_logprobs(
            scorer, language_model, sequences, path, settings={"model": model}, max_tokens_per_forward=40
        )
        chosen, rejected = torch.tensor(numbers).view(-1, 2).unbind(dim=1)
        return chosen, rejected

    chosen, rejected = compute()
    expected = logprobs(language_model)
    # Batches of other shapes.
    torch.testing.assert_close(chosen, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rejected, expected[1], atol=1e-5, rtol=1e-5)
    # 18 pairs, and a completion of several pairs is there once for each prompt.
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == len({(*p.prompt_ids, 0, *ids) for p in PAIRS for ids in (p.chosen_ids, p.rejected_ids)})
    # A number in the file that no model says: it is read, not computed again; those cut off are computed.
    path.write_text("".join([json.dumps({"logprob": [-123.0]}) + "\n", *lines[1:20]]) + lines[20][:5])
    again = compute()
    assert again[0][0] == -123.0
    assert torch.equal(again[0][1:], chosen[1:])
    assert torch.equal(again[1], rejected)
    with pytest.raises(UserError, match="model: got 'other', but"):
        compute("other")


def test_dpo_never_forms_logits(language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlif.models.fused_head import fused_head

    head = fused_head(language_model.model)
    reference = logprobs(language_model)
    monkeypatch.setattr(head.linear, "forward", lambda hidden: pytest.fail("the head was applied to hidden states"))
    dpo = DPO(Scorer(language_model.model, head), language_model, PAIRS, reference, make_config().train)
    dpo(range(4)).loss.sum().backward()
    assert head.linear.weight.grad is not None


def test_a_learning_rate_that_diverges_is_an_error_that_says_so(model_dir: Path, tmp_path: Path) -> None:
    config = make_config()
    with pytest.raises(UserError, match="learning_rate: the loss is"):
        run(model_dir, tmp_path, replace(config, train=replace(config.train, learning_rate=1e30)))


@pytest.fixture
def reward_model_dir(model_dir: Path, tmp_path: Path) -> Path:
    run(model_dir, tmp_path, make_config(objective="reward_model"))
    return tmp_path / "reward_model"


def test_a_reward_model_scores_the_chosen_above_the_rejected_and_loads_with_transformers(
    reward_model_dir: Path,
) -> None:
    rows = [json.loads(line) for line in (reward_model_dir.parent / "train-reward_model" / "metrics.jsonl").open()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    model = AutoModelForSequenceClassification.from_pretrained(reward_model_dir).eval()

    def score(prompt: list[int], completion: list[int]) -> float:
        with torch.no_grad():
            return model(input_ids=torch.tensor([prompt + completion])).logits.item()

    right = sum(score(pair.prompt_ids, pair.chosen_ids) > score(pair.prompt_ids, pair.rejected_ids) for pair in PAIRS)
    assert right >= 16  # of 18, after fifteen steps from a random head, which tells half of them apart


def test_the_grpo_loop_is_rewarded_by_the_reward_model_with_what_transformers_computes(
    reward_model_dir: Path, make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"reward_model:{reward_model_dir}"
    assert [each.name for each in load_rewards([f"{spec}=0.5", "format"]).rewards] == ["reward_model", "format"]
    result = train(make_config(reward=spec, max_completion_length=3))
    assert result.rows[0]["reward/reward_model"] == result.rows[0]["reward"] != 0.0

    model = AutoModelForSequenceClassification.from_pretrained(reward_model_dir).eval()
    (reward,) = load_rewards(spec).rewards
    prompts, completions = [[3, 4, 14], [5, 14]], [[7, EOS], [8, 9, EOS]]
    for budget in (8192, 1):  # all in one forward; each in its own
        monkeypatch.setattr(learned, "MAX_TOKENS", budget)
        values = reward.function(
            prompt_ids=torch.tensor([prompts[0], [0, *prompts[1]]]),
            prompt_mask=torch.tensor([[True] * 3, [False, True, True]]),
            completion_ids=torch.tensor([[*completions[0], 0], completions[1]]),
            completion_mask=torch.tensor([[True, True, False], [True] * 3]),
            tokenizer=make_tokenizer(),
        )
        for value, prompt, completion in zip(values.tolist(), prompts, completions, strict=True):
            with torch.no_grad():
                expected = model(input_ids=torch.tensor([prompt + completion])).logits.item()
            assert value == pytest.approx(expected, abs=1e-5)  # a batch with padding against one without


def test_a_model_without_a_reward_head_is_no_reward_model(
    model_dir: Path, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"reward: got reward_model:.*nowhere, expected the directory of a saved"):
        load_rewards(f"reward_model:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match=r"reward_model: .* lacks score.weight, which would be random"):
        train(make_config(reward=f"reward_model:{model_dir}"))
