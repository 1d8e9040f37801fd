"""Hostile contents for files: of a document that is right any value is replaced, or its text is broken."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from hurt import HOSTILE_VALUES

# Beside those: what a terminal obeys, what no UTF-8 holds, what no float holds, paths, and very much of something.
VALUES: tuple[object, ...] = (
    *HOSTILE_VALUES, 0, -(2**63), 2**64, float("nan"), float("inf"), "", "\x1b[2J\x07", "\ud800", "\u2028\n", "../../x",
    "x" * 5000, ["x"] * 300, {"": None}, [[[[[]]]]], "1e99999", "0" * 400, False,
)  # fmt: skip
# Of configurations of models none that is huge: a model of a billion layers would be built for as long as one waits.
SMALL_VALUES = tuple(
    value
    for value in VALUES
    if not (isinstance(value, int | float) and abs(value) > 100) and value not in ("1e99999", "0" * 400)
)
BROKEN = (
    b"",
    b"null",
    b"[]",
    b"3",
    b'"x"',
    b"{",
    b"[" * 3000,
    b"\xff\xfe{\x00}\x00",
    b"\x00" * 9,
    b"\xef\xbb\xbf{}",
    b"{}",
)


def places(document: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every place in a document of JSON, as the keys that lead there."""
    found = [path]
    if isinstance(document, dict):
        for key, value in document.items():
            found += places(value, (*path, key))
    elif isinstance(document, list):
        for key, value in enumerate(document[:3]):
            found += places(value, (*path, key))
    return found


@st.composite
def changed(draw: st.DrawFn, document: Any, values: tuple[object, ...] = VALUES) -> Any:
    """A document with one or two of its values replaced, removed or added."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        made = _change(draw, made, values)
    return made


def _change(draw: st.DrawFn, document: Any, values: tuple[object, ...]) -> Any:
    *path, last = (None, *draw(st.sampled_from(places(document))))
    value = copy.deepcopy(draw(st.sampled_from(values)))
    if last is None:
        return value
    holder = document
    for key in path[1:]:
        holder = holder[key]
    how = draw(st.sampled_from(("replace", "replace", "remove", "add")))
    if how == "replace":
        holder[last] = value
    elif how == "remove":
        del holder[last]
    elif isinstance(holder, dict):
        holder["another"] = value
    else:
        holder.append(value)
    return document


@st.composite
def broken(draw: st.DrawFn, content: bytes) -> bytes:
    """A file that was cut, of which a bit is flipped, or that is something else."""
    how = draw(st.sampled_from(("cut", "flipped", "else", "longer")))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    if how == "cut":
        return content[:place]
    if how == "flipped" and content:
        return content[:place] + bytes([content[place] ^ 1 << draw(st.integers(0, 7))]) + content[place + 1 :]
    return draw(st.sampled_from(BROKEN)) if how == "else" else content + draw(st.sampled_from(BROKEN))


def as_json(value: object) -> bytes:
    """JSON as a program without scruples writes it: NaN, infinities, halves of surrogate pairs as escapes."""
    return json.dumps(value).encode()


def json_file(document: Any, values: tuple[object, ...] = VALUES) -> st.SearchStrategy[bytes]:
    """A JSON file with hostile values, or a broken one."""
    return st.one_of(changed(document, values).map(as_json), broken(as_json(document)))


def jsonl_file(rows: list[Any]) -> st.SearchStrategy[bytes]:
    """A file of rows with hostile values, or a broken one."""

    def write(rows: Any) -> bytes:
        return b"".join(as_json(row) + b"\n" for row in rows) if isinstance(rows, list) else as_json(rows) + b"\n"

    return st.one_of(changed(rows).map(write), broken(write(rows)))


def csv_file(rows: list[dict[str, object]], delimiter: str = ",") -> st.SearchStrategy[bytes]:
    """A table as text with hostile cells, or a broken one."""

    def write(rows: list[list[object]]) -> bytes:
        return "\n".join(delimiter.join(str(cell) for cell in row) for row in rows).encode("utf-8", "surrogatepass")

    table: list[list[object]] = [list(rows[0]), *(list(row.values()) for row in rows)]
    cells = st.sampled_from((*VALUES, '"', 'a"b', '"x\ny"', delimiter, "\x00"))

    @st.composite
    def hostile(draw: st.DrawFn) -> bytes:
        made = copy.deepcopy(table)
        row = draw(st.sampled_from(made))
        row[draw(st.integers(0, len(row) - 1))] = draw(cells)
        return write(made)

    return st.one_of(hostile(), broken(write(table)))


def safetensors_file(content: bytes) -> st.SearchStrategy[bytes]:
    """Weights whose header has hostile values, or whose bytes are broken."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def write(header: object) -> bytes:
        text = as_json(header)
        return struct.pack("<Q", len(text)) + text + data

    lengths = st.sampled_from((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
    return st.one_of(
        changed(header).map(write),
        broken(content),
        lengths.map(lambda length: struct.pack("<Q", length) + content[8:]),
    )


def parquet_file(rows: list[dict[str, object]], write: Callable[[dict[str, Any]], bytes]) -> st.SearchStrategy[bytes]:
    """A Parquet file with columns of any type, or a broken one; `write` makes one of columns."""
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
    kinds: tuple[list[Any], ...] = (
        [None], [True], [-1], [2**63 - 1], [float("nan")], [1e300], [b"\xff"], ["\x1b[2J"], [[1]], [{"a": 1}], [[]],
        [""], [[{"role": "user"}]], [[{"role": None, "content": "x"}]],
    )  # fmt: skip

    @st.composite
    def hostile(draw: st.DrawFn) -> bytes:
        name = draw(st.sampled_from(sorted(columns)))
        made = columns | {name: draw(st.sampled_from(kinds)) * len(rows)}
        if draw(st.booleans()):
            made.pop(draw(st.sampled_from(sorted(made))))
        return write(made)

    return st.one_of(hostile(), broken(write(columns)))
