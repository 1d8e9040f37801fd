"""A file sets what the command line may set, the command line overrides it, and a run's own file repeats the run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlif.cli import parse
from rlif.errors import UserError
from rlif.options.yaml_file import read_config, write_config
from rlif.training.loop import train
from rlif.training.options import TrainConfig
from rlif.training.progress import SilentProgress
from tiny_models import TIMES

COMPLETE = TrainConfig(
    model="m",
    data="prompts ü.jsonl",
    reward=("format=0.1", "self_certainty"),
    eval_data="e",
    system_prompt="Größer: 1",
    learning_rate=1e-5,
    save_steps=3,
)


@pytest.fixture
def write_yaml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_what_is_written_is_read_back_but_for_the_run_directory(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_config(
        dataclasses.replace(COMPLETE, output_dir=Path("old")), path, header="rlif 1", leave_out=("output_dir",)
    )
    assert TrainConfig(**read_config(path, TrainConfig, "rlif train")) == COMPLETE
    assert path.read_text(encoding="utf-8").startswith("# rlif 1\n")


def test_the_command_line_overrides_the_file_which_overrides_the_defaults(write_yaml: Callable[[str], Path]) -> None:
    path = write_yaml(
        "model: m\ndata: d\nmax_steps: 7\nbeta: 0\nsave_steps: 5\nreward: [format, random=2]\nchat: true\n"
    )
    config = parse(["train", "--config", str(path), "--max-steps", "8", "--save-steps", "None", "--no-chat"])
    assert config == TrainConfig(
        model="m", data="d", max_steps=8, beta=0.0, save_steps=None, reward=("format", "random=2"), chat=False
    )
    config = parse(["train", f"--config={path}", "--reward", "verifiable", "--reward", "format=3"])
    assert isinstance(config, TrainConfig)
    assert config.reward == ("verifiable", "format=3")


def test_without_a_file_rewards_are_those_of_the_command_line_or_the_default() -> None:
    words = ["train", "--model", "m", "--data", "d"]
    assert parse(words) == TrainConfig(model="m", data="d")
    assert parse([*words, "--reward", "format"]) == TrainConfig(model="m", data="d", reward=("format",))


def test_values_may_be_written_as_a_person_would(write_yaml: Callable[[str], Path]) -> None:
    path = write_yaml(
        "learning_rate: 1e-5\nbeta: 0\noutput_dir: runs/x\nreward: format\nmax_steps: 3\nsave_steps: null\n"
    )
    values = read_config(path, TrainConfig, "rlif train")
    expected = {"learning_rate": 1e-5, "beta": 0.0, "output_dir": Path("runs/x"), "reward": ("format",), "max_steps": 3}
    assert values == expected | {"save_steps": None}
    assert isinstance(values["beta"], float)


def test_an_old_name_in_a_file_sets_the_option_that_has_another_now(write_yaml: Callable[[str], Path]) -> None:
    path = write_yaml("run_dir: runs/x\nmodel: m\ndata: d\n")
    assert parse(["train", "--config", str(path)]) == TrainConfig(model="m", data="d", output_dir=Path("runs/x"))


COMMAND_LINES = {
    "eval": ["--model", "m", "--data", "d", "--num-generations", "3", "--top-p", "0.5"],
    "diagnose": ["--model", "m", "--data", "d", "--reward", "format", "--reward", "random", "--json", "-"],
    "mix": ["b", "i", "--ratio", "0", "0.5", "--tokenizer-from", "instruct"],
    "convert": ["m.gguf", "--dtype", "bfloat16"],
    "demo": ["--max-steps", "3", "--base.seed", "4", "--base.task.digits", "2"],
    "lab": ["--quick", "--workers", "1"],
    "self-feedback": [
        "rank",
        "--num-generations",
        "4",
        "--verdicts",
        "Y",
        "N",
        "--threshold",
        "0.5",
        "--lora-rank",
        "2",
    ],
    "plot": ["one", "two", "--output", "a.png"],
    "report": ["one", "two", "--output", "a.html", "--open"],
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_the_file_of_any_command_repeats_it(name: str, tmp_path: Path) -> None:
    path, place = tmp_path / "config.yaml", ["--output-dir", "out"] if name in ("mix", "convert") else []
    config = parse([name, *COMMAND_LINES[name], *place])
    write_config(config, path, header="rlif 1")
    assert parse([name, "--config", str(path), *place]) == config
    assert parse([name, f"--config={path}", *COMMAND_LINES[name], *place]) == config


def test_a_group_of_options_may_be_written_as_a_mapping_or_without(write_yaml: Callable[[str], Path]) -> None:
    inside = write_yaml("sample: {num_generations: 4, questions_per_batch: 8}\nseed: 3\n")
    nested = parse(["self-feedback", "--config", str(inside)])
    flat = parse(["self-feedback", "--config", str(write_yaml("num_generations: 4\nprompts_per_batch: 8\nseed: 3\n"))])
    assert nested == flat
    assert (flat.sample.num_generations, flat.sample.prompts_per_batch, flat.seed) == (4, 8, 3)
    path = write_yaml("base: {task: {digits: 2}}")
    base = parse(["demo", "--config", str(path), "--base.task.operands", "3"]).base
    assert (base.task.digits, base.task.operands) == (2, 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("eval", "max_steps: 3", "got 'max_steps', which is no option of rlif eval"),
        ("demo", "base: 3", "base: got 3, expected options of its own"),
        ("demo", "base: {sed: 3}", "base: got 'sed', which is no option of base; did you mean seed"),
        ("demo", "base: {task: {digits: two}}", "base: task: digits: got 'two', expected a value of type int"),
        ("self-feedback", "sample: {num_generations: x}", "num_generations: got 'x', expected a value of type int"),
        ("self-feedback", "verdicts: [Y]", r"verdicts: got \['Y'\], expected 2 values"),
        ("self-feedback", "sample: {num_generations: 4}\nnum_generations: 3", "num_generations: got it twice"),
        ("self-feedback", "verdicts: Y", r"verdicts: got \['Y'\], expected 2 values"),
        ("self-feedback", "stage: first", "stage: got 'first', expected one of all, sample, rank, train, measure"),
    ],
)
def test_what_is_wrong_with_the_file_of_any_command_is_named(
    name: str, text: str, message: str, write_yaml: Callable[[str], Path]
) -> None:
    with pytest.raises(UserError, match=message):
        parse([name, "--config", str(write_yaml(text))])


def test_values_of_a_file_are_held_to_the_same_bounds_as_others(write_yaml: Callable[[str], Path]) -> None:
    path = write_yaml("model: m\ndata: d\nnum_generations: 1\n")
    with pytest.raises(UserError, match=r"^num_generations: got 1, expected an integer of at least 2"):
        parse(["train", "--config", str(path)]).validate()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step: 3", r"got 'max_step', which is no option of rlif train; did you mean max_steps"),
        ("learning-rate: 3", r"got 'learning-rate', .*; did you mean learning_rate"),
        ("colour: red", r"got 'colour', which is no option of rlif train$"),
        ("3: 3", r"got 3, which is no option"),
        ("max_steps: many", r"max_steps: got 'many', expected a value of type int"),
        ("max_steps: 1.5", r"max_steps: got 1.5, expected a value of type int"),
        ("max_steps: true", r"max_steps: got True, expected a value of type int"),
        ("beta: low", r"beta: got 'low', expected a value of type float"),
        ("beta: true", r"beta: got True, expected a value of type float"),
        ("beta: null", r"beta: got None, expected a value of type float"),
        (f"beta: {10**400}", r"beta: got 10+, expected a value of type float"),
        ("model: 3", r"model: got 3, expected text"),
        ("output_dir: 3", r"output_dir: got 3, expected a path"),
        ("reward: {format: 1}", r"reward: got \{'format': 1\}, expected text"),
        ("chat: 1", r"chat: got 1, expected a value of type bool"),
        ("dtype: float64", r"dtype: got 'float64', expected one of float32, bfloat16"),
        ("- max_steps", r"holds no options"),
        ("", r"holds no options"),
        ("run_dir: a\noutput_dir: b", r"output_dir: got it twice, expected it once, by this name or an old one"),
        ("~: {max_steps: 3}", r"got None, which is no option of rlif train"),
        ("a: [", r"is not YAML: "),
        ("[" * 3000, r"is not YAML: "),
        ("seed: 2001-13-45", r"is not YAML: "),
        ("seed: " + "9" * 5000, r"is not YAML: "),
        ("seed: !!bool x", r"is not YAML: "),
        ("seed: !!timestamp x", r"is not YAML: "),
        ("!!python/object/apply:os.system [ls]", r"is not YAML: "),
    ],
)
def test_what_is_wrong_with_a_file_is_one_error_that_names_it(
    text: str, message: str, write_yaml: Callable[[str], Path]
) -> None:
    path = write_yaml(text)
    with pytest.raises(UserError, match=message) as error:
        parse(["train", "--config", str(path)])
    assert str(error.value).startswith(f"config: {path}")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_error() -> None:
    with pytest.raises(UserError, match=r"^config: cannot read nowhere\.yaml: No such file"):
        parse(["train", "--config", "nowhere.yaml"])


def test_the_config_file_of_a_run_repeats_it_in_another_directory(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    first = train(make_config(reward=("self_certainty", "format=0.5")), progress=SilentProgress())
    words = ["train", "--config", str(first.run_dir / "config.yaml"), "--output-dir", str(tmp_path / "again")]
    config = parse(words)
    assert isinstance(config, TrainConfig)
    again = train(config, progress=SilentProgress())

    def rows(run_dir: Path) -> list[dict[str, float]]:
        lines = (run_dir / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]

    assert rows(again.run_dir) == rows(first.run_dir)
    assert (again.run_dir / "config.yaml").read_text() == (first.run_dir / "config.yaml").read_text()
