"""`RLIFTrainer` and `trl_reward`: rlif's rewards in TRL's trainer, in every mode that it has."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer

import tiny_trl as tiny
from rlif.errors import UserError
from rlif.integrations.trl import RLIFTrainer, trl_reward
from rlif.integrations.trl.rewards import style_of
from rlif.rewards import uses

MODES: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({}, "sampling"),
    "temperature": ({"temperature": 0.7}, "sampling"),
    "top-k, top-p and a penalty": ({"top_k": 5, "top_p": 0.9, "repetition_penalty": 1.3}, "sampling"),
    "num_iterations": ({"num_iterations": 2}, "old_logps"),
    "beta": ({"beta": 0.05}, "sampling"),
    "beta and num_iterations": ({"beta": 0.05, "num_iterations": 2, "temperature": 0.7}, "old_logps"),
    "gradient accumulation": ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, "sampling"),
    "generations for several steps": (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "steps_per_generation": 2},
        "old_logps",
    ),
    "cut-off completions masked": (
        {"mask_truncated_completions": True, "num_iterations": 2, "max_completion_length": 24},
        "sampling",
    ),
    "a head of the adapter's own": (
        {"peft_config": LoraConfig(task_type="CAUSAL_LM", modules_to_save=["lm_head"]), "beta": 0.05},
        "sampling",
    ),
    "LoRA": ({"peft_config": LoraConfig(task_type="CAUSAL_LM"), "beta": 0.05, "num_iterations": 2}, "old_logps"),
    "conversations": ({"conversational": True}, "sampling"),
    "gradient checkpointing": ({"activation_checkpointing": True}, "sampling"),
    "padding to a multiple": ({"pad_to_multiple_of": 8, "num_iterations": 2}, "old_logps"),
    "scaled by batch": ({"scale_rewards": "batch"}, "sampling"),
    "beam search": ({"generation_kwargs": {"num_beams": 2}}, "forward"),
    "guidance": ({"generation_kwargs": {"guidance_scale": 1.5}}, "forward"),
    "more tokens than configured": ({"generation_kwargs": {"max_new_tokens": 9}}, "forward"),
}


def make(trainer_class: Any, model_dir: Path, directory: Path, reward: Any, **changes: Any) -> Any:
    data = tiny.dataset(changes.pop("conversational", False))
    named = ("peft_config", "rollout_func", "answer_column", "sampler")
    options = {name: changes.pop(name) for name in named if name in changes}
    return trainer_class(str(model_dir), reward, tiny.config(directory, **changes), data, **options)


@pytest.mark.parametrize("mode", MODES)
def test_in_every_mode_the_steps_are_those_of_trl_with_the_same_reward(
    mode: str, model_dir: Path, tmp_path: Path
) -> None:
    changes, source = MODES[mode]
    reward = tiny.SelfCertainty()
    stock = reward.trainer = make(GRPOTrainer, model_dir, tmp_path, reward, **changes)
    expected = tiny.trained(stock)
    trainer = make(RLIFTrainer, model_dir, tmp_path, "self_certainty", sampler="transformers", **changes)
    found = tiny.trained(trainer)
    assert trainer.stats_source == source
    # Rewards differ by rounding, and so do the steps of some 1e-2 that follow from them.
    assert tiny.furthest(found, expected) <= 1e-5
    for row, other in zip(tiny.rows(trainer), tiny.rows(stock), strict=True):
        assert row.keys() == other.keys()  # all of TRL's metrics, by TRL's names
        assert row["rewards/self_certainty/mean"] == pytest.approx(other["rewards/self_certainty/mean"], abs=1e-5)
        assert row["entropy"] == pytest.approx(other["entropy"], abs=1e-5)
    start = AutoModelForCausalLM.from_pretrained(model_dir).state_dict()
    if "peft_config" not in changes:
        assert tiny.furthest(found, start) > 1e-3  # it did learn


def test_a_stock_trainer_gets_the_same_from_trl_reward(model_dir: Path, tmp_path: Path) -> None:
    expected = tiny.trained(make(RLIFTrainer, model_dir, tmp_path, "self_certainty", sampler="transformers"))
    stock = make(GRPOTrainer, model_dir, tmp_path, trl_reward("self_certainty"))
    before = stock.model.forward
    assert tiny.furthest(tiny.trained(stock), expected) <= 1e-5
    assert stock.model.forward is before
    stock.tools = [print]
    with pytest.raises(UserError, match=r"self_certainty: got a trainer with tools, expected RLIFTrainer"):
        stock.reward_funcs[0](tiny.PROMPTS, ["1"] * 6, [[4]] * 6, log_metric=stock._log_metric)
    with pytest.raises(UserError, match=r"format: got a trainer with tools"):  # whose results would count as answers
        trl_reward("format")(tiny.PROMPTS, ["1"] * 6, [[4]] * 6, log_metric=stock._log_metric)


def test_a_reward_that_reads_the_prompts_ids_gets_them_in_a_stock_trainer(model_dir: Path, tmp_path: Path) -> None:
    @uses()
    def prompt_length(prompt_mask: torch.Tensor) -> torch.Tensor:
        return prompt_mask.sum(dim=1)

    for trainer_class, reward in ((RLIFTrainer, prompt_length), (GRPOTrainer, trl_reward(prompt_length))):
        trainer = make(trainer_class, model_dir, tmp_path, reward, max_steps=1)
        trainer.train()
        assert list(trainer._logs["rewards"]["prompt_length"]) == [len(prompt) for prompt in trainer._logs["prompt"]]


def test_a_stock_trainer_under_autocast_gets_the_same_from_trl_reward(model_dir: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"bf16": True, "max_steps": 1}
    rewards = []
    for trainer_class, reward, options in (
        (GRPOTrainer, trl_reward("self_certainty"), {}),
        (RLIFTrainer, "self_certainty", {"sampler": "transformers"}),
    ):
        # Each is trained as soon as it is made, which seeds: else the second draws other completions.
        trainer = make(trainer_class, model_dir, tmp_path, reward, **settings, **options)
        trainer.train()
        rewards.append(tiny.rows(trainer)[0]["reward"])
    first, second = rewards
    assert first == pytest.approx(second, abs=1e-2)  # bfloat16's rounding in forwards of different shapes


def test_rewards_mix_with_those_of_trl_by_reward_weights(model_dir: Path, tmp_path: Path) -> None:
    def brevity(completion_ids: list[list[int]], **kwargs: object) -> list[float]:
        return [-float(len(ids)) for ids in completion_ids]

    @uses("sum_sq_probs")
    def collision(stats: Any, completion_mask: torch.Tensor) -> torch.Tensor:
        return stats.sum_sq_probs.sum(dim=1) / completion_mask.sum(dim=1)

    names = ["token_entropy", "trajectory_entropy", "sequence_logprob", "probability_disparity", "majority_vote"]
    names += ["semantic_entropy", "random", "format", "verifiable"]
    weights = [0.5**place for place in range(len(names) + 2)]
    trainer = make(RLIFTrainer, model_dir, tmp_path, [*names, brevity, collision], reward_weights=weights)
    trainer.train()
    for row in tiny.rows(trainer):
        means = [row[f"rewards/{name}/mean"] for name in (*names, "brevity", "collision")]
        assert row["reward"] == pytest.approx(sum(w * mean for w, mean in zip(weights, means, strict=True)), abs=1e-4)
        length = row["completions/mean_length"]
        assert means[2] == pytest.approx(means[1] * length, rel=0.3)  # summed, and averaged, log-probabilities
        assert 0 < means[-1] < 1


def test_what_tools_returned_is_neither_scored_nor_read(model_dir: Path, tmp_path: Path) -> None:
    """A rollout of the policy's tokens with others between them, as tools or an environment put them there."""
    drawn: list[list[int]] = []

    def with_results(prompts: list[str], trainer: Any) -> dict[str, Any]:
        prompt_ids = trainer._tokenize_prompts(prompts)[0]
        completion_ids, _ = trainer._generate_single_turn(prompt_ids, None, {}, trainer.num_generations)
        drawn.extend(completion_ids)
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [[*ids[:2], 7, 8, 9, *ids[2:]] for ids in completion_ids],
            "env_mask": [[1, 1, 0, 0, 0] + [1] * (len(ids) - 2) for ids in completion_ids],
            "logprobs": None,
        }

    seen: list[Any] = []

    @uses("logprob")
    def watch(stats: Any, completions: list[str], completion_ids: Any, completion_mask: Any, **_: Any) -> list[float]:
        seen.append((stats.logprob, completions, completion_ids, completion_mask))
        return [0.0] * len(completions)

    trainer = make(RLIFTrainer, model_dir, tmp_path, [watch, "self_certainty"], rollout_func=with_results, max_steps=1)
    tokenizer, model = tiny.make_tokenizer(), AutoModelForCausalLM.from_pretrained(model_dir)
    trainer.train()
    assert trainer.stats_source == "forward"
    logprob, texts, ids, mask = seen[0]
    assert texts == tokenizer.batch_decode(drawn, skip_special_tokens=True)
    assert [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)] == drawn
    assert not logprob[~mask].any()
    prompt = trainer._tokenize_prompts([trainer._logs["prompt"][0]])[0][0]
    whole = torch.tensor([[*prompt, *drawn[0][:2], 7, 8, 9, *drawn[0][2:]]])
    expected = model(input_ids=whole).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    expected = expected.gather(1, whole[0, len(prompt) :, None]).squeeze(1)
    expected = torch.cat([expected[:2], expected[5:]])
    torch.testing.assert_close(logprob[0, : len(expected)], expected, rtol=1e-5, atol=1e-5)


def test_with_vllm_the_forward_for_its_correction_serves(model_dir: Path, tmp_path: Path) -> None:
    # vLLM itself does not run here; where the statistics come from is decided by what TRL will compute.
    trainer = make(RLIFTrainer, model_dir, tmp_path, "self_certainty")
    trainer.use_vllm, trainer.vllm_importance_sampling_correction = True, True
    assert trainer._planned_source == "old_logps"
    trainer.vllm_importance_sampling_correction = False
    assert trainer._planned_source == "forward"
    trainer.use_vllm, trainer.tools = False, [print]
    assert trainer._planned_source == "forward"


def test_evaluation_is_scored_too(model_dir: Path, tmp_path: Path) -> None:
    trainer = RLIFTrainer(
        str(model_dir),
        ["self_certainty", "verifiable"],
        tiny.config(
            tmp_path, eval_strategy="steps", eval_steps=1, num_generations_eval=2, per_device_eval_batch_size=4
        ),
        tiny.dataset(),
        tiny.dataset(),
    )
    trainer.train()
    evaluations = [row for row in trainer.state.log_history if "eval_rewards/self_certainty/mean" in row]
    assert len(evaluations) == 2
    assert all(math.isfinite(row["eval_rewards/self_certainty/mean"]) for row in evaluations)


def test_without_the_fused_head_confidence_is_refused(model_dir: Path, tmp_path: Path) -> None:
    trainer = make(RLIFTrainer, model_dir, tmp_path, "self_certainty")
    trainer.fused_token_stats.undo()
    with pytest.raises(UserError, match=r"fused_token_stats: got what was undone, .* self_certainty"):
        trainer.train()


def test_no_statistics_are_computed_where_no_reward_reads_any(model_dir: Path, tmp_path: Path) -> None:
    trainer = make(RLIFTrainer, model_dir, tmp_path, ["majority_vote", "format"])
    trainer.train()
    assert trainer.stats_source is None
    assert trainer.scored_rollout is None


def test_tuples_of_rewards_are_lists_of_them(model_dir: Path, tmp_path: Path) -> None:
    def variety(completion_ids: list[list[int]], **_: object) -> tuple[float, ...]:
        return tuple(float(len(set(ids))) for ids in completion_ids)

    @uses()
    def brevity(completion_ids: torch.Tensor, completion_mask: torch.Tensor) -> tuple[float, ...]:
        return tuple((-completion_mask.sum(dim=1).float()).tolist())

    def also(completion_ids: list[list[int]], **_: object) -> tuple[float, ...]:
        return tuple(-float(len(ids)) for ids in completion_ids)

    also.__name__ = "brevity"
    reward = tiny.SelfCertainty()
    reward.trainer = stock = make(GRPOTrainer, model_dir, tmp_path, [reward, variety, also])
    expected = tiny.trained(stock)
    rewards = ("self_certainty", variety, brevity)
    trainer = make(RLIFTrainer, model_dir, tmp_path, rewards, sampler="transformers")
    assert tiny.furthest(tiny.trained(trainer), expected) <= 1e-5
    for row, other in zip(tiny.rows(trainer), tiny.rows(stock), strict=True):
        assert row.keys() == other.keys()
        assert row["rewards/brevity/mean"] == other["rewards/brevity/mean"]


def test_a_run_with_named_rewards_resumes_as_in_trl(model_dir: Path, tmp_path: Path) -> None:
    settings = dict(save_strategy="steps", save_steps=1, max_steps=3, optim="adamw_torch", learning_rate=1e-3)
    reward = tiny.SelfCertainty()
    found = []
    for trainer_class, rewards, options in (
        (GRPOTrainer, [reward, trl_reward("format")], {}),
        (RLIFTrainer, ["self_certainty", "format"], {"sampler": "transformers"}),
    ):
        directory = tmp_path / trainer_class.__name__
        reward.trainer = make(trainer_class, model_dir, directory, rewards, **settings, **options)
        reward.trainer.train()
        weights = {name: value.clone() for name, value in reward.trainer.model.state_dict().items()}
        resumed = reward.trainer = make(trainer_class, model_dir, directory, rewards, **settings, **options)
        resumed.train(resume_from_checkpoint=str(directory / "checkpoint-1"))
        assert [row["step"] for row in tiny.rows(resumed)] == [1, 2, 3]
        found.append((weights, resumed.model.state_dict(), tiny.rows(resumed)))
    (whole, again, rows), (our_whole, our_again, our_rows) = found
    # Adam divides by the size of a gradient, so that rounding counts for more where that is small.
    assert tiny.furthest(our_whole, whole) <= 1e-4
    assert tiny.furthest(our_again, again) <= 1e-4
    for row, other in zip(our_rows, rows, strict=True):
        assert row.keys() == other.keys()
        assert row["rewards/self_certainty/mean"] == pytest.approx(other["rewards/self_certainty/mean"], abs=1e-4)


def test_an_adapter_on_the_head_itself_is_refused_as_in_trl(model_dir: Path, tmp_path: Path) -> None:
    said = []
    for trainer_class in (GRPOTrainer, RLIFTrainer):
        adapter = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"])
        with pytest.raises(ValueError, match="Applying a PEFT adapter to `lm_head` is not supported") as error:
            make(trainer_class, model_dir, tmp_path, trl_reward("format"), peft_config=adapter)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_answers_to_conversations_are_looked_for_in_prose_unless_told() -> None:
    assert style_of(["1+1="]) == "strict"
    assert style_of([[{"role": "user", "content": "1+1"}]]) == "lenient"
    assert trl_reward("format", answer_style="strict").answer_style == "strict"


def test_gold_answers_come_from_the_column_that_is_named(model_dir: Path, tmp_path: Path) -> None:
    data = tiny.dataset().rename_column("answer", "gold")
    with pytest.raises(UserError, match=r"answer_column: got 'answer', .* for verifiable; it has prompt, gold"):
        RLIFTrainer(str(model_dir), "verifiable", tiny.config(tmp_path), data)
    trainer = RLIFTrainer(
        str(model_dir), "verifiable", tiny.config(tmp_path), data, answer_column="gold", answer_style="lenient"
    )
    assert trainer.reward_funcs[0].answer_style == "lenient"
    trainer.train()
    stock = GRPOTrainer(str(model_dir), trl_reward("verifiable"), tiny.config(tmp_path), data)
    with pytest.raises(UserError, match=r"reward verifiable: got no column 'answer'"):
        stock.train()


def test_a_name_that_is_none_is_refused_before_any_work(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got 'self_certanty', did you mean self_certainty\?"):
        make(RLIFTrainer, model_dir, tmp_path, "self_certanty")
    for spec in ("reward_model:somewhere", "my_rewards.py:brevity"):
        with pytest.raises(UserError, match=rf"got '{spec}', expected one of self_certainty, .* a function itself"):
            make(RLIFTrainer, model_dir, tmp_path, spec)
    with pytest.raises(UserError, match=r"expected one of self_certainty, .*; did you mean majority_vote\?"):
        trl_reward("majority_votes")
    with pytest.raises(UserError, match="expected to be called by a trainer of TRL"):
        trl_reward("format")(["1+1="], ["2"], [[5]])


def test_training_on_confidence_without_a_penalty_is_warned_of_once(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="rlif"):
        make(RLIFTrainer, model_dir, tmp_path, "self_certainty", beta=0.01)
        make(RLIFTrainer, model_dir, tmp_path, "format")
        assert not caplog.records
        trainer = make(RLIFTrainer, model_dir, tmp_path, "self_certainty")
    assert [record.message.split(",")[0] for record in caplog.records] == ["beta is 0"]
    assert trainer.beta == 0
