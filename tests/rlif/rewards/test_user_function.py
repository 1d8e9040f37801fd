"""A user's function is found by its name, gets what it asks for, and is held to one finite number per completion."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from made_rollouts import TOKENIZER, make_rollout, make_stats
from rlif.errors import UserError
from rlif.rewards import RewardMixture, load_rewards
from rlif.rewards.interface import INPUTS
from rlif.rollouts.rollout import Rollout
from rlif.training.options import TrainConfig
from rlif_kernels import TokenStats
from runs import train

ROLLOUT = make_rollout(["1+1", "#### 2", "3"], num_generations=3)


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write the user's module my_rewards_N.py into the working directory and return its path."""
    monkeypatch.chdir(tmp_path)
    written: list[Path] = []

    def write(source: str) -> Path:
        path = tmp_path / f"my_rewards_{len(written)}_{tmp_path.name}.py"
        path.write_text(source)
        written.append(path)
        return path

    return write


def call(mixture: RewardMixture, rollout: Rollout = ROLLOUT) -> list[float]:
    return mixture(make_stats(rollout)[1], rollout, tokenizer=TOKENIZER, step=7).total.tolist()


def test_a_function_is_found_in_a_module_of_the_working_directory_and_in_a_file(
    write_module: Callable[[str], Path],
) -> None:
    path = write_module("def length(completions):\n    return [len(text) for text in completions]\n")
    for spec in (f"{path.stem}:length", f"{path}:length", f"{path.name}:length=2"):
        mixture = load_rewards([spec])
        assert mixture.rewards[0].name == "length"
        assert call(mixture) == [
            3 * mixture.rewards[0].weight,
            6 * mixture.rewards[0].weight,
            mixture.rewards[0].weight,
        ]


def test_a_function_gets_the_arguments_that_it_names_and_all_of_them_with_kwargs(
    write_module: Callable[[str], Path],
) -> None:
    path = write_module(
        "seen = {}\n"
        "def some(stats, step, scale=2.0):\n"
        "    seen['some'] = (stats, step)\n"
        "    return stats.entropy.sum(dim=1) * scale\n"
        "def every(completions, **kwargs):\n"
        "    seen['every'] = {'completions': completions, **kwargs}\n"
        "    return [0] * len(completions)\n"
    )
    mixture = load_rewards([f"{path}:some", f"{path}:every"])
    total = call(mixture)
    seen = mixture.rewards[0].function.__globals__["seen"]  # type: ignore[attr-defined]
    stats, step = seen["some"]
    assert isinstance(stats, TokenStats)
    assert step == 7
    assert all(field is None or not field.requires_grad for field in stats)
    assert total == pytest.approx((2 * stats.entropy.sum(dim=1)).tolist())
    assert seen["every"].keys() == INPUTS.keys()
    assert torch.equal(seen["every"]["completion_mask"], ROLLOUT.completion_mask)


def test_a_function_says_which_statistics_it_reads_and_whether_it_needs_answers(
    write_module: Callable[[str], Path],
) -> None:
    path = write_module(
        "from rlif.rewards import uses\n"
        "@uses('top_probs', answers=True)\n"
        "def lead(stats, completion_mask, answers):\n"
        "    return stats.top_probs[..., 0].sum(dim=1) / completion_mask.sum(dim=1)\n"
        "def plain(stats):\n    ...\n"
        "def blind(completions):\n    ...\n"
        "@uses('sum_sq')\n"
        "def unknown(stats):\n    ...\n"
    )
    lead = load_rewards([f"{path}:lead"])
    assert lead.outputs == ("top_probs",)
    assert lead.needs_answers
    assert load_rewards([f"{path}:plain"]).outputs == ("logprob", "entropy", "self_certainty")
    assert load_rewards([f"{path}:blind"]).outputs == ()
    assert not load_rewards([f"{path}:blind"]).needs_answers
    with pytest.raises(UserError, match=r"reward: unknown uses 'sum_sq', expected some of logprob, .*sum_sq_probs"):
        load_rewards([f"{path}:unknown"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", r"has no function 'nothing'$"),
        ("lenght", r"has no function 'lenght'; did you mean length\?"),
        ("number", r"has no function 'number'"),
        ("wants_more", r"wants_more requires the argument 'rewards_of_others', expected some of prompts, completions,"),
        ("by_position", r"by_position takes 'completions' by position only"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_before_any_work(
    function: str, message: str, write_module: Callable[[str], Path]
) -> None:
    path = write_module(
        "number = 3\n"
        "def length(completions):\n    ...\n"
        "def wants_more(completions, rewards_of_others):\n    ...\n"
        "def by_position(completions, /):\n    ...\n"
    )
    with pytest.raises(UserError, match=f"^reward: .*{message}"):
        load_rewards([f"{path}:{function}"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module:f", "could not import 'no_such_module': ModuleNotFoundError"),
        ("no_such_file.py:f", "could not import 'no_such_file.py': FileNotFoundError"),
        ("broken.py:f", r"could not import 'broken.py': SyntaxError"),
        ("raises.py:f", r"could not import 'raises.py': RuntimeError: too early \(.*raises.py, line 2\)"),
        (":f", "expected package.module:function or file.py:function"),
        ("module:", "expected package.module:function or file.py:function"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_error(
    spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "raises.py").write_text("\nraise RuntimeError('too early')\n")
    with pytest.raises(UserError, match=message):
        load_rewards([spec])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1.0, 2.0]", r"returned 2 values, expected 3: one number per completion"),
        ("return 1.0", r"returned 1.0, expected a list or tensor of 3 numbers"),
        ("return 'abc'", r"returned 'abc', expected a list"),
        ("pass", r"returned None, expected a list"),
        ("return [1, 'None', 3]", r"returned 'None' for completion 2 of 3, .* \(prompt '1\+1='\)"),
        ("return [1, 2, '3']", r"returned '3' for completion 3 of 3"),
        ("return [1, float('nan'), 3]", r"returned nan for completion 2 of 3, expected a finite number"),
        ("return [1, 2, 10**400]", r"returned 10+…? for completion 3 of 3"),
        ("return [1e39, 2, 3]", r"returned 1e\+39 for completion 1 of 3, expected a finite number"),
        ("import torch; return torch.zeros(3, 1)", r"returned \[0.0\] for completion 1 of 3"),
        ("raise SystemExit(0)", r"raised SystemExit: 0 \(.*my_rewards.*\.py, line 2\)"),
        ("return [1 / 0]", r"raised ZeroDivisionError: division by zero \(.*my_rewards.*\.py, line 2\)"),
    ],
)
def test_what_is_not_one_finite_number_per_completion_is_one_error_that_names_the_function(
    body: str, message: str, write_module: Callable[[str], Path]
) -> None:
    mixture = load_rewards([f"{write_module(f'def mine(completions):{chr(10)}    {body}{chr(10)}')}:mine"])
    with pytest.raises(UserError, match=f"^reward mine: {message}") as error:
        call(mixture)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "body",
    [
        "return [1, 0.5, True]",
        "return (1, 0.5, True)",
        "import numpy; return numpy.array([1, 0.5, 1])",
        "import numpy; return [numpy.float32(1), 0.5, numpy.int64(1)]",
        "import torch; return torch.tensor([1, 0.5, 1], dtype=torch.bfloat16, requires_grad=True)",
        "import torch; return [torch.tensor(1), 0.5, torch.tensor(1.0)]",
    ],
)
def test_numbers_of_any_kind_are_taken(body: str, write_module: Callable[[str], Path]) -> None:
    mixture = load_rewards([f"{write_module(f'def mine():{chr(10)}    {body}{chr(10)}')}:mine"])
    assert call(mixture) == [1.0, 0.5, 1.0]


def test_training_on_a_mixture_logs_each_part(
    make_config: Callable[..., TrainConfig], write_module: Callable[[str], Path]
) -> None:
    path = write_module("def short(completion_mask):\n    return -completion_mask.sum(dim=1).float()\n")
    config = make_config(reward=("probability_disparity=0.5", f"{path}:short=0.1", "random=0"))
    result = train(config)
    for row in result.rows:
        assert row["reward/short"] == pytest.approx(-row["completion_length"])
        assert row["reward"] == pytest.approx(0.5 * row["reward/probability_disparity"] + 0.1 * row["reward/short"])
        assert 0 <= row["reward/random"] <= 1


def test_completions_to_which_no_reward_applies_are_counted_and_teach_nothing(
    make_config: Callable[..., TrainConfig], write_module: Callable[[str], Path]
) -> None:
    body = "[None, len(completions[1]), None, 3] * (len(completions) // 4)"
    path = write_module(f"def third(completions):\n    return {body}\n")
    result = train(make_config(reward=(f"{path}:third", "random=0")))
    assert [row["not_applicable/third"] for row in result.rows] == [0.5, 0.5]
    assert all("not_applicable/random" not in row for row in result.rows)
    path = write_module("def never(completions):\n    return [None] * len(completions)\n")
    config = make_config(reward=(f"{path}:never",), output_dir=result.run_dir.with_name("never"))
    result = train(config)
    assert [row["not_applicable/never"] for row in result.rows] == [1, 1]
    assert [row["frac_reward_zero_std"] for row in result.rows] == [1, 1]
    assert all(math.isnan(row["reward"]) and row["skipped_updates"] == 0 for row in result.rows)
    weights = [load_file(Path(each) / "model.safetensors") for each in (config.model, result.run_dir / "model")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_a_reward_that_fails_in_training_loses_nothing(
    make_config: Callable[..., TrainConfig], write_module: Callable[[str], Path]
) -> None:
    path = write_module("def fails(completions, step):\n    return [1 / (2 - step)] * len(completions)\n")
    config = make_config(reward=(f"{path}:fails",), max_steps=3)
    with pytest.raises(UserError, match=r"^reward fails: raised ZeroDivisionError.* \(stopped in step 2; metrics"):
        train(config)
    assert config.output_dir is not None
    assert (config.output_dir / "metrics.jsonl").read_text().count("\n") == 1
    assert (config.output_dir / "model" / "model.safetensors").is_file()
