r"""A grammar of answers: LaTeX and plain mathematics as a tree, without working anything out.

Nothing is evaluated here, so that `values.py` can compare values and `worked.py` can tell `12+34` from `46`. A tree is
a `Node`. What the grammar cannot read raises `UnreadableError`; ambiguous juxtaposition (`1/2\pi`, `x2`) is among it.
"""

from __future__ import annotations

from fractions import Fraction

from rlif.answers.notation import UnreadableError
from rlif.answers.tokens import FUNCTIONS, GREEK, Cursor, Token, tokenize
from rlif.answers.tree import (
    Node,
    as_mixed,
    as_scientific,
    factors_of,
    is_integer,
    is_numeric,
    number,
    read_fraction,
    read_mixed,
)

_WITH_INVERSE = ("sin", "cos", "tan")
_RELATIONS = {
    "=": "=", "<": "<", ">": ">", r"\lt": "<", r"\gt": ">", r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=",
    r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">=", "<=": "<=", ">=": ">=", r"\ne": "!=", r"\neq": "!=", "!=": "!=",
    r"\approx": "~", r"\in": "in",
}  # fmt: skip


def parse(text: str) -> Node:
    """Read a whole answer.

    Args:
        text: in the notation that `notation.one_notation` leaves.

    Raises:
        UnreadableError: it is no answer of this grammar.
    """
    parser = _Parser(tokenize(text))
    tree = parser.answers(())
    parser.expect_end()
    return tree


class _Parser(Cursor):
    """Recursive descent over tokens."""

    def answers(self, closing: tuple[str, ...]) -> Node:
        """One answer, or several between commas or words."""
        items, joined = [self.relation()], ""
        while True:
            comma, word = self.take(",", ";"), self.take("and", "or")
            if not comma and not word:
                break
            joined = word or joined
            if self.next() in closing and self.next():
                raise UnreadableError(self.next())
            items.append(self.relation())
        return items[0] if len(items) == 1 else Node("list", tuple(items), joined)

    def relation(self) -> Node:
        sides, operators = [self.union()], []
        while self.next() in _RELATIONS:
            operators.append(_RELATIONS[self.tokens[self.place].text])
            self.place += 1
            sides.append(self.union())
        return Node("relation", tuple(sides), " ".join(operators)) if operators else sides[0]

    def union(self) -> Node:
        parts = [self.sum()]
        while self.take(r"\cup"):
            parts.append(self.sum())
        return Node("union", tuple(parts)) if len(parts) > 1 else parts[0]

    def sum(self) -> Node:
        terms = [self.signed()]
        while True:
            sign = self.take("+", "-", r"\pm", r"\mp")
            if not sign:
                break
            term = self.product()
            if sign in (r"\pm", r"\mp"):
                term = Node("either", (term,), "+" if sign == r"\pm" else "-")
            terms.append(Node("negative", (term,)) if sign == "-" else term)
        return Node("sum", tuple(terms)) if len(terms) > 1 else terms[0]

    def signed(self) -> Node:
        """A product with a sign before it or not."""
        sign = self.take("+", "-", r"\pm", r"\mp")
        if not sign:
            return self.product()
        if self.next() in ("+", "-"):
            raise UnreadableError("two signs")
        term = self.product()
        if sign == "+":
            return term
        if sign == "-":
            return Node("negative", (term,))
        return Node("either", (term,), "+" if sign == r"\pm" else "-")

    def product(self) -> Node:
        result = self.juxtaposed()
        while True:
            if self.take("*", r"\cdot", r"\times", r"\ast"):
                factor = self.factor_after_sign()
                base = as_scientific(result, factor)
                result = base or Node("product", (*factors_of(result), *factors_of(factor)))
            elif self.take("/", r"\div"):
                divisor = self.power()
                if self.begins_factor():
                    # 1/2 x is half of x; 1/2 pi might be either.
                    if self.kind() != "letter" or not (is_integer(result) and is_integer(divisor)):
                        raise UnreadableError("what is divided by")
                    rest = self.juxtaposed()
                    result = Node("product", (Node("quotient", (result, divisor)), *factors_of(rest)))
                else:
                    result = Node("quotient", (result, divisor))
            else:
                return result

    def factor_after_sign(self) -> Node:
        if self.take("-"):
            return Node("negative", (self.juxtaposed(),))
        return self.juxtaposed()

    def juxtaposed(self) -> Node:
        """Factors that stand side by side: 2x, 3\\pi r, (x+1)(x-1), or the mixed number 2\\frac{1}{2}."""
        factors = [self.power()]
        while self.begins_factor():
            if self.kind() == "number":
                raise UnreadableError("a number behind a factor")
            fraction = self.next() == r"\frac"
            factor = self.power()
            mixed = as_mixed(factors[-1], factor) if fraction and len(factors) == 1 else None
            if mixed is not None:
                factors = [mixed]
            elif fraction and factors[-1].kind == "number" and is_numeric(factor):
                raise UnreadableError("a number beside a fraction")
            else:
                factors.append(factor)
        node = factors[0]
        if len(factors) > 1:
            node = Node("product", tuple(each for factor in factors for each in factors_of(factor)))
        return Node("percent", (node,)) if self.take("%", r"\%") else node

    def begins_factor(self) -> bool:
        text, kind = self.next(), self.kind()
        if kind in ("number", "letter", "mixed") or text in ("(", "{"):
            return True
        if kind == "word":
            return text not in ("and", "or")
        if kind != "command":
            return False
        name = text[1:]
        return name in FUNCTIONS or name in GREEK or name in (
            "frac", "sqrt", "pi", "binom", "infty", "lfloor", "lceil", "lvert", "{", "emptyset", "varnothing", "begin",
        )  # fmt: skip

    def power(self) -> Node:
        self.go_deeper()
        base = self.postfixed()
        if self.take("^", "**"):
            if self.take(r"\circ", r"\degree") or self.take_group(r"\circ"):
                self.depth -= 1
                return Node("degrees", (base,))
            exponent = self.exponent()
            if base.kind == "number" and base.name == "sci":
                raise UnreadableError("a power of 1e3")
            base = Node("power", (base, exponent))
            while self.take("!"):
                base = Node("factorial", (base,))
            if self.next() in ("^", "**"):
                raise UnreadableError("a power of a power")
        self.depth -= 1
        return base

    def exponent(self) -> Node:
        if self.take("{"):
            inner = self.sum()
            self.expect("}")
            return inner
        if self.take("-"):
            return Node("negative", (self.power(),))
        return self.power()

    def postfixed(self) -> Node:
        node = self.primary()
        while self.take("!"):
            node = Node("factorial", (node,))
        if self.take(r"\degree", r"\circ"):
            node = Node("degrees", (node,))
        return node

    def primary(self) -> Node:
        self.go_deeper()
        node = self.atom()
        self.depth -= 1
        return node

    def atom(self) -> Node:
        if self.place == len(self.tokens):
            raise UnreadableError("an end")
        token = self.tokens[self.place]
        self.place += 1
        if token.kind == "number":
            sci = "sci" if "e" in token.text.lower() else ""
            return Node("number", (), sci, read_fraction(token.text))
        if token.kind == "mixed":
            return read_mixed(token.text)
        if token.kind == "letter":
            return self.letter(token)
        if token.kind == "word":
            return self.word(token)
        if token.kind == "command":
            return self.command(token.text)
        if token.text in ("(", "["):
            return self.bracketed(token.text)
        if token.text == "{":
            inner = self.sum()
            self.expect("}")
            return inner
        if token.text == "|":
            inner = self.sum()
            self.expect("|")
            return Node("absolute", (inner,))
        raise UnreadableError(token.text)

    def letter(self, token: Token) -> Node:
        name = token.text
        if name in ("e", "i") and self.next() != "_":
            return Node("constant", (), name)
        if name in "fgh" and self.next() == "(":
            raise UnreadableError("a function that nobody knows")
        return Node("symbol", (), name + self.subscript())

    def subscript(self) -> str:
        if not self.take("_"):
            return ""
        if self.take("{"):
            start = self.place
            while self.next() not in ("}", ""):
                self.place += 1
            inner = "".join(token.text for token in self.tokens[start : self.place])
            self.expect("}")
            return f"_{inner}"
        if self.kind() not in ("number", "letter"):
            raise UnreadableError(self.next())
        self.place += 1
        return f"_{self.tokens[self.place - 1].text}"

    def word(self, token: Token) -> Node:
        if token.text == "pi":
            return Node("constant", (), "pi")
        if token.text in FUNCTIONS:
            return self.function(token.text)
        if len(token.text) > 3:
            raise UnreadableError(token.text)
        # xy is a product; the last letter may bear a subscript or be raised to a power.
        letters = [Token("letter", letter) for letter in token.text]
        self.tokens[self.place : self.place] = letters[1:]
        return self.letter(letters[0])

    def command(self, text: str) -> Node:
        name = text[1:]
        if name == "frac":
            parts = self.argument(), self.argument()
            if all(factors_of(part)[0] == Node("symbol", (), "d") for part in parts):
                raise UnreadableError("a derivative")
            return Node("quotient", parts)
        if name == "binom":
            return Node("binomial", (self.argument(), self.argument()))
        if name == "sqrt":
            index = number(Fraction(2))
            if self.take("["):
                index = self.sum()
                self.expect("]")
            return Node("root", (self.argument(), index))
        if name == "pi":
            return Node("constant", (), "pi")
        if name == "infty":
            return Node("constant", (), "infinity")
        if name in ("lfloor", "lceil", "lvert"):
            inner = self.sum()
            self.expect("\\r" + name[1:])
            return Node({"lfloor": "floor", "lceil": "ceiling", "lvert": "absolute"}[name], (inner,))
        if name in GREEK:
            return Node("symbol", (), name + self.subscript())
        if name in FUNCTIONS:
            return self.function(name)
        if name == "{":
            if self.take(r"\}"):
                return Node("set")
            inner = self.answers((r"\}",))
            self.expect(r"\}")
            return Node("set", inner.parts if inner.kind == "list" else (inner,))
        if name in ("emptyset", "varnothing"):
            return Node("set")
        if name == "begin":
            return self.matrix()
        raise UnreadableError(text)

    def function(self, name: str) -> Node:
        name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}.get(name, name)
        base = None
        if name == "log" and self.take("_"):
            base = self.argument()
        exponent = self.exponent() if self.take("^") else None
        bracketed = self.next() in ("(", "[", "{", "|")
        argument = self.postfixed() if bracketed else self.function_argument()
        if name == "sqrt":
            node = Node("root", (argument, number(Fraction(2))))
        elif name == "abs":
            node = Node("absolute", (argument,))
        elif base is not None:
            node = Node("logarithm", (base, argument))
        else:
            node = Node("function", (argument,), name)
        if exponent is None:
            return node
        if exponent == Node("negative", (number(Fraction(1)),)) and name in _WITH_INVERSE:
            return node._replace(name=f"arc{name}")
        if exponent.kind == "negative" or name in ("sqrt", "abs", "exp"):
            raise UnreadableError("an inverse or a power")
        return Node("power", (node, exponent))

    def function_argument(self) -> Node:
        """What follows a function without brackets: 2x, but not what stands behind the next function."""
        factors = [self.power()]
        while self.begins_factor() and self.next()[1:] not in FUNCTIONS and self.next() not in ("(", "["):
            if self.kind() == "number":
                raise UnreadableError("a number behind a factor")
            factors.append(self.power())
        return factors[0] if len(factors) == 1 else Node("product", tuple(factors))

    def argument(self) -> Node:
        """The argument of a command: a group, or one digit, letter or command."""
        if self.take("{"):
            inner = self.sum()
            self.expect("}")
            return inner
        token = self.tokens[self.place] if self.place < len(self.tokens) else Token("", "")
        if token.kind == "number" and token.text.isdigit():
            rest = token.text[1:]
            self.place += 1
            if rest:
                self.tokens.insert(self.place, Token("number", rest))
            return number(Fraction(int(token.text[0])))
        if token.kind == "word" and token.text not in FUNCTIONS:
            raise UnreadableError(token.text)
        if token.kind in ("letter", "command") or token.text == "(":
            return self.primary()
        raise UnreadableError(token.text)

    def bracketed(self, opening: str) -> Node:
        inner = self.answers((")", "]"))
        closing = self.expect(")", "]")
        if inner.kind == "list":
            return Node("tuple", inner.parts, opening + closing)
        if opening + closing not in ("()", "[]") or inner.kind == "relation":
            raise UnreadableError("brackets")
        return inner

    def matrix(self) -> Node:
        self.expect("{")
        name = self.expect("pmatrix", "bmatrix", "matrix", "vmatrix")
        self.expect("}")
        if name == "vmatrix":
            raise UnreadableError("a determinant")
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while True:
            row.append(self.sum())
            if self.take("&"):
                continue
            rows.append(tuple(row))
            row = []
            self.take(r"\\")
            if self.take(r"\end"):
                break
            if self.tokens[self.place - 1].text != r"\\":
                raise UnreadableError(self.next())
        self.expect("{")
        self.expect(name)
        self.expect("}")
        return Node("matrix", tuple(Node("row", each) for each in rows))
