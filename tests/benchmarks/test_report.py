"""Every figure in the README comes from a results file."""

import subprocess
import sys

import pytest

from benchmarks import report


def test_the_tables_in_the_readme_are_those_of_the_results_files():
    subprocess.run([sys.executable, "-m", "benchmarks.report", "--check"], check=True, cwd=report.ROOT)


def test_a_changed_figure_is_noticed(monkeypatch, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(report.README.read_text().replace("16 bytes", "32 bytes"))
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setattr(sys, "argv", ["report", "--check"])
    with pytest.raises(SystemExit, match="differs from benchmarks/results"):
        report.main()


def test_a_table_without_a_results_file_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="no results file"):
        report.render(report.README.read_text())
