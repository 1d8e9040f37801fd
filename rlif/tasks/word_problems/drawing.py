"""What a template draws its names and numbers from, and what it returns."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeVar

from rlif.tasks.word_problems.english import PEOPLE, Person

Item = TypeVar("Item")
Range = tuple[int, int]
# Of large problems whose template has an aside, one in so many tells it.
_ASIDES = 2


class Draft(NamedTuple):
    """A question with its worked solution."""

    question: str
    steps: tuple[str, ...]
    """Sentences, each with one equation, in the order in which they are worked."""
    answer: str
    """As a plain number or a fraction in lowest terms, without a unit."""


class Draw:
    """Draws for one problem. Equal generators draw the same."""

    def __init__(self, generator: random.Random, *, large: bool) -> None:
        """Draw from a generator.

        Args:
            generator: is drawn from, in the order in which the template asks.
            large: whether numbers are large, and a problem may tell what has nothing to do with the question.
        """
        self.generator, self.large = generator, large

    def pick(self, items: Sequence[Item]) -> Item:
        return self.generator.choice(items)

    def picks(self, items: Sequence[Item], number: int) -> list[Item]:
        """Return several different items."""
        return self.generator.sample(items, number)

    def person(self) -> Person:
        return self.pick(PEOPLE)

    def people(self, number: int) -> list[Person]:
        return self.picks(PEOPLE, number)

    def number(self, small: Range, large: Range, *, step: int = 1) -> int:
        """Return a number of one of two ranges, both ends of which are included, and a multiple of `step`."""
        low, high = large if self.large else small
        return self.generator.randint(-(-low // step), high // step) * step

    def cents(self, small: Range, large: Range) -> int:
        """Return cents from ranges in dollars: of whole dollars in a small problem, of quarters in a large one."""
        low, high = large if self.large else small
        return 25 * self.generator.randint(4 * low, 4 * high) if self.large else 100 * self.generator.randint(low, high)

    def part(self) -> Fraction:
        """Return a fraction below one: of one part in a small problem, maybe of several in a large one."""
        below = self.pick((2, 3, 4, 5)) if self.large else self.pick((2, 3, 4))
        return Fraction(self.generator.randint(1, below - 1) if self.large else 1, below)

    def percent(self) -> int:
        return self.pick((5, 15, 20, 30, 40, 60, 75) if self.large else (10, 25, 50))

    def aside(self, *sentences: str) -> str:
        """Return one of the sentences and a space, or nothing: it has nothing to do with the question."""
        told = self.large and self.generator.randrange(_ASIDES) == 0
        return f"{self.pick(sentences)} " if told else ""


Template = Callable[[Draw], Draft]


def draft(question: str, *steps: str, answer: int | str | Fraction) -> Draft:
    return Draft(question, steps, str(answer))
