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
