"""Completions of a file that a model is to verify, whoever wrote them: held to the prompts of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Any

from rlif.answers.extract import AnswerStyle
from rlif.data.tables import read_file, shorten
from rlif.errors import UserError
from rlif.evaluation.completions import COMPLETIONS_COLUMNS, VERIFICATION, completion_row, read_completions, rounded
from rlif.files.jsonl import Row
from rlif.rollouts.encode import EncodedPrompt

# What is kept of the completions of a file, and of which types it is. Numbers of JSON are read as decimals.
KEPT_OF_EACH: dict[str, tuple[type, ...]] = {"tokens": (int, Decimal, NoneType), "finished": (bool, NoneType)}


def with_golds(path: Path, prompts: Sequence[EncodedPrompt], answer_style: AnswerStyle) -> list[EncodedPrompt]:
    """Give prompts without a gold answer that of a file of completions, if it has one.

    Raises:
        UserError: see `read_completions`; the file has another number of prompts.
    """
    # Whose errors name what is wrong; of verifications there will be others.
    golds = read_completions(path, answer_style=answer_style, without_verifications=True).golds
    if len(golds) != len(prompts):
        raise UserError(
            f"completions: {path} has {len(golds)} prompts, but the data has {len(prompts)}; expected those of the "
            "data, in its order"
        )
    return [
        prompt._replace(answer=gold) if prompt.answer is None else prompt
        for prompt, gold in zip(prompts, golds, strict=True)
    ]


def read_completed(path: Path, prompts: Sequence[EncodedPrompt]) -> list[Row]:
    """Read the completions of prompts from a file that `with_golds` has read, for a model to verify them.

    Returns:
        a row for each prompt, as `completion_row` makes it, with the prompt's own gold answer and the file's scores but
        for those of verifications.

    Raises:
        UserError: the file has answers in place of texts, other prompts, or `tokens` or `finished` of another form.
    """
    rows = read_file(path, argument="completions", columns=COMPLETIONS_COLUMNS)
    made = []
    for (where, values), prompt in zip(rows, prompts, strict=True):
        place = f"completions: {path}, {where}"
        if not _completes(values["prompt"], prompt):
            texts = (values["prompt"], prompt.text)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
            came, expected = (repr(text[max(0, same - 20) : same + 40]) for text in texts)
            raise UserError(
                f"{place} has another prompt than the data, {came} for {expected} from character {max(0, same - 20)} "
                "on; expected the prompts of the data, in its order"
            )
        if values.get("completions") is None:
            raise UserError(f"{place} has answers alone; expected `completions`, to be verified")
        more = {name: _of_each(values, name, kinds, place) for name, kinds in KEPT_OF_EACH.items() if name in values}
        made.append(completion_row(prompt.text, prompt.answer, values["completions"], kept_scores(values), **more))
    return made


def _completes(text: str, prompt: EncodedPrompt) -> bool:
    """Whether a prompt of a file is this one; another model's chat template may stand around what was asked."""
    if isinstance(prompt.content, str) or prompt.content is None:
        asked = prompt.content
    else:
        asked = str(prompt.content[-1]["content"])
    return text == prompt.text or (asked != prompt.text and bool(asked) and str(asked).strip() in text)


def kept_scores(values: Mapping[str, Any]) -> dict[str, list[float]]:
    """The scores of a row, without that of verifications."""
    scores = values.get("scores") or {}
    return {name: rounded(map(float, each)) for name, each in scores.items() if name != VERIFICATION}


def _of_each(values: Mapping[str, Any], name: str, kinds: tuple[type, ...], place: str) -> list[Any] | None:
    """A list with a value for each completion of a row; None where it has none.

    Raises:
        UserError: it is another one.
    """
    found, count = values[name], len(values["completions"])
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != count or not all(isinstance(each, kinds) for each in found):
        came = shorten(str(found))
        what = "true or false" if bool in kinds else "a number"
        raise UserError(f"{place} has `{name}` {came}, expected a list of {count}, each {what} or null")
    return [int(each) if isinstance(each, Decimal) else each for each in found]
