"""The options of `rlif diagnose`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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
        read_specs(self.reward or INTERNAL)
        if self.json not in (None, "-") and not Path(self.json).expanduser().absolute().parent.is_dir():
            raise UserError(f"json: cannot write {self.json}: there is no such directory")
