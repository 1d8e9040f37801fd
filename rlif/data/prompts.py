"""Prompts with their gold answers, and the order in which training meets them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rlif.answers.extract import AnswerStyle
from rlif.answers.gold import gold_answer
from rlif.answers.matching import GoldAnswer
from rlif.data.tables import read_table, shorten
from rlif.doing import doing
from rlif.errors import UserError
from rlif.options.groups import ReadingOptions

Item = TypeVar("Item")
Message = Mapping[str, object]


@dataclass(frozen=True)
class Prompt:
    """A prompt, and its gold answer where the data has one."""

    content: str | Sequence[Message]
    """Text, verbatim, or a conversation: messages with `role` and `content`, to go through a chat template."""
    answer: GoldAnswer | None = None
    where: str = field(default="", compare=False)
    """Where the prompt was read: "line 3" of a file, "row 3" of a table."""


def read_with_options(
    options: ReadingOptions,
    data: str,
    split: str | None,
    *,
    argument: str = "data",
    need_answers: bool = False,
    default_split: str | None = None,
) -> list[Prompt]:
    """`read_prompts` as a command's options say."""
    return read_prompts(
        data,
        argument=argument,
        need_answers=need_answers,
        prompt_column=options.prompt_column,
        answer_column=options.answer_column,
        data_config=options.data_config,
        split=split,
        default_split=default_split,
    )


@doing("reading prompts")
def read_prompts(
    data: str | Path,
    *,
    argument: str = "data",
    need_answers: bool = False,
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    data_config: str | None = None,
    split: str | None = None,
    default_split: str | None = None,
) -> list[Prompt]:
    """Read prompts from a file, a directory or the Hugging Face hub, or make word problems.

    The prompt is a non-empty text or a conversation, the answer a text, a number, true or false, or a list of those
    that are right (`rlif.answers.gold`), or left out. Blank lines are skipped and other columns ignored. A gold answer
    that is a whole solution (GSM8K's `… #### 72`, MATH's `… \\boxed{72}`) is reduced to the final answer.

    Args:
        data: a JSONL, JSON, CSV, TSV or Parquet file, a directory of them, a hub id, or
            "word_problems:level=2,n=256" (`rlif.tasks.word_problems`).
        argument: "data" or "eval_data", for error messages and for the split to choose.
        need_answers: every row must have an answer.
        prompt_column: the column of prompts.
        answer_column: the column of answers; one that is not "answer" must be there.
        data_config: configuration (subset) of a hub dataset.
        split: of a directory or a hub dataset, or a slice of one. None: the only one, or `default_split`.
        default_split: see `split`. None: "train", "test" of `eval_data`.

    Raises:
        UserError: naming `argument`, the file and, where one is at fault, the line or the row.
    """
    default = default_split or ("test" if argument == "eval_data" else "train")
    rows = read_table(
        data,
        argument=argument,
        columns=(prompt_column, answer_column),
        config=data_config,
        split=split,
        default=default,
    )
    prompts = []
    columns: dict[str, None] = {}
    for where, values in rows:
        columns |= dict.fromkeys(values)
        place = f"{argument}: {data}, {where}"
        content = _content(values, prompt_column, place)
        answer = _answer(values.get(answer_column), answer_column, place)
        if answer is None and need_answers:
            unit = where.split()[-2]  # "line 3", or "part.csv, line 3" in a directory
            raise UserError(f"{place}: no `{answer_column}`, which a reward needs in every {unit}")
        prompts.append(Prompt(content, answer, where))
    if not prompts:
        raise UserError(f"{argument}: {data} is empty, expected at least one row with a `{prompt_column}`")
    if answer_column != "answer" and answer_column not in columns:
        raise UserError(f"answer_column: got {answer_column!r}, expected a column of {data}: {', '.join(columns)}")
    return prompts


def answer_style_of(prompts: Sequence[Prompt], *, chat: bool, system_prompt: str | None) -> AnswerStyle:
    """Say where the answers to prompts are looked for unless told: in prose too if they go through a chat template."""
    is_chat = chat or system_prompt is not None or any(not isinstance(prompt.content, str) for prompt in prompts)
    return "lenient" if is_chat else "strict"


def shuffled_epochs(items: Sequence[Item], seed: int) -> Iterator[Item]:
    """Yield every item once in a random order, then all again in another, without end. The seed fixes the order."""
    order = list(items)
    generator = random.Random(seed)
    while True:
        generator.shuffle(order)
        yield from order


def _content(values: Mapping[str, object], column: str, place: str) -> str | list[Message]:
    if column not in values:
        came = shorten(json.dumps(values, default=str, ensure_ascii=False))
        columns = ", ".join(values) or "none"
        raise UserError(f"{place}: got no `{column}` in {came}; the columns are {columns} (prompt_column picks one)")
    content = values[column]
    if isinstance(content, list) and content and all(isinstance(message, dict) for message in content):
        for message in content:
            if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
                came = shorten(json.dumps(message, default=str))
                raise UserError(f"{place}: got the message {came}, expected `role` and `content`, both text")
            check_encodable(message["content"], column, place)
        if content[-1]["role"] == "assistant":
            raise UserError(f"{place}: got a conversation that ends with the assistant, expected the user's turn last")
        return content
    if not isinstance(content, str) or not content:
        came = shorten(json.dumps(content, default=str))
        raise UserError(f"{place}: got `{column}` {came}, expected a non-empty string or a list of messages")
    check_encodable(content, column, place)
    return content


def check_encodable(text: str, column: str, place: str) -> None:
    """Find fault with text from JSON that no file in UTF-8 could hold.

    Raises:
        UserError: it has half a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: got a `{column}` with half a surrogate pair, expected text that UTF-8 can hold"
        ) from error


def _answer(answer: object, column: str, place: str) -> GoldAnswer | None:
    for each in answer if isinstance(answer, list) else [answer]:
        if isinstance(each, float) and math.isinf(each):
            raise UserError(f"{place}: got `{column}` {each}, expected a string or a finite number")
        if isinstance(each, str):
            check_encodable(each, column, place)
    try:
        return gold_answer(answer)
    except TypeError as error:
        came = shorten(json.dumps(answer, default=str))
        expected = "a string, a number, true or false, or a list of those that are right"
        raise UserError(f"{place}: got `{column}` {came}, expected {expected}") from error
