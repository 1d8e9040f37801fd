"""The options of `rlif lab`. Loads no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rlif.errors import UserError
from rlif.options.checks import Count, check
from rlif.options.groups import OutputOptions, ResumeOptions
from rlif.options.record import check_resume
from rlif.tasks.arithmetic import EVAL_FRACTION
from rlif.tasks.options import BaseModelConfig, InstructModelConfig


@dataclass(kw_only=True)
class LabConfig(OutputOptions, ResumeOptions):
    """Repeat the findings of the No-Free-Lunch paper (arXiv 2506.17219) on this machine, with no download.

    Trains small models, from a base to an instruct-like one, on each internal reward and on right answers, and writes a
    report: what the paper claims, what was seen here, when the guard would have stopped, and what diagnose had said.
    """

    output_dir: Path | None = None
    """New directory for the report and everything behind it. None: runs/lab-DATE-TIME."""

    quick: bool = False
    """Minutes instead of an hour: one seed, fewer trials, shorter ones. The findings are then but hints."""

    seeds: Count = 3
    """Seeds of each trial. With --quick it is 1."""

    workers: Count = field(
        default_factory=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    )
    """Trials at a time, each on one thread."""

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
        check(self)
        check_resume(self, "lab")
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
