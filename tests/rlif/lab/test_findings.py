"""Findings say of made-up trials what they show."""

from __future__ import annotations

from made_up_trials import FALLING, FLAT, RISING_AND_FALLING, made_up
from rlif.lab.findings import findings
from rlif.rewards.registry import INTERNAL


def test_findings_say_what_the_trials_show() -> None:
    base = [made_up(0.0, reward, RISING_AND_FALLING, 0.8, 20) for reward in INTERNAL]
    sure = [made_up(1.0, reward, FLAT, 0.1, 0) for reward in INTERNAL]
    mixed = [made_up(0.2, "self_certainty", (0.6, 0.65, 0.7, 0.6, 0.5), 0.5, 20)]
    assert {each.title: each.agreement for each in findings([*base, *sure, *mixed])} == {
        "Rise, then fall": "seen",
        "One direction early": "seen",
        "Nothing for an instruction-tuned model": "seen",
        "Gain shrinks with initial entropy": "seen",
        "Early gains are format and confidence": "partly",
    }
    # The other way round nothing of it is seen.
    other = [made_up(0.0, reward, FLAT, 0.8, 0) for reward in INTERNAL]
    other += [made_up(1.0, reward, RISING_AND_FALLING, 0.1, 20) for reward in INTERNAL]
    agreement = [each.agreement for each in findings(other)]
    assert (agreement[0], agreement[2], agreement[3]) == ("not seen", "not seen", "not seen")


def test_one_reward_that_rises_and_another_that_falls_are_no_rise_and_fall() -> None:
    rising = (0.4, 0.5, 0.6, 0.6, 0.6)
    base = [made_up(0.0, reward, rising if i else FALLING, 0.8, 0) for i, reward in enumerate(INTERNAL)]
    sure = [made_up(1.0, reward, FLAT, 0.1, 0) for reward in INTERNAL]
    first, *_, last = findings([*base, *sure])
    assert first.agreement == "not seen"
    assert "functions of the distributions alone" not in first.seen  # token entropy did not fall either
    stated = [each | {"parsed": {"start": 0.3, "guarded": 0.9, "last": 0.9}} for each in base]
    assert "Format gained +0.0 points" in last.seen
    assert "Format gained +60.0 points" in findings([*stated, *sure])[-1].seen
