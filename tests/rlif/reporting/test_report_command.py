"""`rlif report` writes one file, says where it is, and opens it where there is a browser."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path

import pytest

from made_runs import write_run
from rlif import cli


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    write_run(tmp_path / "run")

    def call(*words: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["rlif", "report", *words])
        cli.main()
        return capsys.readouterr().out

    return call


def test_the_page_is_one_file_where_it_was_asked_for(report, tmp_path: Path) -> None:
    assert report("run", "--output", "page.html") == "page.html\n"
    assert report("run") == "report.html\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "report.html", "run"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("there", [True, False])
def test_it_is_opened_where_there_is_a_browser_and_else_the_place_is_said(
    there: bool, report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: (addresses.append(address), there)[1])
    said = report("run", "--open")
    address = (tmp_path / "report.html").as_uri()
    assert addresses == [address]
    assert (f"no browser could be started here; open {address} in yours" in said) is not there


def test_a_browser_that_fails_is_none(report, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(address: str) -> bool:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "open", fail)
    assert "no browser could be started here" in report("run", "--open")


def test_a_place_that_cannot_be_written_is_one_error(report, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        report("run", "--output", "missing/page.html")
    assert end.value.code == cli.BAD_INPUT
    assert "rlif: error: output: cannot write to" in capsys.readouterr().err


def test_torch_is_not_loaded_to_write_a_page() -> None:
    import subprocess

    code = "import sys, rlif.reporting.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
