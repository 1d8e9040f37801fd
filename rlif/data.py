"""Prompts from a JSONL file, and the order in which training meets them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, TypeVar

from rlif.answers import extract_answer
from rlif.errors import UserError

T = TypeVar("T")


class Prompt(NamedTuple):
    """A prompt, verbatim, and its gold answer where the file has one."""

    text: str
    answer: str | None = None


def read_prompts(path: Path, *, argument: str = "data", need_answers: bool = False) -> list[Prompt]:
    """Read a JSONL file of objects with `prompt` (a non-empty string) and optionally `answer` (a string or a number).

    Blank lines are skipped and other keys ignored. A gold answer that is a whole solution (GSM8K's `… #### 72`) is
    reduced to the final answer.

    Raises:
        UserError: naming `argument`, the file and, where one is at fault, the line.
    """
    if not path.is_file():
        raise UserError(
            f"{argument}: got {str(path)!r}, which is not a file; expected JSONL with `prompt` in each line"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{argument}: {path} is not UTF-8 text: {error}") from error
    prompts = [
        _parse(line, f"{argument}: {path}, line {number}", need_answers)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not prompts:
        raise UserError(f"{argument}: {path} is empty, expected at least one line with a `prompt`")
    return prompts


def _parse(line: str, where: str, need_answers: bool) -> Prompt:
    try:
        # Numbers as they are written: a float would turn 0.00001 into 1e-05.
        row = json.loads(line, parse_int=Decimal, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: got {_shorten(line)}, expected a JSON object ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: got {_shorten(line)}, expected a JSON object with a `prompt`")
    text = row.get("prompt")
    if not isinstance(text, str) or not text:
        came = (
            f"`prompt` {_shorten(json.dumps(text, default=str))}"
            if "prompt" in row
            else f"no `prompt` in {_shorten(line)}"
        )
        raise UserError(f"{where}: got {came}, expected a non-empty string")
    if not _encodable(text):
        raise UserError(f"{where}: got a `prompt` with half a surrogate pair, expected text that UTF-8 can hold")
    answer = row.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | Decimal | None):
        came = _shorten(json.dumps(answer, default=str))
        raise UserError(f"{where}: got `answer` {came}, expected a string or a number")
    gold = format(answer, "f") if isinstance(answer, Decimal) else (answer or "").strip()
    gold = extract_answer(gold) or gold
    if not gold or gold == "####":
        if need_answers:
            raise UserError(f"{where}: no `answer`, which the verifiable reward needs in every line")
        return Prompt(text)
    return Prompt(text, gold)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shuffled_epochs(items: Sequence[T], seed: int) -> Iterator[T]:
    """Every item once in a random order, then all of them again in another, without end. The seed fixes the order."""
    order = list(items)
    generator = random.Random(seed)
    while True:
        generator.shuffle(order)
        yield from order
