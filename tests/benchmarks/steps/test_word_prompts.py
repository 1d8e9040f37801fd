"""The suite `word-prompts` counts what completions say, and the recipe is what it measured."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.report.answering import word_prompts
from benchmarks.runner import Options
from benchmarks.steps.word_prompts import (
    LEVELS,
    RECIPE,
    TEMPERATURES,
    WORDINGS,
    Wording,
    evaluation,
    recipe_wording,
    steps,
    summary,
)
from rlif.data.prompts import read_prompts
from rlif.options.yaml_file import read_config, with_values
from rlif.training.options import TrainConfig


def test_shares_are_those_of_the_completions(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "1+1", "answer": "2", "tokens": [4, 6], "finished": [True, True],
            "completions": ["The answer is 2.", "The answer is 3."], "scores": {},
        },
        {
            "prompt": "2+2", "answer": "4", "tokens": [2, 8], "finished": [True, False],
            "completions": ["#### 4", "So 2 + 2 = 4, and the"], "scores": {},
        },
    ]  # fmt: skip
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = summary(path)
    assert {name: found[name]["value"] for name in ("ended", "stated", "right", "mixed")} == {
        "ended": 0.75,
        "stated": 0.75,
        "right": 0.5,
        "mixed": 1.0,
    }
    assert (found["prompts"], found["completions"], found["tokens"]) == (2, 4, 5.0)
    assert found["tiers"] == {"phrase": 2, "marker": 1}
    asked = (("short", 0.6), ("recipe", 1.0), ("recipe", 0.6))
    entries = [{"wording": name, "level": 3, "temperature": temperature} | found for name, temperature in asked]
    wordings = {"short": {"system_prompt": "Say it.\nNow.", "shots": 2}}
    results = {
        "model": "tiny", "num_generations": 2, "wordings": wordings, "entries": entries, "temperature": 0.6,
    }  # fmt: skip
    text = word_prompts(results)
    assert "| short | 75% | 75% | 50% ± 0% | 100% | 5 |" in text
    others, levels = text.split("at other temperatures")[1].split("all levels")
    assert "| 1 | 75% | 75% | 50% ± 0% | 100% | 5 |" in others
    assert "| 3 | 75% | 75% | 50% ± 0% | 100% | 5 |" in levels
    assert "| short | Say it. ⏎ Now. | 2 |" in text


def test_every_wording_is_put_before_the_same_problems(tmp_path: Path) -> None:
    options = Options(tmp_path, size="tiny", model=tmp_path)
    assert len(steps(options)) == len(WORDINGS) + len(TEMPERATURES) + len(LEVELS)
    wordings = (Wording(None), Wording("Say it."))
    one, other = (evaluation(options, each, level=3, prompts=5) for each in wordings)
    assert read_prompts(str(one.data)) == read_prompts(str(other.data))


def test_the_recipe_is_one_that_train_takes_with_a_wording_that_was_measured() -> None:
    assert recipe_wording() in WORDINGS.values()
    config = with_values(TrainConfig, {"model": "DIR"} | read_config(RECIPE, TrainConfig, "rlif train"))
    config.validate()
    trained, held_out = read_prompts(config.data), read_prompts(config.eval_data, argument="eval_data")
    assert not {str(prompt.content) for prompt in trained} & {str(prompt.content) for prompt in held_out}
