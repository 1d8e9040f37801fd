"""pytest-benchmark's files of this project can be saved, written as JSON, and compared."""

import pytest

from benchmarks.gates.conftest import pytest_benchmark_update_json


@pytest.mark.parametrize("stats", [{"median": 1.0}, {"median": 1.0, "data": [1.0, 1.0]}])
def test_a_saved_run_has_the_form_of_one_written_as_json(stats):
    # --benchmark-json gives every round's time, --benchmark-save does not.
    written = {"benchmarks": [{"stats": stats}]}
    pytest_benchmark_update_json(None, None, written)
    assert written["benchmarks"] == [{"stats": {"median": 1.0}}]
    assert written["date"]
    assert "missing" in written
