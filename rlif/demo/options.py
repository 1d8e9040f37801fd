"""The options of `rlif demo`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rlif.errors import UserError
from rlif.options.checks import Count, Positive, check
from rlif.options.groups import OutputOptions, ResumeOptions, SeedOptions, StepOptions
from rlif.options.record import check_resume
from rlif.tasks.arithmetic import completion_length
from rlif.tasks.options import MAX_POSITIONS, BaseModelConfig


@dataclass(kw_only=True)
class DemoConfig(OutputOptions, ResumeOptions, SeedOptions, StepOptions):
    """Show the rise and fall of training on confidence, in a few minutes on a laptop and with no download.

    Pretrains a small model on arithmetic (once: it is cached), trains it with the self-certainty and with the
    verifiable reward, and draws both runs.
    """

    output_dir: Path | None = None
    """New directory for data, runs and the figure. None: runs/demo-DATE-TIME."""

    learning_rate: Positive = 6e-5
    """Peak learning rate of both runs."""

    prompts_per_step: Count = 32
    """Problems in a step, each with 8 sampled solutions."""

    eval_prompts: Count = 640
    """Held-out problems of an evaluation, each with 4 sampled solutions."""

    base: BaseModelConfig = field(default_factory=BaseModelConfig)
    """The model that both runs start from."""

    def validate(self) -> None:
        """Check every value.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        check(self)
        check_resume(self, "demonstration")
        task = self.base.task
        length = task.operands * (task.digits + 1) + completion_length(task)
        if length > MAX_POSITIONS:
            raise UserError(
                f"base.task: {task.operands} operands of {task.digits} digits take up to {length} tokens with their "
                f"solution, expected at most {MAX_POSITIONS}"
            )
        self.base.validate()
