"""Curves are drawn on scales that can be compared."""

from __future__ import annotations

import pytest

from made_up_trials import FLAT, made_up
from rlif.lab.figures import _curve


def test_a_reward_that_falls_is_drawn_on_the_scale_of_its_fall() -> None:
    trial = made_up(0.0, "self_certainty", FLAT * 2, 0.8, 0)
    for row in trial["rows"]:
        row["reward"] = -row["step"]
    drawn = list(_curve(trial, "reward").values())
    assert (drawn[0], drawn[-1]) == (pytest.approx(1.0), 0.0)
