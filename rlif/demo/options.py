"""The options of `rlif demo`. Loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from rlif.errors import UserError
from rlif.tasks.arithmetic import completion_length
from rlif.tasks.options import MAX_POSITIONS, BaseModelConfig


@dataclass
class DemoConfig:
    """Show the rise and fall of training on confidence, in a few minutes on a laptop and with no download.

    Pretrains a small model on arithmetic (once: it is cached), trains it with the self-certainty and with the
    verifiable reward, and draws both runs.
    """

    output_dir: Path | None = None
    """New directory for data, runs and the figure. None: runs/demo-DATE-TIME."""

    seed: int = 0
    """Seed of the problems, their order and of sampling."""

    max_steps: int = 100
    """Training steps of each run."""

    learning_rate: float = 6e-5
    """Peak learning rate of both runs."""

    prompts_per_step: int = 32
    """Problems in a step, each with 8 sampled solutions."""

    eval_prompts: int = 640
    """Held-out problems of an evaluation, each with 4 sampled solutions."""

    base: BaseModelConfig = field(default_factory=BaseModelConfig)
    """The model that both runs start from."""

    def validate(self) -> None:
        """Check every value.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        for name, minimum in (("max_steps", 1), ("prompts_per_step", 1), ("eval_prompts", 1), ("seed", 0)):
            if getattr(self, name) < minimum:
                raise UserError(f"{name}: got {getattr(self, name)!r}, expected an integer of at least {minimum}")
        if not 0.0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate: got {self.learning_rate!r}, expected a finite number greater than 0")
        if self.seed >= 2**63:
            raise UserError(f"seed: got {self.seed!r}, expected an integer below 2**63")
        task = self.base.task
        length = task.operands * (task.digits + 1) + completion_length(task)
        if length > MAX_POSITIONS:
            raise UserError(
                f"base.task: {task.operands} operands of {task.digits} digits take up to {length} tokens with their "
                f"solution, expected at most {MAX_POSITIONS}"
            )
        self.base.validate()
