"""A step of training is the mathematics of the papers, computed once; a run leaves what it promises."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rlif.data.prompts import read_prompts, shuffled_epochs
from rlif.errors import UserError
from rlif.models.fused_head import fused_head
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.rewards import REWARDS, load_rewards
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.rollout import Rollout
from rlif.scoring.scorer import Scorer
from rlif.training import learner, penalty
from rlif.training import loop as trainer
from rlif.training.distributed import make_accelerator
from rlif.training.entropy_control import EntropyControl
from rlif.training.learner import Learner, Models
from rlif.training.loop import learning_rate_at, train_step
from rlif.training.options import KLEstimator, TrainConfig
from runs import MakeConfig, train
from tiny_models import TIMES, frozen_copy, frozen_start_model


def one_step(
    language_model: LanguageModel, config: TrainConfig, start: PreTrainedModel | None = None
) -> tuple[dict[str, float], Rollout]:
    """Train one step, which leaves the clipped gradients in place. By default the model is its own start model."""
    prompts = encode_prompts(language_model, read_prompts(config.data), config.max_completion_length)
    model = language_model.model
    learner = Learner(
        config=config,
        accelerator=make_accelerator("cpu", (), Path("unused")),
        models=Models(language_model, Scorer(model, fused_head(model)), frozen_start_model(start or model)),
        rewards=load_rewards(config.reward),
        optimizer=torch.optim.SGD(model.parameters()),
        entropy=EntropyControl(config, config.entropy_coef),
    )
    return train_step(learner, prompts[: config.prompts_per_step], 1)[:2]


def gradients(language_model: LanguageModel) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in language_model.model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(
    ("reward", "kl_estimator"),
    [
        *((reward, "k3") for reward in ("self_certainty", "token_entropy", "trajectory_entropy")),
        ("self_certainty", "k3_corrected"),
        ("verifiable", "k3_corrected"),
    ],
)
def test_the_gradient_of_a_step_is_the_one_written_out_by_hand(
    reward: str,
    kl_estimator: KLEstimator,
    language_model: LanguageModel,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temperature = 0.8
    config = make_config(reward=reward, beta=0.1, kl_estimator=kl_estimator, temperature=temperature, max_grad_norm=1e9)
    start = frozen_copy(language_model.model)
    with torch.no_grad():  # the policy has moved away from the start model, so that the KL has a gradient
        for parameter in language_model.model.parameters():
            parameter.mul_(1.1)
    model = frozen_copy(language_model.model).requires_grad_()
    if reward == "verifiable":  # a random model is never right, so let every other completion be
        monkeypatch.setitem(REWARDS, reward, lambda prompts: [1.0, 0.0] * (len(prompts) // 2))
    _, rollout = one_step(language_model, config, start)

    terms, rewards = [], []
    for row in range(len(rollout.texts)):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
        completion = rollout.completion_ids[row][rollout.completion_mask[row]]
        ids = torch.cat([prompt, completion])[None]
        predictions = slice(len(prompt) - 1, len(prompt) + len(completion) - 1)
        log_p = (model(ids).logits[0, predictions] / temperature).log_softmax(dim=-1)
        logprob = log_p.gather(1, completion[:, None])[:, 0]
        with torch.no_grad():
            start_logp = (start(ids).logits[0, predictions] / temperature).log_softmax(dim=-1)
            ratio = start_logp.gather(1, completion[:, None])[:, 0] - logprob
            rewards.append(
                {
                    "self_certainty": -log_p.mean(dim=-1).mean() - math.log(log_p.shape[-1]),
                    "token_entropy": (log_p.exp() * log_p).sum(dim=-1).mean(),
                    "trajectory_entropy": logprob.mean(),
                    "verifiable": torch.tensor(1.0 - row % 2),
                }[reward].item()
            )
        terms.append((logprob, ratio))
    loss = torch.zeros(())
    for group in range(0, len(terms), config.num_generations):
        members = torch.tensor(rewards[group : group + config.num_generations])
        advantages = (members - members.mean()) / (members.std() + 1e-4)
        for (logprob, ratio), advantage in zip(terms[group : group + config.num_generations], advantages, strict=True):
            # d/dx of k3 with r = exp(start - x): 1 - r. Times the ratio to the policy that sampled: -log r
            slope = 1 - ratio.exp() if kl_estimator == "k3" else -ratio
            loss = loss + (-advantage * logprob + config.beta * slope * logprob).sum()
    (loss / rollout.completion_mask.sum()).backward()

    expected = [parameter.grad for parameter in model.parameters()]
    for ours, by_hand in zip(gradients(language_model), expected, strict=True):
        assert by_hand is not None
        # Float32; advantages divide differences of rewards by their spread, which magnifies rounding some 100 times.
        torch.testing.assert_close(ours, by_hand, atol=2e-3 * float(by_hand.abs().max()), rtol=1e-2)


def count_forwards(language_model: LanguageModel) -> list[bool]:
    """Whether each forward of the policy so far wanted gradients; those that sample, with a cache, are left out."""
    calls: list[bool] = []

    def count(module: torch.nn.Module, args: object, kwargs: dict[str, object]) -> None:
        if not kwargs["use_cache"]:
            calls.append(torch.is_grad_enabled())

    language_model.model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    return calls


def test_the_policy_goes_forward_once_a_step_for_reward_and_gradient_together(
    language_model: LanguageModel, make_config: MakeConfig
) -> None:
    calls = count_forwards(language_model)
    one_step(language_model, make_config(beta=0.0))
    assert calls == [False, False, True]  # the first two check that the head can be fused


def test_further_updates_from_a_rollout_clip_against_the_policy_that_sampled(
    language_model: LanguageModel, make_config: MakeConfig
) -> None:
    for parameter in language_model.model.parameters():
        parameter.register_hook(lambda gradient: 1e3 * gradient)  # the second update starts far from the first
    once, _ = one_step(language_model, make_config(max_grad_norm=1e9))
    assert once["clip_ratio"] == 0.0
    thrice, _ = one_step(language_model, make_config(max_grad_norm=1e9, num_iterations=3))
    assert thrice["clip_ratio"] > 0.0


def test_a_step_in_parts_has_the_gradient_of_the_whole(model_dir: Path, make_config: MakeConfig) -> None:
    results = []
    for max_tokens_per_forward in (8192, 100, 50, 1):  # everything, two groups, one, a single completion
        language_model = load_language_model(str(model_dir), device="cpu", dtype="float32")
        metrics, _ = one_step(language_model, make_config(max_tokens_per_forward=max_tokens_per_forward))
        results.append((gradients(language_model), metrics))
    (whole, whole_metrics), *parts = results
    for part, part_metrics in parts:
        for a, b in zip(whole, part, strict=True):
            torch.testing.assert_close(
                a, b, atol=1e-4 * float(a.abs().max()), rtol=1e-3
            )  # float32 sums in other orders
        for name in whole_metrics.keys() - TIMES:
            assert part_metrics[name] == pytest.approx(whole_metrics[name], rel=1e-4, abs=1e-5), name


def test_a_step_forgets_the_gradients_before_it(model_dir: Path, make_config: MakeConfig) -> None:
    fresh, used = (load_language_model(str(model_dir), device="cpu", dtype="float32") for _ in range(2))
    for parameter in used.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    one_step(fresh, make_config())
    one_step(used, make_config())
    assert all(torch.equal(a, b) for a, b in zip(gradients(fresh), gradients(used), strict=True))


def test_on_the_first_step_policy_and_start_model_agree_exactly(
    language_model: LanguageModel, make_config: MakeConfig
) -> None:
    metrics, rollout = one_step(language_model, make_config())
    assert metrics["kl"] == 0.0
    assert metrics["base_nll"] > 0
    assert metrics["completion_length"] == rollout.completion_mask.sum().item() / 12


def test_the_same_seed_gives_the_same_run_and_another_seed_another(make_config: MakeConfig, tmp_path: Path) -> None:
    def rows(name: str, seed: int) -> list[dict[str, float]]:
        config = make_config(output_dir=tmp_path / name, seed=seed)
        result = train(replace(config, eval_data=config.data))
        return [{key: value for key, value in row.items() if key not in TIMES} for row in result.rows]

    first = rows("first", 0)
    assert first == rows("again", 0)
    other = rows("other", 1)
    assert first[1]["reward"] != other[1]["reward"]
    assert first[0] == other[0]  # evaluations of the same policy use the same random numbers whatever the seed


@pytest.mark.slow
def test_training_raises_its_reward(make_config: MakeConfig) -> None:
    config = make_config(max_steps=30, reward="token_entropy", learning_rate=3e-3, beta=0.0, eval_steps=30)
    rewards = [row["reward"] for row in train(config).rows]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3  # nats; the start is about -1.5, the best is 0


def test_a_run_leaves_metrics_samples_config_checkpoints_and_a_model_that_transformers_loads(
    make_config: MakeConfig,
) -> None:
    config = make_config(max_steps=3, eval_steps=2, save_steps=2)
    config = replace(config, eval_data=config.data)
    result = train(config)
    run_dir = result.run_dir
    assert run_dir == config.output_dir
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.rows
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    evaluation = {"accuracy", "parse_rate", "eos_rate", "completion_length", "entropy", "self_certainty", "base_nll"}
    assert [{f"eval/{name}" for name in evaluation} <= row.keys() for row in rows] == [True, False, True, True]
    training = {"reward", "entropy", "self_certainty", "completion_length", "kl", "base_nll", "eos_rate", "loss"}
    training |= {"grad_norm", "learning_rate", "step_seconds", "accuracy", "skipped_updates"}
    assert [training <= row.keys() for row in rows] == [False, True, True, True]
    assert result.last_step == 3
    assert result.best_step in (0, 2, 3)

    samples = [json.loads(line) for line in (run_dir / "samples.jsonl").read_text().splitlines()]
    evaluated = [sample for sample in samples if sample["split"] == "eval"]
    assert [sample["step"] for sample in evaluated] == [step for step in (0, 2, 3) for _ in range(6)]
    assert evaluated[0]["prompt"] == "1+3="
    assert evaluated[0]["answer"] == "4"
    # Of each evaluated step, and of the first, what was rewarded most and least.
    assert [sample["step"] for sample in samples if sample["split"] == "train"] == [1] * 4 + [2] * 4 + [3] * 4

    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert saved["learning_rate"] == 1e-3
    assert TrainConfig(**saved).validate() is None

    for name in ("model", "checkpoint-2"):
        AutoTokenizer.from_pretrained(run_dir / name)
        model = AutoModelForCausalLM.from_pretrained(run_dir / name)
    start = AutoModelForCausalLM.from_pretrained(config.model)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True))


def test_without_evaluation_data_the_first_row_is_step_1_and_samples_come_from_training(
    make_config: MakeConfig,
) -> None:
    result = train(make_config())
    assert [row["step"] for row in result.rows] == [1, 2]
    assert result.best_step is None
    samples = [json.loads(line) for line in (result.run_dir / "samples.jsonl").read_text().splitlines()]
    for step in (1, 2):
        found = [sample for sample in samples if sample["step"] == step]
        assert {sample["split"] for sample in found} == {"train"}
        assert len({sample["prompt"] for sample in found[:3]}) == 3  # one of each prompt, then those of extreme rewards
        assert 3 <= len(found) <= 3 + 4


@pytest.mark.parametrize(("beta", "evaluates", "copies"), [(0.0, False, 0), (0.0, True, 1), (0.005, False, 1)])
def test_the_start_model_is_copied_only_when_something_needs_it(
    beta: float, evaluates: bool, copies: int, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[None] = []
    copying = SimpleNamespace(deepcopy=lambda model: made.append(None) or frozen_copy(model))
    monkeypatch.setattr(learner, "copy", copying)
    config = make_config(beta=beta, max_steps=1)
    result = train(replace(config, eval_data=config.data if evaluates else None))
    assert len(made) == copies
    assert ("base_nll" in result.rows[-1]) == (beta > 0)
    assert ("eval/base_nll" in result.rows[-1]) == evaluates


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_skipped_and_counted(
    bad: float, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = penalty.policy_loss

    def spoil(*args: object, **settings: object) -> object:
        result = loss(*args, **settings)  # type: ignore[arg-type]
        return result._replace(loss=bad * result.loss)

    monkeypatch.setattr(penalty, "policy_loss", spoil)
    config = make_config()
    result = train(config)
    assert [row["skipped_updates"] for row in result.rows] == [1, 2]
    saved = AutoModelForCausalLM.from_pretrained(result.run_dir / "model")
    start = AutoModelForCausalLM.from_pretrained(config.model)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), start.parameters(), strict=True))
    assert json.loads((result.run_dir / "metrics.jsonl").read_text().splitlines()[0])["loss"] is None


def test_a_run_without_a_finite_update_stops_after_a_few_steps_with_a_diagnosis(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = penalty.policy_loss

    def spoil(*args: object, **settings: object) -> object:
        result = loss(*args, **settings)  # type: ignore[arg-type]
        return result._replace(loss=math.nan * result.loss)

    monkeypatch.setattr(penalty, "policy_loss", spoil)
    config = make_config(max_steps=10)
    message = r"3 steps in a row had no finite update: the loss is nan, .*gradients of \d+ of \d+ weights, .* first"
    with pytest.raises(UserError, match=message):
        train(config)
    rows = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped_updates"] for row in rows] == [1, 2, 3]
    saved = AutoModelForCausalLM.from_pretrained(config.output_dir / "model")
    assert all(parameter.isfinite().all() for parameter in saved.parameters())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_generations": 1}, "num_generations"),
        ({"data": Path("missing.jsonl")}, "data"),
        ({"eval_data": Path("missing.jsonl")}, "eval_data"),
        ({"model": "/nowhere"}, "model"),
        ({"reward": "confidence"}, "reward"),
        ({"device": "gpu"}, "device"),
        ({"max_completion_length": 64}, "max_completion_length"),
    ],
)
def test_bad_input_is_found_before_anything_is_written(
    changes: dict[str, object], reason: str, make_config: MakeConfig
) -> None:
    config = make_config(**changes)
    with pytest.raises(UserError, match=reason):
        train(config)
    assert config.output_dir is not None
    assert not config.output_dir.exists()


def test_an_existing_run_directory_is_refused_and_left_as_it_is(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"output_dir: .* exists, expected a new directory"):
        train(make_config())
    assert list((tmp_path / "run").iterdir()) == []


def test_the_verifiable_reward_needs_an_answer_to_every_training_prompt(
    make_config: MakeConfig, write_jsonl: Callable[..., Path]
) -> None:
    config = make_config(reward="verifiable")
    data = write_jsonl({"prompt": "1+1="}, name="unanswered.jsonl")
    with pytest.raises(UserError, match=r"unanswered\.jsonl, line 1: no `answer`"):
        train(replace(config, data=data))


def test_ctrl_c_saves_metrics_and_a_checkpoint_of_the_steps_so_far_and_says_where(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = trainer.sample
    calls = []

    def interrupt_third(*args: object, **settings: object) -> Rollout:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "sample", interrupt_third)
    config = make_config(max_steps=5)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step 2; --resume continues the run in .*run"):
        train(config)
    assert config.output_dir is not None
    assert len((config.output_dir / "metrics.jsonl").read_text().splitlines()) == 2
    AutoModelForCausalLM.from_pretrained(config.output_dir / "checkpoint-2")


def test_the_prompts_of_a_run_go_through_the_file_in_shuffled_epochs(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = trainer.sample
    met: list[str] = []

    def record(language_model: LanguageModel, prompts: list, **settings: object) -> Rollout:
        met.extend(prompt.text for prompt in prompts)
        return sample(language_model, prompts, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "sample", record)
    config = make_config(max_steps=4, prompts_per_step=4, seed=3)
    train(config)
    texts = [prompt.content for prompt in read_prompts(config.data)]
    assert met == list(islice(shuffled_epochs(texts, 3), 16))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [1 / 3, 2 / 3] + [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]),
    ],
)
def test_the_learning_rate_rises_to_its_peak_and_never_wastes_a_step_at_zero(
    schedule: str, expected: list[float]
) -> None:
    config = TrainConfig(
        model="m", data=Path("d"), max_steps=10, warmup_ratio=0.2, learning_rate=2.0, lr_scheduler_type=schedule
    )  # type: ignore[arg-type]
    assert [learning_rate_at(step, config) / 2 for step in range(1, 11)] == pytest.approx(expected)


@pytest.mark.parametrize("warmup_ratio", [0.0, 1.0])
def test_the_schedule_holds_with_no_warm_up_and_with_nothing_else(warmup_ratio: float) -> None:
    config = TrainConfig(model="m", data=Path("d"), max_steps=4, warmup_ratio=warmup_ratio, learning_rate=1.0)
    rates = [learning_rate_at(step, config) for step in range(1, 5)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates == sorted(rates, reverse=warmup_ratio == 0)
