"""The options of `rlif explain`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlif.errors import UserError
from rlif.options.checks import AtLeast, Count, Positive, check
from rlif.options.groups import (
    BatchOptions,
    DataOptions,
    LoadingOptions,
    MemoryOptions,
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


@dataclass(kw_only=True)
class ExplainConfig(
    RewardNames,
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
    """Say what a training really rewarded, from the model before it and the model after it alone.

    How much more likely a completion became is the reward that the training followed, up to a constant of each prompt.
    Samples of both models are compared by it, and with confidence, agreement, length and right answers.
    """

    start: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="START")]
    """Model before the training: a directory saved by transformers, a GGUF file, or a Hugging Face hub id."""

    tuned: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TUNED")]
    """Model after it, with the same tokenizer; may be a directory with a LoRA adapter."""

    data: str
    """Prompts, best ones that were not trained on: a JSONL, JSON, Parquet or CSV file, a directory of them, a Hugging
    Face hub id, or word_problems:level=2,n=256. Gold answers, where there are any, are one more thing to compare."""

    reward: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")] = ()
    """Reward to compare with besides those that always are, as of rlif train; repeat the option for several."""

    num_generations: Annotated[int, AtLeast(2, why=": completions of one prompt are compared")] = 8
    """Completions of each prompt sampled from each of the two models. At least 2."""

    temperature: Positive = 1.0
    """Sampling temperature: that of the training. Both models' probabilities are those at this temperature."""

    output_dir: Path | None = None
    """New directory for the samples in numbers, as they come, explanation.json and explanation.png. None:
    runs/explain-DATE-TIME."""

    prompts_per_batch: Count | None = None
    """Prompts sampled at a time: fewer need less memory. None: 32; on a CPU no more than make 2^40 / parameters tokens
    (8,000 at 135M), completions included, for results about each minute."""

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        check(self)
        check_resume(self, "explanation")
        if self.reward:
            read_specs(self.reward)
        if self.start == self.tuned:
            raise UserError(f"tuned: got {self.tuned!r}, the start model itself; expected the model after a training")
