"""Column arithmetic with written steps, and a teacher who makes a stated share of mistakes.

A problem adds (or also subtracts) numbers of a few digits. Its solution works the columns from the units up, one
line a column with the carry as the last term, and ends with the GSM8K marker:

    475+868            the prompt, ended by a newline
    5+8=13
    7+6+1=14
    4+8+1=13
    #### 1343

The teacher errs in two ways. A *random* slip is a wrong sum drawn anew each time; the teacher feels it, so the line
usually ends with a question mark, and what comes after it, the answer included, goes wrong far more often. A
*systematic* error is one misconception, the same every time and never felt: in certain columns the carry is forgotten.
Either way the solution goes on from the wrong step as if it were right, down to the answer.

Everything is a function of the configuration and a seed. Training and evaluation problems are disjoint whatever the
seeds: a hash of the prompt alone decides on which side a problem falls.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from rlif.files.jsonl import write_rows
from rlif.options.checks import Between, Share, check

Split = Literal["train", "eval"]

ALPHABET = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "+", "-", "=", "?", "\n", "#### ")
"""The symbols of which every prompt and solution is made; the answer marker is one symbol."""

VERIFY_TEMPLATE = "{prompt}{completion}\n0+1\n"
"""Asks whether a solution is right, in these symbols: as a further problem, to which a right solution has the right
answer. A model that has seen a slip slips more often, so that it knows something of a solution before any training."""
VERIFY_RATINGS = ("1", "2", "9")
"""Of a right solution, a wrong one, and one without an answer: numbers that the model writes now and then when it is
asked. One that is never written could not be rewarded."""

LENGTH_INSTRUCTIONS = ("{prompt}?-{n}\n", "{prompt}?+{n}\n")
"""Ask for at most and for at least n tokens, in these symbols: a line that no problem and no solution has."""

# One problem in this many is kept for evaluation.
EVAL_FRACTION = 8
# A random slip misses the right sum by 1 to this much, either way.
_LARGEST_SLIP = 9


@dataclass(frozen=True)
class ArithmeticConfig:
    """Difficulty of the problems, and how the teacher errs."""

    operands: Annotated[int, Between(2, 9)] = 2
    """Numbers in a problem (2 to 9)."""
    digits: Annotated[int, Between(1, 18)] = 3
    """Digits of each number (1 to 18); the first is never 0."""
    subtraction: bool = False
    """Whether numbers may also be subtracted; the right answer is never negative."""
    errors: Literal["random", "systematic"] = "random"
    """"random": a wrong sum, drawn anew each time. "systematic": a carry forgotten, always in the same columns."""
    error_rate: Share = 0.15
    """Random: share of wrong steps before the first slip. Systematic: share of carries forgotten, in tenths."""
    doubt_rate: Share = 0.9
    """Share of random slips that the teacher marks with a question mark."""
    shaken_error_rate: Share = 0.9
    """Share of wrong steps, and of wrongly assembled answers, after the first random slip."""

    def validate(self) -> None:
        """Check every value.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        check(self)


class Problem(NamedTuple):
    """Signed numbers to add up."""

    terms: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """The problem as the model sees it, ended by a newline."""
        first, *rest = self.terms
        return f"{first}{''.join(f'{term:+d}' for term in rest)}\n"

    @property
    def answer(self) -> str:
        """The right answer, as decimal digits."""
        return str(sum(self.terms))


def split_of(prompt: str) -> Split:
    """Return the side on which a problem falls: a function of its prompt only."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
    return "eval" if int.from_bytes(digest, "big") % EVAL_FRACTION == 0 else "train"


def problems(config: ArithmeticConfig, split: Split, seed: int) -> Iterator[Problem]:
    """An endless stream of problems of one split, drawn independently (so it may repeat itself).

    Raises:
        UserError: a bad value in the configuration.
    """
    config.validate()
    rng = random.Random(f"problems/{split}/{seed}")
    smallest, largest = 10 ** (config.digits - 1), 10**config.digits - 1
    while True:
        terms = [rng.randint(smallest, largest) for _ in range(config.operands)]
        if config.subtraction:
            terms[1:] = [rng.choice((term, -term)) for term in terms[1:]]
        problem = Problem(tuple(terms))
        if sum(terms) >= 0 and split_of(problem.prompt) == split:
            yield problem


def solution(problem: Problem) -> str:
    """Return the right solution, worked out column by column."""
    return teacher_solution(problem, ArithmeticConfig(error_rate=0.0), random.Random(0))


def teacher_solution(problem: Problem, config: ArithmeticConfig, rng: random.Random) -> str:
    """Return the imperfect teacher's solution: steps go wrong as `config` says, and the next ones start from them."""
    width = max(len(str(abs(term))) for term in problem.terms)
    lines, result, carry, slipped = [], 0, 0, False
    for column in range(width):
        digits = [_digit(term, column) for term in problem.terms]
        mark = ""
        if config.errors == "systematic":
            if _forgets_carry(digits, config.error_rate):
                carry = 0
            written = sum(digits) + carry
        else:
            written = sum(digits) + carry
            if rng.random() < (config.shaken_error_rate if slipped else config.error_rate):
                slipped = True
                written = _slip(written, rng, negative_allowed=config.subtraction)
                mark = "?" if rng.random() < config.doubt_rate else ""
        first, *rest = [*digits, carry] if carry else digits
        lines.append(f"{first}{''.join(f'{digit:+d}' for digit in rest)}={written}{mark}\n")
        # Floor division: a column below zero leaves a digit of 0 to 9 and borrows from the next.
        carry, digit = divmod(written, 10)
        result += digit * 10**column
    result += carry * 10**width
    if slipped and rng.random() < config.shaken_error_rate:
        length = len(str(abs(result)))
        result = rng.randrange(10 ** (length - 1), 10**length)
    return f"{''.join(lines)}#### {result}"


def teacher_solutions(config: ArithmeticConfig, seed: int, split: Split = "train") -> Iterator[tuple[str, str]]:
    """Yield an endless stream of (prompt, teacher's solution) to pretrain on."""
    rng = random.Random(f"teacher/{split}/{seed}")
    for problem in problems(config, split, seed):
        yield problem.prompt, teacher_solution(problem, config, rng)


def write_jsonl(path: Path, config: ArithmeticConfig, split: Split, count: int, seed: int) -> None:
    """Write `count` problems, one JSON object a line with `prompt` and the right `answer`."""
    rows = ({"prompt": problem.prompt, "answer": problem.answer} for problem in problems(config, split, seed))
    write_rows(path, islice(rows, count))


def _digit(term: int, column: int) -> int:
    digit = abs(term) // 10**column % 10
    return digit if term >= 0 else -digit


def _forgets_carry(digits: list[int], share: float) -> bool:
    # The last digit of a column's own sum is spread almost evenly over 0 to 9, which makes it a dial for the share.
    return sum(digits) % 10 < 10 * share


def _slip(right: int, rng: random.Random, negative_allowed: bool) -> int:
    while True:
        wrong = right + rng.choice((-1, 1)) * rng.randint(1, _LARGEST_SLIP)
        if wrong >= 0 or negative_allowed:
            return wrong


def completion_length(task: ArithmeticConfig) -> int:
    """Tokens that hold every solution of the teacher's, and half as many again for a policy that goes astray."""
    # A column: its digits and their signs, a carry with its sign, "=", a sum of up to three symbols, "?", a line break.
    column = 2 * task.operands + 2 + 1 + 3 + 1 + 1
    # The marker, a sign, the digits and a carry, the end.
    answer = 1 + 1 + task.digits + 1 + 1
    return (task.digits * column + answer) * 3 // 2
