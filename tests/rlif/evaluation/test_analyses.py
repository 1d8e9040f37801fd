"""The confidence of an answer is the mean over its own analysis and others that are drawn behind the same answer."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlif.evaluation import analyses
from rlif.evaluation.command import run as run_eval
from rlif.evaluation.options import EvalConfig
from rlif.files.jsonl import read_rows
from rlif.rollouts.encode import EncodedPrompt, pad_left
from rlif.rollouts.rollout import Rollout
from tiny_models import PAD, make_tokenizer

TOKENIZER = make_tokenizer(string.printable)
PROMPT = TOKENIZER("3+4=")["input_ids"]
ANSWERED = "a</think><answer>7</answer>"
LONG = "aaaa</think><answer>11</answer>"


def analysis(confidence: object) -> str:
    return f"<analysis>x</analysis><confidence>{confidence}</confidence>"


def rollout_of(prompts: list[list[int]], texts: list[str]) -> Rollout:
    ids = [TOKENIZER(text)["input_ids"] for text in texts]
    length = max(map(len, ids))
    padded = torch.tensor([[*each, *[PAD] * (length - len(each))] for each in ids])
    mask = torch.tensor([[True] * len(each) + [False] * (length - len(each)) for each in ids])
    prompt_ids, prompt_mask = pad_left(prompts, PAD, torch.device("cpu"))
    count = len(texts)
    return Rollout(
        [""] * count, [None] * count, texts, prompt_ids, prompt_mask, padded, mask, torch.ones(count) > 0, count
    )


def language_model(positions: int | None) -> Any:
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=positions))
    return SimpleNamespace(tokenizer=TOKENIZER, model=SimpleNamespace(config=config))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The calls of `sample`, which answers each prompt with the analyses 0.1, 0.2, … after what it was asked."""
    calls: list[dict[str, Any]] = []

    def answer(model: object, prompts: list[EncodedPrompt], *, num_generations: int, **more: Any) -> Rollout:
        calls.append({"texts": [TOKENIZER.decode(each.ids) for each in prompts], "count": num_generations} | more)
        texts = [analysis(round(0.1 * (number + 1), 1)) for _ in prompts for number in range(num_generations)]
        return rollout_of([each.ids for each in prompts for _ in range(num_generations)], texts)

    monkeypatch.setattr(analyses, "sample", answer)
    return calls


def mean_confidences(texts: list[str], *, positions: int | None = None, **changes: Any) -> list[float]:
    settings = {"analyses": 3, "max_completion_length": 200, "temperature": 0.7} | changes
    rollout = rollout_of([PROMPT] * len(texts), texts)
    seeds = [(5, row) for row in range(len(texts))]
    return analyses.mean_confidences(language_model(positions), rollout, seeds=seeds, **settings)


def test_the_mean_is_over_the_own_analysis_and_those_that_are_drawn(drawn: list[dict[str, Any]]) -> None:
    found = mean_confidences([ANSWERED + analysis("90%"), "no answer", ANSWERED + "<analysis>", LONG + analysis(0.6)])
    assert found == pytest.approx([(0.9 + 0.1 + 0.2) / 3, 0.0, (0.1 + 0.2) / 2, (0.6 + 0.1 + 0.2) / 3])
    # Two rows of analyses each for two completions at a time: as many rows as there were completions.
    assert [call["texts"] for call in drawn] == [["3+4=" + ANSWERED] * 2, ["3+4=" + LONG]]
    assert [call["seeds"] for call in drawn] == [[(5, 0), (5, 2)], [(5, 3)]]
    assert all(call["count"] == 2 and call["temperature"] == 0.7 for call in drawn)


def test_an_analysis_has_the_room_that_its_completion_had(drawn: list[dict[str, Any]]) -> None:
    whole = len(ANSWERED + analysis(0.1))
    texts = [ANSWERED, LONG, ANSWERED, LONG]
    assert mean_confidences(texts, analyses=2, max_completion_length=whole) == pytest.approx([0.1, 0, 0.1, 0])
    assert [call["max_completion_length"] for call in drawn] == [len(analysis(0.1))]


def test_no_analysis_goes_beyond_the_positions_of_the_model(drawn: list[dict[str, Any]]) -> None:
    whole = len(LONG + analysis(0.1))
    mean_confidences([ANSWERED, LONG], analyses=2, max_completion_length=whole, positions=len(PROMPT) + whole)
    ends = [max(len(text) for text in call["texts"]) + call["max_completion_length"] for call in drawn]
    assert ends == [len(PROMPT) + whole] * 2


def test_the_command_keeps_the_mean_as_a_score(make_eval: Callable[..., EvalConfig], tmp_path: Path) -> None:
    run_eval(make_eval(analyses=3))
    rows = read_rows(tmp_path / "out" / "completions.jsonl")
    # A random model writes no tags.
    assert [row["scores"]["verbalized_mean"] for row in rows] == [[0.0] * 4] * 6
