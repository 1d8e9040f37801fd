"""The tests that docs/trainers.md names are collected where the package that they are of is installed."""

from __future__ import annotations

import pytest

from pages import ROOT, named_tests

WITH = {
    name: path.parent.name
    for path in (ROOT / "tests/integrations").glob("with_*/test_*.py")
    for name in named_tests()
    if f"\ndef {name}(" in path.read_text(encoding="utf-8")
}


def test_each_test_of_a_folder_that_is_being_run_is_among_what_was_collected(request: pytest.FixtureRequest) -> None:
    if request.config.option.keyword or request.config.option.markexpr:
        pytest.skip("some tests were chosen")
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    folders = {item.path.parent.name for item in items} & set(WITH.values())
    if not folders:
        pytest.skip("no trainer is installed here")
    collected = {item.originalname for item in items}
    assert {name for name in named_tests() if WITH[name] in folders} <= collected
