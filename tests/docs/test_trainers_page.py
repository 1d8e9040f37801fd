"""The table of trainers says nothing that no test ran: each cell's test is there, and versions are the pinned ones."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pages import ROOT, named_tests, trainer_rows

PINS = ("constraints.txt", "constraints-verl.txt", "constraints-others.txt")
HEADINGS = ["trainer", "version", "by", "log-probability", "entropy", "self-certainty", "loss", "divergence"]


def functions_by_name() -> dict[str, list[Path]]:
    """The files of the integrations' tests that define a test, by its name."""
    found: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "tests/integrations").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.setdefault(node.name, []).append(path)
    return found


def test_the_table_has_its_columns_and_each_row_a_test() -> None:
    headings, *rows = trainer_rows()
    assert headings == HEADINGS
    assert len(rows) > 10
    for row in rows:
        assert len(row) == len(HEADINGS)
        tests = row[3:]
        assert all(cell == "-" or re.fullmatch(r"`test_\w+`", cell) for cell in tests), row
        assert set(tests) != {"-"}, row


def test_each_test_that_a_cell_names_is_one_that_make_test_integrations_runs() -> None:
    functions = functions_by_name()
    for name in named_tests():
        assert len(functions.get(name, ())) == 1, name
    makefile = (ROOT / "Makefile").read_text()
    names = re.search(r"^test-integrations: (.*)$", makefile, re.MULTILINE)[1].split()  # type: ignore[index]
    recipes = [makefile[makefile.index(f"\n{name}:") :].split("\n\n")[0] for name in names]
    folders = {functions[name][0].parent.name for name in named_tests()}
    assert folders == {"with_trl", "with_verl", "with_others"}
    for folder in folders - {"with_trl"}:
        assert any(f"tests/integrations/{folder} " in recipe for recipe in recipes)
    assert any("tests/integrations $" in recipe for recipe in recipes)  # with TRL


@pytest.mark.parametrize("row", trainer_rows()[1:], ids=lambda row: row[0].replace("`", ""))
def test_the_version_is_the_one_that_is_installed_for_the_tests(row: list[str]) -> None:
    package, version = row[1].split(" ")
    line = re.compile(rf"^{re.escape(package)}=={re.escape(version)}(;|$)", re.MULTILINE)
    assert any(line.search((ROOT / name).read_text()) for name in PINS), row[1]
