"""The options of `rlif retry`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlif.errors import UserError
from rlif.options.checks import Count, Share, check
from rlif.options.groups import (
    BatchOptions,
    CompletionOptions,
    DataOptions,
    Labels,
    LoadingOptions,
    ModelOptions,
    OutputOptions,
    ReadingOptions,
    ResumeOptions,
    SeedOptions,
    Temperature,
    TruncationOptions,
)
from rlif.options.record import check_resume

FEEDBACK = "That answer was judged to be wrong. Solve the problem again from the beginning, in another way."


@dataclass(kw_only=True)
class RetryConfig(
    ModelOptions,
    DataOptions,
    OutputOptions,
    ResumeOptions,
    SeedOptions,
    BatchOptions,
    ReadingOptions,
    CompletionOptions,
    TruncationOptions,
    LoadingOptions,
):
    """Answer each prompt until a discriminator accepts the attempt, and measure what that is worth.

    The discriminator is a logistic regression on the token statistics of a completion: it is fitted on completions of
    `rlif eval`, or was by an earlier `rlif retry`. What it rejects goes into the context of the next attempt (DRR,
    arXiv 2501.01457).
    """

    fit_on: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE")] = ()
    """Fit the discriminator on this completions.jsonl of `rlif eval`, or attempts.jsonl of `rlif retry` if all prompts
    have equally many attempts; of other prompts than those of data. Repeat the option for several."""

    labels: Labels = "gold"
    """What it learns to accept: gold: right answers. majority: answers that most completions of the prompt agree on,
    which needs no gold answer."""

    discriminator: Path | None = None
    """Take this discriminator instead: the discriminator.json of an earlier `rlif retry`."""

    threshold: Share = 0.5
    """Least probability of being right at which an attempt is accepted. One without an answer never is."""

    max_rounds: Count = 5
    """Attempts at a prompt, at most."""

    abstain: bool = False
    """Give no answer where no attempt was accepted. Off: the most probable attempt is the answer."""

    show_rejected: bool = True
    """Show the model its rejected attempts before the next one. Off: it tries again without knowing of them."""

    feedback: str = FEEDBACK
    """The user's sentence after a rejected attempt."""

    output_dir: Path | None = None
    """New directory for discriminator.json, attempts.jsonl, a line a prompt as they come, retry.json and retry.png.
    None: runs/retry-DATE-TIME."""

    temperature: Temperature | None = None
    """Sampling temperature; 0 is greedy. None: that of the completions which the discriminator was fitted on, if their
    directory says it, else 1."""

    split: str | None = None
    """Split to answer, for data with splits; may be a slice, test[:1000]. None: the only one, or test."""

    prompts_per_batch: Count | None = None
    """Prompts worked on at a time: fewer need less memory. None: 256; on a CPU no more than make 2^40 / parameters
    tokens (8,000 at 135M), completions included, for results about each minute."""

    def __post_init__(self) -> None:
        if isinstance(self.fit_on, str | Path):  # a lone name, as a file may have it too
            self.fit_on = (Path(self.fit_on),)

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        check(self)
        check_resume(self, "retry")
        if self.fit_on and self.discriminator is not None:
            raise UserError(f"fit_on: got {str(self.fit_on[0])!r} beside a discriminator, expected one or the other")
        if not self.fit_on and self.discriminator is None:
            raise UserError(
                "discriminator: got none, expected a discriminator.json, or fit_on with a completions.jsonl"
            )
        if not self.feedback.strip():
            raise UserError(f"feedback: got {self.feedback!r}, expected a sentence")
