"""The tables stay readable."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from rlif.evaluation.completions import Completions
from rlif.evaluation.measure import evaluate_completions
from rlif.evaluation.report import print_tables


def test_a_long_name_of_a_score_leaves_the_numbers_readable(capsys: pytest.CaptureFixture[str]) -> None:
    completions = Completions(["a"], ["1"], [["1", "2"]], {"name " * 16: np.array([[0.9, 0.4]])})
    print_tables(evaluate_completions(completions), Console(width=80))
    assert "0.500" in capsys.readouterr().out.splitlines()[-1]
