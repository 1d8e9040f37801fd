"""The configuration finds what is wrong with it, by name."""

import dataclasses
import math

import pytest

from rlif.errors import UserError
from rlif.training.options import TrainConfig

VALID = TrainConfig(model="model", data="data.jsonl")


def test_the_defaults_are_valid() -> None:
    VALID.validate()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("num_generations", 1, "at least 2"),
        ("max_steps", 0, "at least 1"),
        ("max_steps", 2.5, "an integer"),
        ("max_steps", True, "an integer"),
        ("prompts_per_step", -3, "at least 1"),
        ("max_completion_length", 0, "at least 1"),
        ("num_iterations", 0, "at least 1"),
        ("max_tokens_per_forward", 0, "at least 1"),
        ("save_total_limit", 0, "at least 1"),
        ("lora_rank", -1, "at least 0"),
        ("top_k", -1, "at least 0"),
        ("top_p", 0.0, "greater than 0"),
        ("top_p", 1.5, "at most 1"),
        ("epsilon_high", 0.0, "greater than 0"),
        ("delta", 1.1, "more than 1 + epsilon"),
        ("entropy_coef", math.inf, "a finite number"),
        ("loss_type", "ppo", "dapo, grpo, bnpo, dr_grpo"),
        ("scale_rewards", "std", "group, batch, none"),
        ("importance_sampling_level", "word", "token, sequence"),
        ("save_steps", 0, "at least 1"),
        ("eval_steps", 0, "at least 1"),
        ("eval_generations", 0, "at least 1"),
        ("seed", -1, "at least 0"),
        ("temperature", 0.0, "greater than 0"),
        ("temperature", math.nan, "a finite number"),
        ("temperature", "hot", "a finite number"),
        ("eval_temperature", -0.1, "at least 0"),
        ("learning_rate", 0.0, "greater than 0"),
        ("learning_rate", math.inf, "a finite number"),
        ("warmup_ratio", 1.1, "at most 1"),
        ("beta", -0.1, "at least 0"),
        ("epsilon", 0.0, "greater than 0"),
        ("max_grad_norm", 0.0, "greater than 0"),
        ("weight_decay", -1.0, "at least 0"),
        ("lr_scheduler_type", "cosin", "constant, linear, cosine"),
        ("dtype", "float64", "float32, bfloat16"),
    ],
)
def test_a_bad_value_is_one_error_with_the_argument_what_came_and_what_was_expected(
    field: str, value: object, expected: str
) -> None:
    with pytest.raises(UserError) as error:
        dataclasses.replace(VALID, **{field: value}).validate()  # type: ignore[arg-type]
    message = str(error.value)
    assert message.startswith(f"{field}: got {value!r}, expected")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("field", "value"),
    [("eval_temperature", 0), ("warmup_ratio", 1), ("warmup_ratio", 0), ("beta", 0), ("num_generations", 2)],
)
def test_the_ends_of_a_range_that_belong_to_it_are_accepted(field: str, value: float) -> None:
    dataclasses.replace(VALID, **{field: value}).validate()  # type: ignore[arg-type]


def test_a_lone_reward_is_the_same_as_a_tuple_of_it() -> None:
    assert TrainConfig(model="m", data="d", reward="format") == TrainConfig(model="m", data="d", reward=("format",))  # type: ignore[arg-type]


def test_a_directory_as_text_is_one_error_before_any_work() -> None:
    with pytest.raises(UserError, match=r"^output_dir: got 'runs/x', expected a pathlib\.Path$"):
        TrainConfig(model="m", data="d", output_dir="runs/x").validate()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"loss_type": "sapo", "delta": 2.0}, "delta: got 2.0, expected None with loss_type sapo"),
        ({"loss_type": "cispo"}, "epsilon_high: got None, expected with loss_type cispo the largest ratio itself"),
        ({"loss_type": "luspo"}, "importance_sampling_level: got 'token', expected 'sequence' with loss_type luspo"),
        (
            {"loss_type": "vespo", "importance_sampling_level": "sequence"},
            "importance_sampling_level: got 'sequence', expected 'token' with loss_type vespo",
        ),
        ({"clip_cov_lb": 6.0}, "clip_cov_lb: got 6.0, expected less than clip_cov_ub, which is 5.0"),
        ({"clip_cov_ratio": 0.1, "kl_cov_ratio": 0.1}, "kl_cov_ratio: got 0.1, expected 0 with a clip_cov_ratio"),
        ({"loss_type": "gmpo", "clip_cov_ratio": 0.1}, "clip_cov_ratio: got 0.1, expected 0, or a loss_type out of"),
        ({"kl_cov_ratio": 0.1, "delta": 2.0}, "delta: got 2.0, expected None with a kl_cov_ratio"),
        ({"kl_estimator": "full", "beta": 0.0}, "kl_estimator: got 'full', expected 'k3' with beta 0"),
        ({"kl_estimator": "k3_corrected", "beta": 0.0}, "kl_estimator: got 'k3_corrected', expected 'k3' with beta 0"),
        (
            {"importance_sampling_mode": "token_mask", "top_k": 3},
            "importance_sampling_mode: got 'token_mask', expected None with top_k or top_p",
        ),
        (
            {"importance_sampling_mode": "sequence_mask", "loss_type": "vespo"},
            "importance_sampling_mode: got 'sequence_mask', expected a mode of tokens with loss_type vespo",
        ),
        (
            {"importance_sampling_mode": "token_mask", "importance_sampling_clip_min": 4.0},
            "importance_sampling_clip_min: got 4.0, expected less than importance_sampling_clip_max, which is 3.0",
        ),
        ({"entropy_coef_min": 2.0}, "entropy_coef_min: got 2.0, expected at most entropy_coef_max, which is 1.0"),
        ({"top_entropy_quantile": 1.5}, "top_entropy_quantile: got 1.5, expected"),
        ({"importance_sampling_mode": "tis"}, "importance_sampling_mode: got 'tis', expected"),
        ({"verify_share": 0.0}, "verify_share: got 0.0, expected a number greater than 0 and at most 1"),
        (
            {"verify_template": "{prompt}"},
            "verify_template: got '{prompt}', expected text with {prompt} and {completion}",
        ),
        ({"max_num_gen_batches": 0}, "max_num_gen_batches: got 0, expected an integer of at least 1"),
    ],
)
def test_options_of_the_loss_that_do_not_go_together_are_one_error(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(UserError) as error:
        dataclasses.replace(VALID, **changes).validate()  # type: ignore[arg-type]
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)
