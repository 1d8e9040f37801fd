"""What is measured is what the samples say, whatever the batches; what cannot be measured is one clear error."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rlif.data.prompts import Prompt
from rlif.diagnosis.command import run as run_diagnose
from rlif.diagnosis.diagnose import Diagnosis, diagnose, group_difference, judge
from rlif.diagnosis.options import DiagnoseConfig
from rlif.diagnosis.samples import Samples
from rlif.diagnosis.verdict import Thresholds
from rlif.errors import UserError
from rlif.metrics.bootstrap import Bootstrap
from rlif.metrics.calibration import auroc_by_group
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.sample import sample
from rlif.scoring import scorer as scorer_module
from rlif.tasks.arithmetic import ArithmeticConfig, problems, write_jsonl
from rlif.tasks.options import BaseModelConfig
from rlif.tasks.pretraining import pretrain
from rlif_kernels import token_stats

TASK = ArithmeticConfig(digits=1)


@pytest.fixture(scope="module")
def adder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that states answers, some of them right."""
    torch.set_num_threads(1)
    config = BaseModelConfig(
        task=TASK, hidden_size=64, num_hidden_layers=1, pretraining_steps=120, pretraining_batch_size=32
    )
    model, tokenizer = pretrain(config, None)
    directory = tmp_path_factory.mktemp("models") / "adder"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def adder(adder_dir: Path) -> LanguageModel:
    return load_language_model(str(adder_dir), device="cpu", dtype="float32")


@pytest.fixture
def prompts() -> list[Prompt]:
    return [Prompt(each.prompt, each.answer) for each in itertools.islice(problems(TASK, "eval", 0), 10)]


def measure(adder: LanguageModel, prompts: list[Prompt], **settings: object) -> Diagnosis:
    options: dict[str, object] = {"max_completion_length": 20, "resamples": 50} | settings
    return diagnose(adder, prompts, **options)  # type: ignore[arg-type]


def numbers(diagnosis: Diagnosis) -> dict[str, float]:
    values = {name: estimate.value for name, estimate in diagnosis.measures.items()}
    for reward, found in diagnosis.rewards.items():
        values |= {f"{reward}/{name}": estimate.value for name, estimate in found.measures.items()}
        values[f"{reward}/sureness"] = found.verdict.sureness
    return values


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_measures_are_those_of_the_samples_taken_one_by_one(
    adder: LanguageModel, prompts: list[Prompt], temperature: float
) -> None:
    diagnosis = measure(adder, prompts, num_generations=4, reward="token_entropy", temperature=temperature)
    seeds = [(0, index) for index in range(len(prompts))]
    options = dict(num_generations=4, max_completion_length=20, temperature=temperature, seeds=seeds)
    rollout = sample(adder, encode_prompts(adder, prompts, 20), **options)  # type: ignore[arg-type]
    entropy, untempered, tokens, rewards = 0.0, 0.0, 0, []
    with torch.no_grad():
        for row, (prompt_length, length) in enumerate(zip(*rollout.lengths(), strict=True)):
            prompt_ids = rollout.prompt_ids[row, -prompt_length:]
            ids = torch.cat([prompt_ids, rollout.completion_ids[row, :length]])
            logits = adder.model(ids[None, :-1]).logits[0, prompt_length - 1 :]
            values, at_one = (token_stats(logits, ids[prompt_length:], temperature=each).entropy for each in
                              (temperature, 1.0))  # fmt: skip
            assert values is not None
            assert at_one is not None
            rewards.append(-values.mean().item())
            entropy, untempered = entropy + values.sum().item(), untempered + at_one.sum().item()
            tokens += length
    # float32 through one layer, padded and not: some tens of roundings
    assert diagnosis.measures["entropy"].value == pytest.approx(entropy / tokens, rel=1e-4)
    assert ("untempered_entropy" in diagnosis.measures) == (temperature != 1)
    if temperature != 1:
        assert diagnosis.measures["untempered_entropy"].value == pytest.approx(untempered / tokens, rel=1e-4)
    assert diagnosis.rewards["token_entropy"].measures["mean"].value == pytest.approx(np.mean(rewards), rel=1e-4)
    assert diagnosis.measures["completion_length"].value == tokens / len(rewards)
    assert diagnosis.measures["eos_rate"].value == sum(rollout.finished.tolist()) / len(rewards)


def test_the_seed_decides_the_result_and_batches_do_not(
    adder: LanguageModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer_module, "ATTENTION_COST", 0)  # so small a model would not share
    first = measure(adder, prompts)
    assert numbers(measure(adder, prompts)) == numbers(first)
    # Padding differs between batches, and with it the rounding of float32.
    for changes in ({"batch_size": 3, "max_tokens_per_forward": 100}, {"share_prompts": False}):
        assert numbers(measure(adder, prompts, **changes)) == pytest.approx(numbers(first), rel=1e-4, nan_ok=True)
    assert numbers(measure(adder, prompts, seed=1)) != numbers(first)


def test_gold_answers_are_reported_and_change_nothing_else(adder: LanguageModel, prompts: list[Prompt]) -> None:
    with_gold = measure(adder, prompts)
    without = measure(adder, [Prompt(prompt.content) for prompt in prompts])
    assert numbers(with_gold) == numbers(without)
    assert with_gold.accuracy is not None
    assert 0 < with_gold.accuracy.value < 1
    assert without.accuracy is None
    assert without.rewards["self_certainty"].correctness_auroc is None
    perfect = measure(adder, prompts, reward="verifiable").rewards["verifiable"].correctness_auroc
    assert perfect is not None
    assert perfect.value == 1.0


def test_rewards_of_ones_own_are_judged_and_a_negative_weight_turns_them_round(
    adder: LanguageModel, prompts: list[Prompt], tmp_path: Path
) -> None:
    (tmp_path / "brevity.py").write_text("def brevity(completion_mask):\n    return -completion_mask.sum(dim=1) / 10\n")
    spec = f"{tmp_path / 'brevity.py'}:brevity"
    (short,) = measure(adder, prompts, reward=spec).rewards.values()
    (long,) = measure(adder, prompts, reward=f"{spec}=-2").rewards.values()
    # The 1e-4 that is added to each group's standard deviation weighs a little more where rewards are smaller.
    assert short.measures["length_correlation"].value == pytest.approx(-1.0, abs=1e-3)
    assert "prefers short completions" in short.verdict.warnings[0]
    metric = measure(adder, prompts, reward=["verifiable", f"{spec}=0"]).rewards["brevity"]
    assert metric == short  # a weight of 0 says that training shall not maximise it, and nothing about the reward
    assert long.measures["separation"].value == pytest.approx(1 - short.measures["separation"].value)


def samples(agrees: list[list[int]], rewards: list[list[float]], answers: list[str]) -> Samples:
    """Completions of 2 tokens about which nothing else is known."""
    shape = np.shape(agrees)
    ones, zeros = np.ones(shape), np.zeros(shape)
    return Samples(
        tokens=2 * ones,
        entropy=ones,
        untempered_entropy=ones,
        self_certainty=ones,
        finished=ones,
        parsed=ones,
        repetition=zeros,
        agrees=np.array(agrees, dtype=np.float64),
        correct=np.full(shape, np.nan),
        rewards={"reward": np.array(rewards, dtype=np.float64)},
        majority_answers=answers,
        unanswered=[],
    )


def test_agreement_and_separation_by_hand() -> None:
    found = judge(
        samples(
            [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]],
            [[3, 1, 1, 0], [5, 6, 7, 8], [0, 1, 1, 1], [2, 2, 2, 2]],
            ["4", "7", "4.0"],  # the same answer in other characters
        ),
        Bootstrap(4, resamples=10, seed=0),
        1.0,
        Thresholds(),
    )
    assert found.measures["entropy"].value == 0.5
    assert found.measures["agreement"].value == (2 / 4 + 4 / 4 + 1 / 4 + 0) / 4
    assert found.measures["common_answer"].value == 2 / 3
    assert found.distinct_answers == 2
    measures = found.rewards["reward"].measures
    # The first group alone has two that agree and others: 3 beats both, 1 beats 0 and ties with 1.
    assert measures["separation"].value == (2 + 1.5) / 4
    # Rewards 3, 1, 1, 0 have the standard deviation sqrt(19 / 12); an advantage divides by 1e-4 more.
    assert measures["separation_std"].value == pytest.approx((2 - 0.5) / (math.sqrt(19 / 12) + 1e-4))
    assert measures["frac_reward_zero_std"].value == 1 / 4
    assert math.isnan(measures["length_correlation"].value)


def test_group_statistics_are_their_definitions_and_nan_where_a_kind_is_missing() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 4, size=(20, 6)).astype(np.float64)
    positive = generator.integers(0, 2, size=(20, 6)).astype(np.float64)
    positive[0], positive[1], positive[2] = 1, 0, np.nan
    auroc, difference = auroc_by_group(values, positive), group_difference(values, positive)
    assert np.isnan(auroc[:3]).all()
    assert np.isnan(difference[:3]).all()
    for group in range(3, 20):
        one, other = values[group][positive[group] == 1], values[group][positive[group] == 0]
        wins = [(a > b) + 0.5 * (a == b) for a in one for b in other]
        assert auroc[group] == pytest.approx(np.mean(wins))
        assert difference[group] == pytest.approx(one.mean() - other.mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations": 1}, "num_generations: got 1, expected at least 2"),
        ({"temperature": 0.0}, "temperature: got 0.0, expected a number greater than 0"),
        ({"reward": "confidence"}, "reward: got 'confidence', expected one of"),
    ],
)
def test_bad_input_is_one_error_that_names_it(
    settings: dict[str, object], message: str, adder: LanguageModel, prompts: list[Prompt]
) -> None:
    with pytest.raises(UserError, match=message):
        measure(adder, prompts, **settings)
    with pytest.raises(UserError, match="prompts: got none"):
        measure(adder, [])


@pytest.fixture
def config(adder_dir: Path, tmp_path: Path) -> DiagnoseConfig:
    write_jsonl(tmp_path / "data.jsonl", TASK, "eval", 40, 0)
    return DiagnoseConfig(
        model=str(adder_dir),
        data=str(tmp_path / "data.jsonl"),
        output_dir=tmp_path / "out",
        num_prompts=12,
        num_generations=4,
        max_completion_length=20,
    )


def test_the_command_prints_every_verdict_with_its_numbers(
    config: DiagnoseConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    config.json = str(tmp_path / "found.json")
    run_diagnose(config)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert "12 prompts x 4 completions" in printed
    assert found["measures"]["entropy"].keys() == {"value", "low", "high"}
    assert f"{found['measures']['entropy']['value']:.3f}" in printed
    assert found["rewards"].keys() == {"self_certainty", "token_entropy", "trajectory_entropy", "majority_vote"}
    for reward, each in found["rewards"].items():
        assert (
            f"{reward}: {each['verdict']['outlook'].capitalize()} (sure: {each['verdict']['sureness']:.0%}). "
            in printed
        )
        agreed, pairs = each["verdict"]["lab"]  # of the lab's own run
        assert f"n the lab this came true in {agreed} of {pairs} trainings" in " ".join(printed.split())


def test_a_model_that_states_no_answer_gets_no_verdict_but_why_three_examples_and_what_to_do(
    config: DiagnoseConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    config.max_completion_length, config.json = 1, str(tmp_path / "found.json")  # cut off before any answer
    run_diagnose(config)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert {each["verdict"]["outlook"] for each in found["rewards"].values()} == {"cannot tell"}
    assert found["measures"]["common_answer"]["value"] is None
    assert found["accuracy"] is None  # 0% would be no measurement
    assert "self_certainty: Cannot tell (sure: 100%). Only 0% of the completions state an answer" in printed
    assert "Likely to help" not in printed
    assert "isk of collapse" not in printed
    assert "Completions without an answer, strict style, end like this:" in printed
    assert len(found["unanswered"]) == 3
    for text in found["unanswered"]:
        assert f"\n  {text}" in printed
    assert (
        "try answer_style lenient, which reads prose too; a system_prompt or prompts that ask for #### ANSWER"
        in printed
    )
    assert "100% of the completions were cut off: raise max_completion_length" in printed


def test_json_to_the_standard_output_is_json_alone(config: DiagnoseConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config.json, config.reward = "-", ("format",)
    run_diagnose(config)
    found = json.loads(capsys.readouterr().out)
    assert found["num_prompts"] == 12
    assert found["thresholds"]["max_agreement"] == Thresholds().max_agreement


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_generations": 1}, "num_generations: got 1, expected an integer of at least 2: agreement is within"),
        ({"num_prompts": 0}, "num_prompts: got 0"),
        ({"temperature": float("nan")}, "temperature: got nan"),
        ({"reward": ("nothing",)}, "reward: got 'nothing'"),
        ({"json": "/nowhere/found.json"}, "json: cannot write /nowhere/found.json: there is no such directory"),
        ({"model": "/nowhere/model"}, "model: got '/nowhere/model', which does not exist"),
        ({"data": "missing.jsonl"}, "data: got 'missing.jsonl', which is not a file"),
    ],
)
def test_bad_options_are_one_error_before_any_work(
    changes: dict[str, object], message: str, config: DiagnoseConfig
) -> None:
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=message):
        run_diagnose(config)
