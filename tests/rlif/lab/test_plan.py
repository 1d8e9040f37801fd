"""The plan has every trial that the findings need."""

from __future__ import annotations

from rlif.lab.options import FULL, QUICK, LabConfig
from rlif.lab.plan import RATIOS, Trial, plan_trials
from rlif.rewards.registry import INTERNAL


def test_the_full_plan_has_every_reward_at_both_ends_for_every_seed_and_every_mix() -> None:
    trials = plan_trials(LabConfig())
    assert len(set(trials)) == len(trials)
    for seed in range(3):
        for reward in (*INTERNAL, "verifiable"):
            assert {Trial(seed, 0.0, reward), Trial(seed, 1.0, reward)} <= set(trials)
        assert {Trial(seed, ratio, "self_certainty") for ratio in RATIOS} <= set(trials)
    assert FULL.max_steps > QUICK.max_steps
