"""Preferences between two prompts of one completion, by whose length instruction it keeps (Rc-BT, arXiv 2502.00814).

A pair of a prompt x, with y_chosen preferred to y_rejected, becomes three comparisons:

| comparison | is preferred to | since |
| --- | --- | --- |
| x, y_chosen | x, y_rejected | the pair says so |
| x, y_chosen | x and an instruction that y_chosen breaks, y_chosen | a good completion is worse where it disobeys |
| x and an instruction that y_rejected keeps, y_rejected | x, y_rejected | a bad one is better where it obeys |

In the last two the completion is the same on both sides, so that its length alone decides neither. An instruction says
"n or less" or "n or more", half of each: if all said one, an instructed completion would be the better the shorter, or
the longer, whatever n is. n is the length of the completion itself, less or more a tenth to a half of it at random.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlif.data.prompts import Prompt, check_encodable
from rlif.errors import UserError
from rlif.files.jsonl import Row
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import encode_prompt, max_prompt_length
from rlif.scoring.sequences import Ids
from rlif.self_feedback.options import LengthOptions, LengthUnit, SelfFeedbackConfig
from rlif.self_feedback.rank import Pair, pair_of, preference_rows, text_of

Direction = Literal["less", "more"]
DIRECTIONS: tuple[Direction, Direction] = ("less", "more")
# By which share of the completion's length n differs from it, from the least to the most.
OFFSET = (0.1, 0.5)
# Columns of preferences.jsonl.
BROKEN, KEPT = "broken_prompt", "kept_prompt"
_PLACE = re.compile(r"\{(prompt|n)\}")


class Instruction(NamedTuple):
    """How long a completion is to be."""

    direction: Direction
    n: int

    def kept_by(self, length: int) -> bool:
        """Tell whether a completion of this length obeys."""
        return length <= self.n if self.direction == "less" else length >= self.n


@dataclass(frozen=True)
class ConditionedPair(Pair):
    """A preference pair with the two prompts that it is compared under beside its own."""

    broken_prompt_ids: list[int]
    """The prompt with an instruction that the chosen completion breaks."""
    kept_prompt_ids: list[int]
    """The prompt with an instruction that the rejected completion keeps."""

    def sequences(self) -> list[tuple[Ids, Ids]]:
        """Prompt and completion of the pair, and then of the chosen one that disobeys and the rejected one that obeys.

        The pair's own stand side by side, since they share their prompt.
        """
        return [
            *super().sequences(),
            (self.broken_prompt_ids, self.chosen_ids),
            (self.kept_prompt_ids, self.rejected_ids),
        ]


def length_of(text: str, ids: Sequence[int], unit: LengthUnit) -> int:
    """Measure a completion in words, which white space parts, in characters, or in tokens with the end."""
    return len(ids) if unit == "tokens" else len(text) if unit == "characters" else len(text.split())


def draw_instruction(length: int, direction: Direction, *, kept: bool, draw: random.Random) -> Instruction:
    """Draw an instruction that a completion of this length keeps, or breaks.

    The direction is the other one where n would have to be below 1: nobody breaks "1 or more" with a word.
    """
    low, high = (max(1, math.ceil(share * length)) for share in OFFSET)
    offset = draw.randint(low, max(low, high))
    below = (direction == "less") != kept
    if below and length - offset < 1:
        below, direction = False, "less" if direction == "more" else "more"
    return Instruction(direction, length - offset if below else length + offset)


def balanced_directions(count: int, draw: random.Random) -> list[Direction]:
    """Return directions in a random order, as many of each as of the other, but for one perhaps."""
    directions = [DIRECTIONS[number % 2] for number in range(count)]
    draw.shuffle(directions)
    return directions


def with_instruction(content: Any, instruction: Instruction, templates: tuple[str, str]) -> Any:
    """Return a prompt with an instruction in it: text, or a conversation whose last message has it.

    Args:
        content: text, or messages.
        instruction: to put in.
        templates: of "n or less" and of "n or more", with {prompt} and {n}.
    """
    if not isinstance(content, str):
        *before, last = content
        return [*before, last | {"content": with_instruction(last["content"], instruction, templates)}]
    filled = {"prompt": content, "n": str(instruction.n)}
    # In one pass: what stands in a prompt is no place.
    return _PLACE.sub(lambda place: filled[place[1]], templates[DIRECTIONS.index(instruction.direction)])


def condition(
    rows: Sequence[Row], ids: Sequence[tuple[Ids, Ids]], options: LengthOptions, *, seed: int, file: str
) -> list[Row]:
    """Add the columns `broken_prompt` and `kept_prompt` to rows of preferences.

    Args:
        rows: with `prompt`, `chosen` and `rejected`.
        ids: of each row's chosen and rejected completion.
        options: resolved.
        seed: together with the number of rows it decides what is drawn.
        file: that the rows are from, for messages.

    Raises:
        UserError: a row has no prompt that an instruction could be put in, or a completion that is no text.
    """
    draw = random.Random(f"length instructions {seed}")
    assert options.length_unit is not None
    assert options.length_instructions is not None
    # Apart, so that either kind has both directions.
    broken, kept = (balanced_directions(len(rows), draw) for _ in range(2))
    conditioned = []
    for number, (row, completions, *directions) in enumerate(zip(rows, ids, broken, kept, strict=True), start=1):
        place, columns = f"{file}, row {number}", {}
        _check_prompt(row["prompt"], place)
        for column, name, each, direction in zip(
            (BROKEN, KEPT), ("chosen", "rejected"), completions, directions, strict=True
        ):
            length = length_of(text_of(row[name], name, place), each, options.length_unit)
            instruction = draw_instruction(length, direction, kept=column == KEPT, draw=draw)
            columns[column] = with_instruction(row["prompt"], instruction, options.length_instructions)
        conditioned.append(row | columns)
    return conditioned


def pair_lengths(rows: Sequence[Row], ids: Sequence[tuple[Ids, Ids]], unit: LengthUnit) -> list[tuple[int, int]]:
    """Return the lengths of each row's chosen and rejected completion, given the ids of both."""
    return [
        (
            length_of(text_of(row["chosen"], "chosen", "a pair"), chosen, unit),
            length_of(text_of(row["rejected"], "rejected", "a pair"), rejected, unit),
        )
        for row, (chosen, rejected) in zip(rows, ids, strict=True)
    ]


def longer_chosen(lengths: Sequence[tuple[int, int]]) -> float | None:
    """Return the share of longer chosen completions among pairs of unlike length; None if there are none."""
    unlike = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    return sum(unlike) / len(unlike) if unlike else None


def balanced_pairs(lengths: Sequence[tuple[int, int]], seed: int) -> list[int]:
    """Choose pairs, by their places, among which the longer completion is chosen as often as the shorter.

    Of those kinds the rarer one is kept whole, and as many are drawn of the other; pairs of like length are all kept.
    """
    kinds: dict[str, list[int]] = {"longer": [], "shorter": [], "like": []}
    for place, (chosen, rejected) in enumerate(lengths):
        kinds["longer" if chosen > rejected else "shorter" if chosen < rejected else "like"].append(place)
    fewest = min(len(kinds["longer"]), len(kinds["shorter"]))
    draw = random.Random(f"balanced pairs {seed}")
    return sorted(kinds["like"] + [each for kind in ("longer", "shorter") for each in draw.sample(kinds[kind], fewest)])


def read_conditioned(
    path: Path, language_model: LanguageModel, config: SelfFeedbackConfig, *, argument: str = "output_dir"
) -> list[Pair]:
    """The pairs of a file, each a `ConditionedPair`; where the file lacks the instructed prompts, they are made.

    Args:
        path: as `read_preferences` takes it.
        language_model: that is to learn from them.
        config: resolved.
        argument: that names the file, for error messages.

    Raises:
        UserError: as `read_preferences`; or an instructed prompt cannot be written, or leaves no room.
    """
    rows, file = preference_rows(path, argument=argument), f"{argument}: {path}"
    places = [f"{file}, row {number}" for number in range(1, len(rows) + 1)]
    pairs = [pair_of(row, language_model, place) for row, place in zip(rows, places, strict=True)]
    if not all(BROKEN in row and KEPT in row for row in rows):
        ids = [(pair.chosen_ids, pair.rejected_ids) for pair in pairs]
        rows = condition(rows, ids, config.length, seed=config.seed, file=file)
    return [
        _conditioned(pair, row, language_model, config, place)
        for pair, row, place in zip(pairs, rows, places, strict=True)
    ]


def prompt_encoder(
    language_model: LanguageModel, config: SelfFeedbackConfig, *, sampled: bool
) -> Callable[[Any, str], Ids]:
    """Return what tokenizes a prompt, given with its place for messages, as those of samples or of a foreign file."""

    def encode(content: Any, where: str) -> Ids:
        return encode_prompt(
            language_model,
            Prompt(content),
            where=where,
            chat=sampled and config.chat,
            system_prompt=config.system_prompt if sampled else None,
            answer_style="strict",
        ).ids

    return encode


def check_early(language_model: LanguageModel, config: SelfFeedbackConfig, prompts: Sequence[Prompt]) -> None:
    """Find out, before anything is sampled, whether the longest prompt can hold an instruction and a completion.

    Raises:
        UserError: it cannot.
    """
    assert config.length.length_instructions is not None
    longest = max(prompts, key=lambda prompt: len(str(prompt.content)))
    encode = prompt_encoder(language_model, config, sampled=True)
    plain = encode(longest.content, "data: the longest prompt")
    for direction in DIRECTIONS:
        content = with_instruction(longest.content, Instruction(direction, 100), config.length.length_instructions)
        where = f"the longest prompt, with an instruction of n or {direction},"
        length = config.sample.max_completion_length
        check_instructed(plain, encode(content, where), length, language_model, where)


def check_instructed(plain: Ids, instructed: Ids, length: int, language_model: LanguageModel, where: str) -> None:
    """Find out that a prompt with an instruction says nothing of it, or leaves no room for the completion.

    Args:
        plain: the prompt without it.
        instructed: the prompt with it.
        length: of the completion, in tokens.
        language_model: that is to read it.
        where: which prompt it is, for messages.

    Raises:
        UserError: it has a token that stands for nothing known, the same tokens as without, or too many.
    """
    unknown = language_model.tokenizer.unk_token_id
    if unknown is not None and instructed.count(unknown) > plain.count(unknown):
        raise UserError(
            f"length_instructions: the tokenizer cannot write {where} with the symbols it has; expected others"
        )
    if instructed == plain:
        raise UserError(
            f"length_instructions: {where} has the same tokens as the prompt itself; expected a chat template that "
            "keeps the user's last message"
        )
    limit = max_prompt_length(language_model, length)
    if limit is not None and len(instructed) > limit:
        raise UserError(
            f"length_instructions: {where} and {length} tokens of a completion have {len(instructed) + length} tokens, "
            f"expected at most the model's {limit + length} positions"
        )


def _conditioned(
    pair: Pair, row: Row, language_model: LanguageModel, config: SelfFeedbackConfig, place: str
) -> ConditionedPair:
    _check_prompt(row["prompt"], place)
    encode = prompt_encoder(language_model, config, sampled="prompt_ids" in row)
    if encode(row["prompt"], place) != pair.prompt_ids:
        raise UserError(
            f"{place}: prompt_ids are not the tokens of the prompt, which those of instructions are compared with; "
            "expected chat and system_prompt as they were when sampling"
        )
    instructed = []
    for column, completion in ((BROKEN, pair.chosen_ids), (KEPT, pair.rejected_ids)):
        where = f"the {column} of {place}"
        _check_prompt(row[column], where)
        ids = encode(row[column], where)
        check_instructed(pair.prompt_ids, ids, len(completion), language_model, where)
        instructed.append(ids)
    return ConditionedPair(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids, pair.gap, *instructed)


def _check_prompt(content: object, where: str) -> None:
    """Hold a prompt to what an instruction can be put in.

    Raises:
        UserError: it is neither a text nor a conversation.
    """
    texts = [content] if isinstance(content, str) else None
    if isinstance(content, list) and all(isinstance(message, dict) for message in content):
        texts = [message.get(key) for message in content for key in ("role", "content")]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: got {str(content)[:40]!r}, expected a prompt: text, or messages")
    for text in texts:
        check_encodable(text, "prompt", where)
