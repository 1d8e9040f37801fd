"""What the lab tries: start models, rewards, seeds, and how long.

Imports neither torch nor transformers, so that the command line can answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlif.lab.options import LabConfig
from rlif.rewards.registry import INTERNAL

BASELINE_REWARD = "verifiable"
# Rewards short completions: what the guard sees of a policy that gives up answering.
DEGENERATE = "sequence_logprob"
# Share of the instruct-like model in each start model; 0 is the base, 1 the instruct-like model.
RATIOS = (0.0, 0.1, 0.2, 0.5, 1.0)


PROMPTS_PER_STEP = 32
NUM_GENERATIONS = 8
TRIAL_EVAL_GENERATIONS = 4
LEARNING_RATE = 6e-5


@dataclass(frozen=True, order=True)
class Trial:
    """One run."""

    seed: int
    ratio: float
    reward: str

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{start_name(self.ratio)}-{self.reward}-seed-{self.seed}"


def start_name(ratio: float) -> str:
    """Return the start model with that share of the instruct-like one."""
    return {0.0: "base", 1.0: "instruct"}.get(ratio, f"mix-{ratio:g}")


def plan_trials(config: LabConfig) -> list[Trial]:
    """Return the trials, the most telling ones first: of each seed all of its own before the next seed's."""
    if config.quick:
        pairs = [(0.0, reward) for reward in (*INTERNAL, BASELINE_REWARD)]
        pairs += [(1.0, "self_certainty"), (1.0, "trajectory_entropy"), (1.0, BASELINE_REWARD)]
        pairs += [(ratio, "self_certainty") for ratio in RATIOS[1:-1]]
        return [Trial(0, ratio, reward) for ratio, reward in pairs]
    trials = []
    for seed in range(config.seeds):
        trials += [Trial(seed, ratio, reward) for ratio in (0.0, 1.0) for reward in (*INTERNAL, BASELINE_REWARD)]
        trials += [Trial(seed, ratio, "self_certainty") for ratio in RATIOS[1:-1]]
        if seed == 0:  # so that the diagnosis is tried on pairs that no threshold was taken from
            rest = [reward for reward in INTERNAL if reward != "self_certainty"]
            trials += [Trial(seed, ratio, reward) for ratio in RATIOS[1:-1] for reward in rest]
            trials.append(Trial(seed, 0.0, DEGENERATE))
    return trials
