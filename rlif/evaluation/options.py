"""The options of `rlif eval`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from rlif.errors import UserError
from rlif.options.checks import AtLeast, Count, check
from rlif.options.groups import (
    LoadingOptions,
    OutputOptions,
    ReadingOptions,
    ResumeOptions,
    SamplingOptions,
    SeedOptions,
    Temperature,
    TruncationOptions,
)
from rlif.options.record import check_resume
from rlif.options.verification import VerificationOptions, check_verification


@dataclass(kw_only=True)
class EvalVerificationOptions(VerificationOptions):
    """How the model is asked to verify each completion, for the score `verification`."""

    heading: ClassVar[str] = "verification"

    verify_generations: Annotated[int, AtLeast(0)] = 0
    """Verifications sampled of each completion, by the same model, unless it comes from a file, temperature and longest
    completion (RISE, arXiv 2505.13445). The score is the share of them that call it right. 0: none, and no score."""


@dataclass(kw_only=True)
class EvalConfig(
    OutputOptions,
    ResumeOptions,
    SeedOptions,
    ReadingOptions,
    SamplingOptions,
    TruncationOptions,
    EvalVerificationOptions,
    LoadingOptions,
):
    """Measure a model's samples: accuracy, voting, best-of-N by confidence, and calibration.

    Samples a group of completions for every prompt, with the confidence of each from the sampling pass itself, or reads
    completions from a file. Without gold answers it measures what needs none.
    """

    model: str | None = None
    """Model to sample from: a directory saved by transformers, or a Hugging Face hub id."""

    data: str | None = None
    """Prompts: a JSONL, JSON, Parquet or CSV file, a directory of them, a Hugging Face hub id, or
    word_problems:level=2,n=256."""

    completions: Path | None = None
    """Measure the completions in this file instead: a completions.jsonl of `rlif eval`, or lines of that form. With
    --verify-generations the model verifies all of them, and data has their prompts, in the same order."""

    output_dir: Path | None = None
    """New directory for completions, results and figures. None: runs/eval-DATE-TIME."""

    split: str | None = None
    """Split to evaluate on, for data with splits; may be a slice, test[:1000]. None: the only one, or test."""

    temperature: Temperature = 1.0
    """Sampling temperature, 0 being greedy. Confidence is that of the distribution at this temperature, or at 1."""

    max_batch_tokens: Count | None = None
    """Tokens of prompts and completions sampled at a time: fewer need less memory. Every prompt has its own random
    numbers. None: 16384; on a CPU at most 2^40 / parameters (8,000 at 135M), for results about each minute."""

    confidence_window: Count = 64
    """Tokens of a window, of the scores that look at stretches of a completion (DeepConf, arXiv 2508.15260, which takes
    up to 2048). Of a shorter completion they are the mean of all its tokens."""

    analyses: Count = 1
    """Analyses of each answer between tags, whose stated confidences are averaged to the score verbalized_mean: with
    4, the completion's own and three that are drawn behind the same answer (RLCR, arXiv 2507.16806). 1: its own."""

    num_bins: Count = 10
    """Bins of the calibration error and of the reliability diagram, of equal width."""

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        if self.completions is not None and self.analyses != 1:
            raise UserError(f"analyses: got {self.analyses} beside completions, which are not continued; expected 1")
        if self.completions is not None and self.verify_generations:
            for name, what in (("model", "the model that verifies the completions"), ("data", "their prompts")):
                if getattr(self, name) is None:
                    raise UserError(f"{name}: got none beside completions and verify_generations, expected {what}")
        elif self.completions is not None:
            for name in ("model", "data"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"{name}: got {getattr(self, name)!r} beside completions, expected one or the other, or "
                        "verify_generations above 0 and a model that verifies them"
                    )
            if self.resume:
                raise UserError("resume: got completions, which leave nothing to sample; expected a model and data")
        elif self.model is None or self.data is None:
            missing = "model" if self.model is None else "data"
            raise UserError(f"{missing}: got none, expected a model and data, or completions")
        check_resume(self, "evaluation")
        check(self)
        check_verification(self)
