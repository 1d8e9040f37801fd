"""Tokens of LaTeX and plain mathematics, and a place among them."""

from __future__ import annotations

import re
from typing import NamedTuple

from rlif.answers.notation import UnreadableError

# Of functions of one argument; values.py computes them.
FUNCTIONS = frozenset(
    [
        "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "asin",
        "acos", "atan", "ln", "log", "exp", "lg", "sqrt", "abs",
    ]
)  # fmt: skip
GREEK = frozenset(
    [
        "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota",
        "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi",
        "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega", "ell",
    ]
)  # fmt: skip
_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<mixed>\d+\s+\d+\s*/\s*\d+(?![\d.^!]))"
    r"|(?P<number>\d+(?:\.\d*)?(?:[eE][-+]?\d+(?![\d.]))?|\.\d+(?:[eE][-+]?\d+(?![\d.]))?)"
    r"|(?P<command>\\[A-Za-z]+|\\[{}%|$#&])"
    r"|(?P<word>[A-Za-z]{2,}(?![A-Za-z]))|(?P<letter>[A-Za-z])"
    r"|(?P<sign><=|>=|(?<=\s)!=|\*\*|\\\\|[-+*/^=<>()\[\]{}|,;!%&_])"
    r")",
    re.ASCII,
)
# Trees are walked by recursion.
_DEEPEST = 40


class Token(NamedTuple):
    """A sign of an answer: its kind is the name of its group above."""

    kind: str
    text: str


def tokenize(text: str) -> list[Token]:
    """Divide an answer into tokens.

    Raises:
        UnreadableError: there is a sign that no grammar of ours knows.
    """
    tokens = []
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            raise UnreadableError(text)
        kind = match.lastgroup or ""
        tokens.append(Token(kind, match[kind]))
        place = match.end()
    return tokens


class Cursor:
    """A place among tokens, and how deep a reader of them is nested."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0

    def next(self) -> str:
        return self.tokens[self.place].text if self.place < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.place].kind if self.place < len(self.tokens) else ""

    def take(self, *texts: str) -> str:
        """The next token if it is one of these, else nothing."""
        if self.place < len(self.tokens) and self.next() in texts:
            self.place += 1
            return self.tokens[self.place - 1].text
        return ""

    def expect(self, *texts: str) -> str:
        taken = self.take(*texts)
        if not taken:
            raise UnreadableError(self.next())
        return taken

    def expect_end(self) -> None:
        if self.place < len(self.tokens):
            raise UnreadableError(self.next())

    def go_deeper(self) -> None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UnreadableError("nested too deeply")

    def take_group(self, inner: str) -> bool:
        texts = [token.text for token in self.tokens[self.place : self.place + 3]]
        if texts == ["{", inner, "}"]:
            self.place += 3
            return True
        return False
