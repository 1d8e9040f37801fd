"""Outcomes are what training did."""

from __future__ import annotations

from made_up_trials import FALLING, FLAT, RISING_AND_FALLING, made_up
from rlif.lab.verdicts import outcome


def test_outcomes_are_what_training_did() -> None:
    assert outcome([made_up(0.0, "self_certainty", RISING_AND_FALLING, 0.8, 20)]) == "likely to help"
    assert outcome([made_up(0.0, "self_certainty", FALLING, 0.8, 0)]) == "risk of collapse"
    assert outcome([made_up(0.0, "self_certainty", FLAT, 0.8, 10)]) == "little to gain"
