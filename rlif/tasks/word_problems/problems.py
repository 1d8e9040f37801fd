"""Word problems as a stream, as rows of data, and as a file.

    word_problems:level=3,n=256,seed=0,split=train,shots=0

names as many, wherever a command takes data. A level is a number of steps and a size of numbers:

    level          1      2      3      4      5      6      7      8
    steps          1      1      2      2      3      3      4      4
    numbers        small  large  small  large  small  large  small  large

Small numbers are mostly those of a times table, and money is whole dollars. Large ones have two or three digits, money
has quarters, fractions have several parts, and where a template has an aside, which has nothing to do with the
question, about every second of its problems tells it. Every quantity is one that can be: people, things and changes are
whole and not negative.

Everything is a function of level, split and seed; the first problems are the same whatever n. Templates come equally
often. A template is of one split only, so that no problem of "test" has the form of one of "train".
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from rlif.errors import UserError
from rlif.files.jsonl import write_rows
from rlif.options.checks import Between, check
from rlif.options.groups import Seed
from rlif.tasks.word_problems import four_steps, one_step, three_steps, two_steps
from rlif.tasks.word_problems.drawing import Draft, Draw, Template

NAME = "word_problems"
_MODULES = (one_step, two_steps, three_steps, four_steps)
TEMPLATES: dict[tuple[int, str], tuple[Template, ...]] = {
    (steps, split): templates
    for steps, module in enumerate(_MODULES, start=1)
    for split, templates in (("train", module.TRAIN), ("test", module.TEST))
}
"""By number of steps and split."""
# A template that draws nothing new so often in turn has no more to draw.
_TRIES = 100
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:/\d+)?")

Split = Literal["train", "test"]


@dataclass(frozen=True)
class WordProblemConfig:
    """Which word problems, and how many."""

    level: Annotated[int, Between(1, 2 * len(_MODULES))] = 1
    """Difficulty: levels 2s - 1 and 2s have s steps, with small and with large numbers."""
    n: Annotated[int, Between(1, 100_000)] = 256
    """Number of problems."""
    seed: Seed = 0
    """Seed of what is drawn."""
    split: Split = "train"
    """Templates to train with, or those kept for testing."""
    shots: Annotated[int, Between(0, 8)] = 0
    """Solved problems before each, as earlier turns of a conversation: they show a chat model the form of an answer.
    They are the same before all problems, of the same level, and of templates to train with whatever the split."""

    @property
    def steps(self) -> int:
        return (self.level + 1) // 2

    @property
    def large(self) -> bool:
        return self.level % 2 == 0


@dataclass(frozen=True)
class WordProblem:
    """A problem with its gold answer and a worked solution."""

    prompt: str
    """The question, without an instruction how to answer."""
    answer: str
    """A plain number, or a fraction in lowest terms; in the unit that the question asks for, without its name."""
    solution: str
    """One sentence with one equation a step, then "#### " and the answer on the last line."""
    level: int
    template: str


def word_problems(config: WordProblemConfig) -> Iterator[WordProblem]:
    """Yield `config.n` problems. None comes twice, until a template has drawn nothing new a hundred times.

    Raises:
        UserError: a bad value in the configuration.
    """
    check(config)
    shots = {shot.prompt for shot in _shots(config)}
    generator = random.Random(f"{NAME}/{config.level}/{config.split}/{config.seed}")
    return islice(_stream(config, TEMPLATES[config.steps, config.split], generator, shots), config.n)


def word_problem_rows(config: WordProblemConfig) -> Iterator[dict[str, Any]]:
    """Yield problems as rows of data: the fields of `WordProblem`, the prompt a conversation where there are shots.

    Raises:
        UserError: a bad value in the configuration.
    """
    turns = [
        {"role": role, "content": content}
        for shot in _shots(config)
        for role, content in (("user", shot.prompt), ("assistant", shot.solution))
    ]
    for problem in word_problems(config):
        prompt = [*turns, {"role": "user", "content": problem.prompt}] if turns else problem.prompt
        yield asdict(problem) | {"prompt": prompt}


def write_jsonl(path: Path, config: WordProblemConfig) -> None:
    """Write problems, one row a line.

    Raises:
        UserError: a bad value in the configuration, or the file cannot be written.
    """
    write_rows(path, word_problem_rows(config), argument="path")


def is_spec(data: str) -> bool:
    """Tell whether text is the name of word problems, with options or without."""
    return data.partition(":")[0] == NAME


def read_spec(spec: str, *, argument: str, split: str | None, default_split: str) -> WordProblemConfig:
    """Read what `--data word_problems:level=2,n=256` asks for.

    Args:
        spec: "word_problems", or that with a colon and options, separated by commas.
        argument: that the spec came by, for error messages.
        split: asked for beside the spec; None: none was.
        default_split: where neither names one.

    Raises:
        UserError: an unknown option, one given twice, or a value that cannot be.
    """
    place = f"{argument}: {NAME}: "
    names = [field.name for field in fields(WordProblemConfig)]
    values: dict[str, int | str] = {}
    for item in spec.partition(":")[2].split(",") if ":" in spec else ():
        name, equals, value = (part.strip() for part in item.partition("="))
        if name not in names or not equals:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}=…?" if near else ""
            raise UserError(f"{place}got {item!r}, expected {', '.join(f'{each}=…' for each in names)}{hint}")
        if name in values:
            raise UserError(f"{place}{name}: got it twice, expected it once")
        values[name] = int(value) if name != "split" and re.fullmatch(r"-?[0-9]{1,20}", value) else value
    if split is not None and "split" in values:
        option = "eval_split" if argument == "eval_data" else "split"
        raise UserError(f"{option}: got {split!r} beside {spec!r}, which names its split; expected one of them")
    values.setdefault("split", split or default_split)
    config = WordProblemConfig(**values)  # type: ignore[arg-type] # the types are what is checked next
    check(config, prefix=place)
    return config


def _shots(config: WordProblemConfig) -> list[WordProblem]:
    check(config)
    generator = random.Random(f"{NAME}/shots/{config.level}/{config.seed}")
    return list(islice(_stream(config, TEMPLATES[config.steps, "train"], generator, set()), config.shots))


def _stream(
    config: WordProblemConfig, templates: tuple[Template, ...], generator: random.Random, seen: set[str]
) -> Iterator[WordProblem]:
    """Yield problems without end; none is one of the questions seen, which become more."""
    draw = Draw(generator, large=config.large)
    order = list(templates)
    while True:
        generator.shuffle(order)
        for template in order:
            draft = _new_draft(template, draw, seen)
            seen.add(draft.question)
            solution = "\n".join([*draft.steps, f"#### {draft.answer}"])
            yield WordProblem(draft.question, draft.answer, solution, config.level, template.__name__)


def _new_draft(template: Template, draw: Draw, seen: set[str]) -> Draft:
    """Draw until the question is a new one, if there are any, and does not hold its own answer."""
    tries = 0
    while True:
        draft = template(draw)
        tries += 1
        if not _tells_answer(draft) and (draft.question not in seen or tries > _TRIES):
            return draft


def _tells_answer(draft: Draft) -> bool:
    """Whether the answer is among the numbers of the question: who repeats one of them would be right."""
    numbers = (Fraction(number.replace(",", "")) for number in _NUMBER.findall(draft.question))
    return Fraction(draft.answer) in numbers
