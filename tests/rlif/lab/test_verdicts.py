"""Outcomes are what training did."""

from __future__ import annotations

import math

from made_up_trials import FALLING, FLAT, RISING_AND_FALLING, made_up
from rlif.lab.verdicts import outcome, pairs_table


def test_outcomes_are_what_training_did() -> None:
    assert outcome([made_up(0.0, "self_certainty", RISING_AND_FALLING, 0.8, 20)]) == "likely to help"
    assert outcome([made_up(0.0, "self_certainty", FALLING, 0.8, 0)]) == "risk of collapse"
    assert outcome([made_up(0.0, "self_certainty", FLAT, 0.8, 10)]) == "little to gain"


def test_a_measure_that_there_is_none_of_is_nan_again_when_it_is_read_back() -> None:
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    reward = {
        "measures": {"separation": value, "alignment": {"value": None, "low": None, "high": None}},
        "verdict": {"outlook": "little to gain", "sureness": 0.9},
    }
    measures = {"entropy": value, "agreement": value}
    diagnoses = {"base": {"measures": measures, "rewards": {"self_certainty": reward}}}
    (pair,) = pairs_table([made_up(0.0, "self_certainty", FLAT, 0.8, 10)], diagnoses)
    assert math.isnan(pair["alignment"])
    assert pair["separation"] == 0.5
