"""The options of `rlif diagnose`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from rlif.errors import UserError
from rlif.options.checks import AtLeast, Count, Positive, check
from rlif.options.fields import Formerly
from rlif.options.groups import (
    BatchOptions,
    DataOptions,
    LoadingOptions,
    MemoryOptions,
    ModelOptions,
    NumPromptsOptions,
    OutputOptions,
    ReadingOptions,
    ResumeOptions,
    RewardNames,
    SamplingOptions,
    SeedOptions,
)
from rlif.options.record import check_resume
from rlif.rewards import read_specs
from rlif.rewards.registry import INTERNAL
from rlif.training.options import TrainConfig

# Evaluations of a short training, besides the one before it: the collapse step is known to a twentieth of the steps.
EVALUATIONS = 20


@dataclass(kw_only=True)
class ShortTrainingOptions:
    """A short training of the model's copy on each reward, up to the step at which it collapses."""

    heading: ClassVar[str] = "short training"

    steps: Count | None = None
    """Train a copy of the model on each reward, without labels, for so many steps at most, and say at which step it
    collapses (the model collapse step of arXiv 2603.08660). Prompts that are not held out for the guard are trained on:
    give more than a few hundred. None: no training."""

    learning_rate: Positive = TrainConfig.learning_rate
    """Learning rate of the short training, the same throughout, without a warm-up. Compare collapse steps at the same
    one only."""

    prompts_per_step: Count = TrainConfig.prompts_per_step
    """Prompts in a step of the short training, each with num_generations completions."""


@dataclass(kw_only=True)
class DiagnoseConfig(
    RewardNames,
    ModelOptions,
    DataOptions,
    NumPromptsOptions,
    OutputOptions,
    ResumeOptions,
    SeedOptions,
    BatchOptions,
    ReadingOptions,
    SamplingOptions,
    LoadingOptions,
    MemoryOptions,
    ShortTrainingOptions,
):
    """Say before any training, and without labels, whether a reward is likely to help a model.

    Samples a group of completions of each prompt once, and measures how unsure the model is, how far its answers
    agree, and whether each reward prefers the answers that most of a group agree on.
    """

    data: str
    """Prompts: a JSONL, JSON, Parquet or CSV file, a directory of them, a Hugging Face hub id, or
    word_problems:level=2,n=256. Gold answers, where there are any, are reported beside and not used."""

    reward: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="NAME", help_behavior_hint=f"(default: {', '.join(INTERNAL)})"),
    ] = ()
    """Reward to judge, as of rlif train; repeat the option for several. Each is judged by itself."""

    num_generations: Annotated[int, AtLeast(2, why=": agreement is within a group")] = 8
    """Completions sampled for each prompt: the group within which answers agree. At least 2."""

    temperature: Positive = 1.0
    """Sampling temperature: that of the training. Measures see the distribution at this temperature too."""

    output_dir: Path | None = None
    """New directory for the samples in numbers, as they come, and diagnosis.json. None: runs/diagnose-DATE-TIME."""

    prompts_per_batch: Annotated[Count | None, Formerly("batch_size")] = None
    """Prompts sampled at a time: fewer need less memory. None: 32; on a CPU no more than make 2^40 / parameters tokens
    (8,000 at 135M), completions included, for results about each minute."""

    json: str | None = None
    """File to write diagnosis.json to as well; - writes it to the standard output, and nothing else."""

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        check(self)
        check_resume(self, "diagnosis")
        read_specs(self.rewards)
        if self.steps is not None:
            for training in self.trainings(Path()).values():
                training.validate()
        if self.json not in (None, "-") and not Path(self.json).expanduser().absolute().parent.is_dir():
            raise UserError(f"json: cannot write {self.json}: there is no such directory")

    @property
    def rewards(self) -> tuple[str, ...]:
        """The rewards to judge, as they were named."""
        return self.reward or INTERNAL

    def trainings(self, directory: Path) -> dict[str, TrainConfig]:
        """Return the short training on each reward, by its name; none on a reward with weight 0, a mere metric.

        What a training has in common with the diagnosis is the same in both.

        Args:
            directory: of the diagnosis.
        """
        if self.steps is None:
            return {}
        mine = {field.name for field in fields(self)}
        common = {field.name: getattr(self, field.name) for field in fields(TrainConfig) if field.name in mine}
        common |= {
            "resume": False,
            "max_steps": self.steps,
            "eval_steps": max(1, self.steps // EVALUATIONS),
            "eval_temperature": self.temperature,
            "guard": "warn",
            "guard_labels": "majority",  # nothing here takes labels
            "guard_prompts": self.num_prompts,
            # So that a step is the same step however many there are.
            "lr_scheduler_type": "constant",
            "warmup_ratio": 0.0,
        }
        return {
            spec.name: TrainConfig(**common | {"reward": (named,), "output_dir": directory / f"training-{spec.name}"})
            for named, spec in zip(self.rewards, read_specs(self.rewards), strict=True)
            if spec.weight != 0
        }
