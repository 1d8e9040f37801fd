"""Whatever is done to a command, nothing is lost: every cell of the table in docs/reliability.md."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from fault_results import FAULT, as_told
from fault_rows import ROWS
from faults import KINDS, Bench, details_of, hurt, why_not
from rlif.cli import COMMANDS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

CELLS = [(command, kind) for command in ROWS for kind in KINDS]


def without_a_row(commands: Iterable[str]) -> set[str]:
    """Commands that nothing is done to."""
    return {*commands} - ROWS.keys()


def test_every_command_has_a_row() -> None:
    assert without_a_row(COMMANDS) == set()
    assert without_a_row([*COMMANDS, "news"]) == {"news"}
    assert ROWS.keys() <= COMMANDS.keys()


@pytest.mark.parametrize(("command", "kind"), [cell for cell in CELLS if why_not(*cell) is None])
def test_nothing_is_lost(
    command: str,
    kind: str,
    make_bench: Callable[[str], Bench],
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> None:
    bench = make_bench(command)
    details = details_of(command, kind, bench.unhurt, full=request.config.option.full)
    hurt(bench, kind, details)
    record_property(FAULT, as_told(bench, kind, details))
    assert not bench.told, "\n".join(bench.told)
    assert bench.tried, "no hurt came before the command was over"


def test_nothing_is_lost_by_a_random_hurt(
    number: int,
    make_bench: Callable[[str], Bench],
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> None:
    seed = request.config.getoption("seed")
    chance = random.Random(f"{seed} {number}")
    command, kind = chance.choice([cell for cell in CELLS if why_not(*cell) is None])
    bench = make_bench(command)
    details = [KINDS[kind].draw(chance, bench.row, bench.unhurt)]
    hurt(bench, kind, details)
    record_property(FAULT, as_told(bench, kind, details, by_chance=True))
    assert not bench.told, "\n".join([f"{command}, {kind}: {details}", *bench.told])
