"""What the lab tries: start models, rewards, seeds, and how long.

Imports neither torch nor transformers, so that the command line can answer at once.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rlif.errors import UserError
from rlif.tasks.arithmetic import EVAL_FRACTION
from rlif.tasks.base_model import BaseModelConfig, InstructModelConfig

# The paper's three, by the names of `rlif.rewards.REWARDS`, and agreement, which is as free of labels.
INTERNAL = ("self_certainty", "token_entropy", "trajectory_entropy", "majority_vote")
BASELINE = "verifiable"
# Rewards short completions: what the guard sees of a policy that gives up answering.
DEGENERATE = "sequence_logprob"
# Share of the instruct-like model in each start model; 0 is the base, 1 the instruct-like model.
RATIOS = (0.0, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    max_steps: int
    eval_steps: int
    guard_prompts: int
    """Evaluation prompts that the guard looks at; they have no gold answers."""
    eval_prompts: int
    """Further evaluation prompts, of which accuracy is measured: the guard never chooses on what it is judged by."""
    test_prompts: int
    """Prompts that no run has seen, for the policies that are left at the end."""

    @property
    def held_out_prompts(self) -> int:
        """All of them, each another."""
        return self.guard_prompts + self.eval_prompts + self.test_prompts


FULL = Size(max_steps=80, eval_steps=5, guard_prompts=160, eval_prompts=352, test_prompts=512)
QUICK = Size(max_steps=50, eval_steps=5, guard_prompts=96, eval_prompts=160, test_prompts=256)


@dataclass
class LabConfig:
    """Repeat the findings of the No-Free-Lunch paper (arXiv 2506.17219) on this machine, with no download.

    Trains small models, from a base to an instruct-like one, on each internal reward and on right answers, and writes a
    report: what the paper claims, what was seen here, when the guard would have stopped, and what diagnose had said.
    """

    output_dir: Path | None = None
    """New directory for the report and everything behind it. None: runs/lab-DATE-TIME."""

    quick: bool = False
    """Minutes instead of an hour: one seed, fewer trials, shorter ones. The findings are then but hints."""

    seeds: int = 3
    """Seeds of each trial. With --quick it is 1."""

    workers: int = field(
        default_factory=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    )
    """Trials at a time, each on one thread."""

    resume: bool = False
    """Go on in output_dir, with the trials that are not finished yet."""

    # Not on the command line: the findings are about these two, and a report of others would compare with nothing.
    base: Annotated[BaseModelConfig, tyro.conf.Suppress] = field(default_factory=BaseModelConfig)
    """The base model."""

    instruct: Annotated[InstructModelConfig, tyro.conf.Suppress] = field(default_factory=InstructModelConfig)
    """How the instruct-like model is tuned; its base is the one above."""

    def validate(self) -> None:
        """Check every value.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        for name in ("seeds", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: got {getattr(self, name)!r}, expected an integer of at least 1")
        if self.resume and self.output_dir is None:
            raise UserError("output_dir: got none, expected the directory of the lab to resume")
        self.base.validate()
        self.instruct.validate()
        task, needed = self.base.task, self.size.held_out_prompts
        held_out = (9 * 10 ** (task.digits - 1)) ** task.operands // EVAL_FRACTION
        if held_out < 2 * needed:  # drawn at random until there are enough, so there must be more
            raise UserError(
                f"base.task: {task.operands} numbers of {task.digits} digits make about {held_out} held-out problems, "
                f"expected at least {2 * needed}"
            )

    @property
    def size(self) -> Size:
        """How much of everything."""
        return QUICK if self.quick else FULL

    def directory(self) -> Path:
        """The output directory, checked.

        Raises:
            UserError: it exists and nothing is resumed, or the other way round.
        """
        directory = (self.output_dir or Path("runs") / f"lab-{time.strftime('%Y%m%d-%H%M%S')}").expanduser()
        if self.resume and not (directory / "settings.json").is_file():
            raise UserError(f"output_dir: {directory} holds no lab to resume")
        if not self.resume and directory.exists():
            raise UserError(f"output_dir: {directory} exists, expected a new directory, or --resume to go on in it")
        return directory


PROMPTS_PER_STEP = 32
NUM_GENERATIONS = 8
EVAL_GENERATIONS = 4
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
    """The start model with that share of the instruct-like one."""
    return {0.0: "base", 1.0: "instruct"}.get(ratio, f"mix-{ratio:g}")


def plan(config: LabConfig) -> list[Trial]:
    """The trials, the most telling ones first: of each seed all of its own before the next seed's."""
    if config.quick:
        pairs = [(0.0, reward) for reward in (*INTERNAL, BASELINE)]
        pairs += [(1.0, "self_certainty"), (1.0, "trajectory_entropy"), (1.0, BASELINE)]
        pairs += [(ratio, "self_certainty") for ratio in RATIOS[1:-1]]
        return [Trial(0, ratio, reward) for ratio, reward in pairs]
    trials = []
    for seed in range(config.seeds):
        trials += [Trial(seed, ratio, reward) for ratio in (0.0, 1.0) for reward in (*INTERNAL, BASELINE)]
        trials += [Trial(seed, ratio, "self_certainty") for ratio in RATIOS[1:-1]]
        if seed == 0:  # so that the diagnosis is tried on pairs that no threshold was taken from
            rest = [reward for reward in INTERNAL if reward != "self_certainty"]
            trials += [Trial(seed, ratio, reward) for ratio in RATIOS[1:-1] for reward in rest]
            trials.append(Trial(seed, 0.0, DEGENERATE))
    return trials
