"""The options of `rlif introspect`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rlif.errors import UserError
from rlif.options.checks import AtLeast, AtMost, Count, Positive, check
from rlif.options.groups import (
    BatchOptions,
    CompletionOptions,
    HeldOutOptions,
    Labels,
    LoadingOptions,
    LoraOptions,
    MemoryOptions,
    ModelOptions,
    OptimizerOptions,
    OutputOptions,
    ReadingOptions,
    ResumeOptions,
    SeedOptions,
    Temperature,
    TruncationOptions,
)
from rlif.options.record import check_resume

Keep = Literal["all", "better", "best", "success"]
FEEDBACK = "That answer is not right. Look for the mistake, and solve the problem again."


@dataclass(kw_only=True)
class IntrospectConfig(
    ModelOptions,
    HeldOutOptions,
    OutputOptions,
    ResumeOptions,
    SeedOptions,
    BatchOptions,
    ReadingOptions,
    CompletionOptions,
    TruncationOptions,
    OptimizerOptions,
    LoraOptions,
    LoadingOptions,
    MemoryOptions,
):
    """Teach a model to improve on its own attempts, and measure it over several turns, before and after.

    It attempts each prompt; where that is not right, the best of several next attempts that see it becomes the second
    turn. Each attempt is learned from by a weight that grows with its reward (recursive introspection, RISE, arXiv
    2407.18219). The next iteration collects with the model that came out, and learns from all turns so far.
    """

    data: str | None = None
    """Prompts to learn from: a JSONL, JSON, Parquet or CSV file, a directory of them, a Hugging Face hub id, or
    word_problems:level=2,n=256. None: with 0 iterations, which only measure."""

    output_dir: Path | None = None
    """New directory for everything: collected turns, trainings, the tuned model in model/, introspect.json and
    introspect.png. None: runs/introspect-DATE-TIME."""

    labels: Labels = "gold"
    """What is right. gold: gold answers. majority: the most common answer of num_candidates first attempts, which needs
    no gold answer; a prompt on which no two agree is left out."""

    iterations: Annotated[int, AtLeast(0)] = 2
    """Rounds of collecting turns and learning from all that were collected so far, each time from the start model.
    0: only measure the model over turns."""

    train_turns: Annotated[int, AtLeast(2)] = 2
    """Attempts at a prompt to collect, at most: none follows a right one."""

    num_candidates: Count = 16
    """Attempts of which the best by reward becomes a later turn."""

    blind_iterations: Annotated[int, AtLeast(0)] = 0
    """Iterations, the first ones, whose candidates do not see the earlier attempts, but are learned as what follows
    them: for a model that an attempt in its context leads astray. The paper has a stronger model there."""

    keep: Keep = "all"
    """Attempts to learn from. all. better: first ones, and those with more reward than the one before. best: those
    that no earlier one of the prompt surpasses. success: right ones."""

    tau: Positive = 0.4
    """An attempt weighs exp(reward / tau), where the reward is 1 for a right one, 0 for a wrong one and -1 for one
    without an answer."""

    turns: Annotated[int, AtLeast(2)] = 5
    """Turns to measure, and independent samples to compare with."""

    window: Annotated[int, AtLeast(2)] = 2
    """Turns that an attempt sees, its own included: the prompt and the last window - 1 attempts."""

    feedback: str = FEEDBACK
    """The user's sentence after every attempt, right or wrong."""

    temperature: Temperature = 1.0
    """Sampling temperature. In measuring, 0 is greedy, and independent samples are all the same."""

    num_train_epochs: Count = 2
    """Times that each attempt is learned from in an iteration."""

    items_per_step: Count = 16
    """Attempts in a step."""

    learning_rate: Positive = 1e-5
    """Peak learning rate of AdamW."""

    warmup_ratio: Annotated[float, AtLeast(0), AtMost(1)] = 0.04
    """Share of the steps in which the learning rate rises linearly to its peak."""

    save_steps: Count = 100
    """Steps between checkpoints, from which an interrupted training goes on."""

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        check(self)
        check_resume(self, "introspection")
        if self.iterations and self.data is None:
            raise UserError("data: got none, expected prompts to learn from, or --iterations 0 to measure alone")
        if not self.iterations and self.eval_data is None:
            raise UserError("eval_data: got none with 0 iterations, expected held-out prompts to measure on")
        if self.iterations and self.temperature == 0:
            raise UserError("temperature: got 0, at which all candidates are the same; expected above 0")
        if self.labels == "majority" and self.num_candidates < 2:
            raise UserError(f"num_candidates: got {self.num_candidates} with majority, expected at least 2")
        if not self.feedback.strip():
            raise UserError(f"feedback: got {self.feedback!r}, expected a sentence")
