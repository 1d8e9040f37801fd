r"""What a tree says as a whole: a number, several, a point, an interval, a set, an equation.

Of answers that say the same in another form:

- `x=5` says 5, and `12+34=46` says 46 if it is true; `99=5` says nothing that could be compared.
- `1, 2`, `2 and 1`, `x=1 or x=2`, `\{1, 2\}` and `\pm` are several answers, in any order.
- `x>5` is the interval `(5, \infty)`, and `x=2, y=3` the point `(2, 3)`; of other variables it is an assignment.
- An equation is the same whatever it is multiplied by: `y=2x+1` says `2x+1`, but `2x+2y=4` is `x+y=2`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import NamedTuple

from rlif.answers.notation import UnreadableError
from rlif.answers.tree import Node
from rlif.answers.values import is_negative, key_of, scaled, values_at_points
from rlif.answers.worked import form, is_worked_out

_OPPOSITE = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
# Variables whose order in a point everybody knows.
_COORDINATES = (("x", "y"), ("x", "y", "z"))


class Meaning(NamedTuple):
    """What a tree says."""

    value: Hashable
    """Equal for trees of equal value."""
    form: Hashable = None
    """None if the tree is worked out, else what else tells it apart."""


def meaning(tree: Node) -> Meaning:
    """Read a tree as a whole.

    Raises:
        UnreadableError: it says nothing that can be compared.
    """
    reader = _READERS.get(tree.kind)
    if reader is not None:
        return reader(tree)
    infinity = _infinity(tree)
    if infinity is not None:
        return Meaning(infinity)
    if _has_choice(tree):
        return _several([meaning(_chosen(tree, plus)) for plus in (True, False)])
    values = values_at_points(tree)
    return Meaning(key_of(values), None if is_worked_out(tree) else form(tree))


def _several(items: Sequence[Meaning]) -> Meaning:
    """Answers in any order; one alone is itself."""
    if len(items) == 1:
        return items[0]
    return Meaning(("several", *sorted((tuple(item) for item in items), key=_order)))


def _list(tree: Node) -> Meaning:
    if tree.name and any(_OPPOSITE.keys() & part.name.split() for part in tree.parts if part.kind == "relation"):
        # x<1 or x>2 is most numbers, x<1 and x>2 is none.
        return (
            _union(tree) if tree.name == "or" else Meaning(("both", _several([meaning(part) for part in tree.parts])))
        )
    assigned = None if tree.name == "or" else _assignments(tree.parts)
    return _several([meaning(part) for part in tree.parts]) if assigned is None else assigned


def _set(tree: Node) -> Meaning:
    items = list(dict.fromkeys(meaning(part) for part in tree.parts))
    return _several(items) if items else Meaning(("empty",))


def _tuple(tree: Node) -> Meaning:
    return Meaning(("tuple", tree.name, *(tuple(meaning(part)) for part in tree.parts)))


def _union(tree: Node) -> Meaning:
    return Meaning(("union", *sorted((tuple(meaning(part)) for part in tree.parts), key=_order)))


def _matrix(tree: Node) -> Meaning:
    rows = [tuple(tuple(meaning(each)) for each in row.parts) for row in tree.parts]
    if len({len(row) for row in rows}) != 1:
        raise UnreadableError("rows of different lengths")
    return Meaning(("matrix", *rows))


def _relation(tree: Node) -> Meaning:
    operators, sides = tree.name.split(), list(tree.parts)
    if operators[0] == "in" and len(sides) == 2 and sides[0].kind == "symbol":
        return Meaning(("text", sides[1].name)) if sides[1].kind == "symbol" else meaning(sides[1])
    # pi ~ 3.14: what it is, not what it is nearly.
    if "~" in operators:
        nearly = operators.index("~")
        if nearly == 0 and sides[0].kind == "symbol":
            return meaning(sides[1])
        operators, sides = operators[:nearly], sides[: nearly + 1]
        if not operators:
            return meaning(sides[0])
    if set(operators) == {"="}:
        return _equation(sides)
    if not any(map(_has_symbol, sides)):
        raise UnreadableError("a relation of numbers alone")
    if len(sides) == 2 and operators == ["!="]:
        return Meaning(("unequal", key_of(scaled(_difference(*sides), keep_sign=False))))
    if set(operators) <= _OPPOSITE.keys():
        return _inequality(operators, sides)
    raise UnreadableError("relations of several kinds")


def _equation(sides: list[Node]) -> Meaning:
    if sides[0].kind == "symbol" and not any(_mentions(side, sides[0].name) for side in sides[1:]):
        sides = sides[1:]
        if len(sides) == 1:
            return meaning(sides[0])
    elif sides[0].kind == "tuple" and all(part.kind == "symbol" for part in sides[0].parts):
        return _point(sides)
    found = [values_at_points(side) for side in sides]
    keys = {key_of(values) for values in found}
    if len(keys) == 1:
        return meaning(sides[-1])  # true: what was worked out stands last
    if len(sides) != 2 or not any(_has_symbol(side) for side in sides):
        raise UnreadableError("an equation that is not true")
    return Meaning(("equation", key_of(scaled(_difference(*sides), keep_sign=False))))


def _point(sides: list[Node]) -> Meaning:
    names = [part.name for part in sides[0].parts]
    if len(sides) != 2 or sides[1].kind != "tuple" or len(sides[1].parts) != len(names):
        raise UnreadableError("a point that is none")
    if names == sorted(names):
        return meaning(sides[1])
    pairs = zip(sides[0].parts, sides[1].parts, strict=True)
    return _assignments([Node("relation", pair, "=") for pair in pairs]) or _tuple(sides[1])


def _assignments(items: Sequence[Node]) -> Meaning | None:
    """x=2, y=3: what each of several variables is; None if that is not what the items say."""
    if any(item.kind != "relation" or item.name != "=" or item.parts[0].kind != "symbol" for item in items):
        return None
    names = [item.parts[0].name for item in items]
    if len(set(names)) != len(names) or len({name.partition("_")[0] for name in names}) != len(names):
        return None  # x_1 and x_2 are two values of x
    values = {item.parts[0].name: tuple(meaning(item.parts[1])) for item in items}
    names = sorted(names)
    if tuple(names) in _COORDINATES:
        return Meaning(("tuple", "()", *(values[name] for name in names)))
    return Meaning(("assignment", *((name, values[name]) for name in names)))


def _inequality(operators: list[str], sides: list[Node]) -> Meaning:
    if operators[0].startswith(">"):
        sides, operators = sides[::-1], [_OPPOSITE[operator] for operator in operators[::-1]]
    if any(operator.startswith(">") for operator in operators):
        raise UnreadableError("an inequality of two directions")
    variables = [place for place, side in enumerate(sides) if side.kind == "symbol"]
    others = [side for side in sides if side.kind != "symbol"]
    if len(variables) == 1 and not any(_has_symbol(side) for side in others):
        place = variables[0]
        below, above = sides[:place], sides[place + 1 :]
        if len(below) <= 1 and len(above) <= 1:
            lower = tuple(meaning(below[0])) if below else (("infinity", -1), None)
            upper = tuple(meaning(above[0])) if above else (("infinity", 1), None)
            opening = "[" if below and operators[place - 1] == "<=" else "("
            closing = "]" if above and operators[place] == "<=" else ")"
            return Meaning(("tuple", opening + closing, lower, upper))
    if len(sides) != 2:
        raise UnreadableError("a chain of inequalities")
    difference = scaled(_difference(*sides), keep_sign=True)
    return Meaning(("inequality", operators[0], key_of(difference), is_negative(difference)))


def _difference(one: Node, other: Node) -> tuple[object, ...]:
    return values_at_points(Node("sum", (one, Node("negative", (other,)))))


def _infinity(tree: Node) -> Hashable:
    if tree.kind == "constant" and tree.name == "infinity":
        return ("infinity", 1)
    inner = _infinity(tree.parts[0]) if tree.kind == "negative" else None
    return None if inner is None else ("infinity", -1)


def _has_choice(tree: Node) -> bool:
    return tree.kind == "either" or any(map(_has_choice, tree.parts))


def _chosen(tree: Node, plus: bool) -> Node:
    """The tree with one of the two signs everywhere."""
    parts = tuple(_chosen(part, plus) for part in tree.parts)
    if tree.kind == "either":
        return parts[0] if (tree.name == "+") == plus else Node("negative", parts)
    return tree._replace(parts=parts)


def _mentions(tree: Node, name: str) -> bool:
    return (tree.name == name and tree.kind == "symbol") or any(_mentions(part, name) for part in tree.parts)


def _has_symbol(tree: Node) -> bool:
    return tree.kind == "symbol" or any(map(_has_symbol, tree.parts))


def _order(key: Hashable) -> str:
    """A text to sort keys by, which have no order of their own; hexadecimal, since long decimals are refused."""
    if isinstance(key, Fraction):
        return f"{key.numerator:x}/{key.denominator:x}"
    return f"({','.join(map(_order, key))})" if isinstance(key, tuple) else repr(key)


_READERS = {
    "list": _list,
    "set": _set,
    "tuple": _tuple,
    "union": _union,
    "matrix": _matrix,
    "relation": _relation,
}
