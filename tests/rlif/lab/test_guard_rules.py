"""The guard is measured against the best checkpoint."""

from __future__ import annotations

import pytest

from made_up_trials import RISING_AND_FALLING, made_up
from rlif.lab.findings import course
from rlif.lab.guard_rules import late_choices, rules_table


def test_a_choice_after_the_guard_would_have_stopped_is_named() -> None:
    trial = made_up(0.0, "self_certainty", RISING_AND_FALLING, 0.8, 40)
    for row, falling in zip(trial["rows"], (0, 1, 2, 3, 0), strict=True):
        row["guard/falling"] = float(falling)
    assert late_choices([trial]) == ["base-self_certainty-seed-0"]
    assert late_choices([trial | {"guard_step": 0}]) == []


def test_regret_is_counted_from_the_best_checkpoint() -> None:
    trial = made_up(0.0, "self_certainty", RISING_AND_FALLING, 0.8, 10)
    assert course(trial).peak_step == 20
    table = {each["rule"]: each for each in rules_table([trial])}
    assert table["guard"]["regret"] == pytest.approx(0.1)
    assert table["no guard: the last step"]["regret"] == pytest.approx(0.5)
    assert table["no training: the start model"]["gain"] == 0.0
    assert table["the start model's NLL, lowest"]["regret"] == 0.0
