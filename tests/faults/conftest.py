"""What hurts have in common, made once for all processes of the tests; and the results file that `--output` names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_results import FAULT, write_results
from fault_rows import OUT, ROWS, Shared
from fault_server import Server
from faults import Bench, Unhurt
from rlif.files.lock import Lock

_told: list[dict[str, Any]] = []


RANDOM = "number"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With --full: as many random hurts as are wanted."""
    if RANDOM in metafunc.fixturenames:
        metafunc.parametrize(RANDOM, range(metafunc.config.option.hurts))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --full: no random hurts, and no command that takes minutes."""

    def is_short(item: pytest.Item) -> bool:
        command = getattr(getattr(item, "callspec", None), "params", {}).get("command")
        row = ROWS.get(command) if isinstance(command, str) else None
        return RANDOM not in getattr(item, "fixturenames", ()) and not (row and row.full_only)

    if not config.option.full:
        items[:] = [each for each in items if is_short(each)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what a hurt came to, whichever process it was done by."""
    if report.when == "call":
        _told.extend(json.loads(str(value)) for name, value in report.user_properties if name == FAULT)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the results, in the process that has those of all."""
    options = session.config.option
    if options.output is not None and not hasattr(session.config, "workerinput"):
        by_chance = f"--full --hurts {options.hurts} --seed {options.seed} " if options.full else ""
        only = f"-k {options.keyword} " if options.keyword else ""
        write_results(options.output, _told, f"{by_chance}{only}--output {options.output.name}")


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A directory that all processes of the tests have in common."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if hasattr(request.config, "workerinput") else base) / "common"
    directory.mkdir(exist_ok=True)
    return directory.resolve()


@pytest.fixture(scope="session")
def server(common: Path) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLIF_CACHE_DIR", str(common / "cache"))
        yield Server({"RLIF_CACHE_DIR": str(common / "cache")})


@pytest.fixture(scope="session")
def shared(server: Server, common: Path) -> Shared:
    """What the commands read."""
    with Lock(common, wait=lambda owner: None):
        return Shared.make(common)


@pytest.fixture(scope="session")
def unhurt(server: Server, shared: Shared, common: Path) -> Callable[[str], tuple[Shared, Unhurt]]:
    """Runs that nobody hurt, each made once, with what they have read."""

    def find(name: str) -> tuple[Shared, Unhurt]:
        place = common / f"unhurt-{name}"
        place.mkdir(exist_ok=True)
        changes = place / "changes"
        with Lock(place, wait=lambda owner: None):
            if not changes.exists():
                made, row = place / "run", ROWS[name]
                shutil.rmtree(made, ignore_errors=True)  # of a run that failed
                made.mkdir()
                if row.needs_out:
                    (made / OUT).mkdir()
                end = server.run(row.words(shared).split(), made, miniature=row.miniature)
                assert end.code == 0, end.errors
                changes.write_text(str(end.changes))
        return shared, Unhurt(place / "run" / OUT, int(changes.read_text()))

    return find


@pytest.fixture
def make_bench(
    server: Server, unhurt: Callable[[str], tuple[Shared, Unhurt]], tmp_path: Path
) -> Iterator[Callable[[str], Bench]]:
    """A command in a directory of its own, which is removed afterwards: many of them fill a disk."""
    yield lambda name: Bench(server, *unhurt(name), name, tmp_path / "place")
    shutil.rmtree(tmp_path / "place", ignore_errors=True)
