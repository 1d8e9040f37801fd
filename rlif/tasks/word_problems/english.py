"""The words that problems are made of: people with their pronouns, nouns with their plurals, amounts of money."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple


class Person(NamedTuple):
    """Somebody with a name, and the pronouns that go with it."""

    name: str
    he: str
    his: str
    him: str
    He: str
    """The pronoun at the beginning of a sentence."""
    His: str


class Noun(NamedTuple):
    """A thing that can be counted."""

    one: str
    many: str


def _people(names: str, he: str, his: str, him: str) -> tuple[Person, ...]:
    return tuple(Person(name, he, his, him, he.capitalize(), his.capitalize()) for name in names.split())


def _nouns(words: str) -> tuple[Noun, ...]:
    """Regular nouns, separated by commas."""
    return tuple(Noun(word, f"{word}s") for word in words.split(", "))


# No name ends with an s, so that every possessive is formed with 's.
PEOPLE = _people(
    "Amara Anna Beatriz Chloe Elena Fatima Grace Hana Ingrid Julia Keiko Leila Maya Nadia Olivia Priya Rosa Sofia "
    "Tara Zoe",
    "she",
    "her",
    "her",
) + _people(
    "Adam Ben Chen Diego David Emeka Felix Hiro Ivan Jamal Kofi Liam Marco Noah Omar Pavel Ravi Samuel Theo Victor",
    "he",
    "his",
    "him",
)

KEEPSAKES = _nouns("sticker, marble, shell, stamp, button, postcard, bead, trading card, toy car, bottle cap")
FRUIT = (*_nouns("apple, orange, pear, plum, lemon, banana"), Noun("peach", "peaches"))
BAKED = _nouns("cookie, muffin, cupcake, bagel, brownie, scone")
STATIONERY = _nouns("pencil, notebook, eraser, pen, ruler, folder, marker")
CLOTHES = (*_nouns("shirt, hat, belt, sweater, cap"), Noun("scarf", "scarves"))
GOODS = _nouns("jacket, coat, lamp, chair, suitcase, backpack")
FLOWERS = (*_nouns("tulip, rose, sunflower, orchid"), Noun("daisy", "daisies"))
CONTAINERS = (*_nouns("bag, basket, crate, jar"), Noun("box", "boxes"))
COLORS = ("red", "blue", "green", "yellow", "white", "black")

_PARTS = {
    Fraction(1, 2): "half", Fraction(1, 3): "a third", Fraction(2, 3): "two thirds", Fraction(1, 4): "a quarter",
    Fraction(3, 4): "three quarters", Fraction(1, 5): "a fifth", Fraction(2, 5): "two fifths",
    Fraction(3, 5): "three fifths", Fraction(4, 5): "four fifths",
}  # fmt: skip


def part_of(fraction: Fraction) -> str:
    """Return what stands before "of": "a third", "two fifths"."""
    return _PARTS[fraction]


def count(number: int, noun: Noun) -> str:
    """Return the number and the noun in the form that goes with it: "1 box", "1,200 boxes"."""
    return f"{number:,} {noun.one if number == 1 else noun.many}"


def a(word: str) -> str:
    """Return the word behind the article that goes with its first letter, which tells the sound of all words here."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def dollars(cents: int) -> str:
    """Return an amount of money as it is written in a text: $3, $3.50, $1,200."""
    return f"${plain_dollars(cents, grouped=True)}"


def plain_dollars(cents: int, *, grouped: bool = False) -> str:
    """Return an amount of money as a number of dollars, with cents where there are any: 3, 3.50."""
    whole, rest = divmod(cents, 100)
    text = f"{whole:,}" if grouped else str(whole)
    return f"{text}.{rest:02d}" if rest else text
