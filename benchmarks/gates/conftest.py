"""Let pytest-benchmark's files say what made them in the same words as ours, without the name of the host."""

import datetime
from typing import Any

import pytest

from benchmarks.machine import describe

_missing: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-gate", action="store_true", help="write gate.json instead of comparing with it")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What did not run is named beside what did."""
    if report.skipped:
        assert isinstance(report.longrepr, tuple)  # file, line, reason
        _missing[report.nodeid.split("::")[-1]] = report.longrepr[2].removeprefix("Skipped: ")


def pytest_benchmark_update_machine_info(config: object, machine_info: dict[str, Any]) -> None:
    machine_info.clear()
    machine_info.update(describe())


def pytest_benchmark_update_commit_info(config: object, commit_info: dict[str, Any]) -> None:
    commit_info.clear()  # the results are committed before there is a commit to name


def pytest_benchmark_update_json(config: object, benchmarks: object, output_json: dict[str, Any]) -> None:
    output_json["missing"] = _missing
    output_json["date"] = str(datetime.date.today())
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)  # every single round, which is there with --benchmark-json alone
