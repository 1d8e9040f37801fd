"""Gold answers of every type that a dataset can hold, in TRL's trainers."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from datasets import Dataset, Features, IterableDataset, List, Value
from trl import GRPOTrainer

import tiny_models
import tiny_trl as tiny
from rlif.errors import UserError
from rlif.integrations.trl import GuardCallback, RLIFTrainer, trl_reward
from rlif.integrations.trl.rewards import as_stored
from rlif.rewards import uses

PROMPTS = ["1+1=", "2+2="]
# As many characters as the tiny model knows, a point among them.
TOKENIZER = tiny_models.make_tokenizer(tiny.LETTERS.replace("z", "."))


def dataset(answers: list[Any], feature: Any = None, column: str = "answer") -> Dataset:
    features = None if feature is None else Features({"prompt": Value("string"), column: feature})
    return Dataset.from_dict({"prompt": PROMPTS, column: answers}, features)


def make(
    trainer_class: Any, model_dir: Path, directory: Path, reward: Any, data: Any, said: str, **options: Any
) -> Any:
    """A trainer whose every completion is the same text."""

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        prompt_ids = trainer._tokenize_prompts(prompts)[0]
        ids = trainer._tokenizer(said)["input_ids"]
        return {"prompt_ids": prompt_ids, "completion_ids": [ids for _ in prompts], "logprobs": None}

    config = tiny.config(directory, max_steps=1, max_completion_length=16)
    return trainer_class(
        str(model_dir), reward, config, data, processing_class=TOKENIZER, rollout_func=rollout, **options
    )


def rewards_of(trainer: Any) -> list[float]:
    """What the only reward gives the completions of each prompt in a step."""
    trainer.train()
    (values,) = trainer._logs["rewards"].values()
    by_prompt = dict(zip(trainer._logs["prompt"], values, strict=True))
    return [by_prompt[prompt] for prompt in PROMPTS]


COLUMNS: dict[str, tuple[str, list[Any], Any, list[float]]] = {
    "text": ("5", ["so 2+3 #### 5", "6"], Value("string"), [1, 0]),
    "whole numbers": ("5", [5, 6], Value("int32"), [1, 0]),
    "floats": ("0.1", [0.1, 0.2], Value("float64"), [1, 0]),
    "narrow floats": ("0.1", [0.1, 0.2], Value("float32"), [1, 0]),
    "decimals": ("0.5", [Decimal("0.50"), Decimal("0.51")], Value("decimal128(5, 2)"), [1, 0]),
    "true and false": ("yes", [True, False], Value("bool"), [1, 0]),
    "lists of text": ("6", [["5", "6"], ["7"]], List(Value("string")), [1, 0]),
    "lists of narrow floats": ("0.1", [[0.2, 0.1], [0.3]], List(Value("float32")), [1, 0]),
    # What is not there is None to TRL, which takes it for a reward that does not apply.
    "none in a row": ("5", ["5", None], Value("string"), [1, math.nan]),
    "a list of nothing": ("5", [[], [None, "5"]], List(Value("string")), [math.nan, 1]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_any_type_with_a_meaning_has_the_gold_answers(kind: str, model_dir: Path, tmp_path: Path) -> None:
    said, answers, feature, expected = COLUMNS[kind]
    trainer = make(RLIFTrainer, model_dir, tmp_path, "verifiable", dataset(answers, feature), f"#### {said}")
    assert rewards_of(trainer) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("form", ["numpy", "torch"])
@pytest.mark.parametrize("answers", [[0.1, 0.2], [[0.1, 0.2], [0.3, 0.4]], [True, False]])
def test_a_dataset_may_hand_over_arrays(form: str, answers: list[Any], model_dir: Path, tmp_path: Path) -> None:
    data = dataset(answers).with_format(form)
    said = "yes" if answers[0] is True else "0.1"
    trainer = make(RLIFTrainer, model_dir, tmp_path, "verifiable", data, f"#### {said}")
    assert rewards_of(trainer) == [1, 0]


def test_a_stock_trainer_and_a_function_of_ones_own_get_the_same_gold_answers(model_dir: Path, tmp_path: Path) -> None:
    seen: list[Any] = []

    @uses(answers=True)
    def watch(answers: list[Any]) -> list[float]:
        seen.extend(answers)
        return [1.0] * len(answers)

    data = dataset([["5", "6"], None], List(Value("string")), "gold")
    trainer = make(GRPOTrainer, model_dir, tmp_path, trl_reward(watch, answer_column="gold"), data, "#### 5")
    assert rewards_of(trainer) == pytest.approx([1, math.nan], nan_ok=True)
    assert set(seen) == {("5", "6"), None}


def test_what_is_no_gold_answer_is_refused_with_column_row_and_type_before_any_work(
    model_dir: Path, tmp_path: Path
) -> None:
    spans = dataset([None, {"text": ["5"]}])
    nested = dataset([[["5"]], [["6"]]])
    for data, message in (
        (
            spans,
            r"^answer, row 2 of train_dataset: got {'text': \['5'\]} of type dict, expected text, a number, true or",
        ),
        (nested, r"^answer, row 1 of train_dataset: got \['5'\] of type list, expected text"),
        (dataset([None, ""]), "^answer: got no gold answer in train_dataset, expected some for verifiable"),
    ):
        with pytest.raises(UserError, match=message):
            make(RLIFTrainer, model_dir, tmp_path, "verifiable", data, "#### 5")
    good = dataset(["5", "6"])
    with pytest.raises(UserError, match=r"^answer, row 2 of eval_dataset\['qa'\]: got .* of type dict"):
        make(RLIFTrainer, model_dir, tmp_path, "verifiable", good, "#### 5", eval_dataset={"math": good, "qa": spans})
    with pytest.raises(UserError, match=r"^answer_column: got 'answer', expected a column of eval_dataset"):
        make(RLIFTrainer, model_dir, tmp_path, "verifiable", good, "", eval_dataset=good.remove_columns("answer"))
    # To rewards that ask for no answers a column of that name is one like any other.
    assert rewards_of(make(RLIFTrainer, model_dir, tmp_path, "format", spans, "#### 5")) == [1, 1]


def test_what_is_no_gold_answer_is_refused_when_a_stream_or_a_stock_trainer_meets_it(
    model_dir: Path, tmp_path: Path
) -> None:
    data = dataset([{"text": ["5"]}] * 2)
    message = r"^answer, row 1 of the batch: got {'text': \['5'\]} of type dict, expected text, a number"
    with pytest.raises(UserError, match=message):
        make(GRPOTrainer, model_dir, tmp_path, trl_reward("verifiable"), data, "#### 5").train()
    stream = data.to_iterable_dataset()
    assert isinstance(stream, IterableDataset)
    with pytest.raises(UserError, match=message):
        make(RLIFTrainer, model_dir, tmp_path, "verifiable", stream, "#### 5").train()


def test_the_guard_takes_the_same_gold_answers_and_names_the_row_of_another(model_dir: Path, tmp_path: Path) -> None:
    trainer = make(RLIFTrainer, model_dir, tmp_path, "self_certainty", dataset(["5", "6"]), "#### 5")
    guard = GuardCallback(trainer, dataset([0.1, 0.2], Value("float32")))
    assert [prompt.answer for prompt in guard.prompts] == ["0.1", "0.2"]
    guard = GuardCallback(trainer, [{"prompt": "1+1=", "answer": ["2", "two"]}, {"prompt": "2+2="}])
    assert [prompt.answer for prompt in guard.prompts] == [("2", "two"), None]
    with pytest.raises(UserError, match=r"^answer, row 2 of the prompts: got {} of type dict"):
        GuardCallback(trainer, [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": {}}])


def test_answers_to_evaluate_on_may_be_of_another_type_than_those_to_train_on() -> None:
    trained_on = dataset([0.1, 0.2], Value("float32"))
    (narrow, *others) = as_stored([0.10000000149011612, "1/2", 16777217, None], trained_on, "answer")
    assert str(narrow) == "0.1"
    assert others == ["1/2", 16777217, None]
