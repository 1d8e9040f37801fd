"""The kernels of another folder are called in turn with ours, and a revision that does not exist is one clear line."""

import pytest

from benchmarks.gates import compare
from benchmarks.gates.base import running
from benchmarks.report import ROOT


@pytest.mark.slow
def test_a_comparison_has_a_row_for_each_op_that_was_asked_for():
    text = compare.compare(ROOT / "kernels", ["-q", "-k", "64x8000 and bfloat16 and not linear"])
    _, _, *rows = text.splitlines()
    assert [row.split("|")[1].strip() for row in rows] == [
        "token_stats, 64x8000, bfloat16",
        "grpo_loss, 64x8000, bfloat16",
    ]
    assert all(" to " in row for row in rows)


def test_the_base_does_not_answer_for_other_kernels_than_its_own(tmp_path, capfd):
    with running(tmp_path) as base, pytest.raises(RuntimeError, match="it has printed why"):
        base.prepare("token_stats", 64, 100, 0)
    assert f"expected the kernels of {tmp_path}" in capfd.readouterr().err


def test_a_revision_that_does_not_exist_is_one_clear_line():
    with pytest.raises(SystemExit, match="BASE is 'no-such-revision'; expected a revision"):
        compare.main(["no-such-revision"])
