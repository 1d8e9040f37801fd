"""The built-in start models' sizes and how they are made. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from rlif.errors import UserError
from rlif.options.checks import AtLeast, Below, Count, Positive, check
from rlif.options.groups import Seed
from rlif.tasks.arithmetic import ArithmeticConfig

# Tokens that the model has positions for.
MAX_POSITIONS = 512


@dataclass(frozen=True)
class BaseModelConfig:
    """The base model's size and how it is pretrained; every field is part of the cache key."""

    task: ArithmeticConfig = field(default_factory=ArithmeticConfig)
    """The problems and their teacher."""
    hidden_size: Count = 128
    """Width of the residual stream; a multiple of 64."""
    num_hidden_layers: Count = 2
    """Transformer layers."""
    pretraining_steps: Count = 600
    """Optimizer steps of pretraining."""
    pretraining_batch_size: Count = 64
    """Traces a step, each used once."""
    pretraining_learning_rate: Positive = 3e-3
    """Peak learning rate of AdamW; linear warm-up, then cosine decay."""
    label_smoothing: Annotated[float, AtLeast(0), Below(1)] = 3e-4
    """Share of the target probability spread over the vocabulary: bounds the logits of tokens that never occur."""
    seed: Seed = 0
    """Seed of the weights and of the traces."""

    def validate(self) -> None:
        """Check every value, the task's too.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        check(self)
        if self.hidden_size % 64:
            raise UserError(f"hidden_size: got {self.hidden_size!r}, expected a positive multiple of 64")


@dataclass(frozen=True)
class InstructModelConfig:
    """The same model tuned on: what instruction tuning does to a base model's entropy, on the built-in task.

    The better teacher never slips at random, so the tuned model is sure of what it does. It keeps one misconception,
    so that there is something left to learn from labels: being sure and being right are two things.
    """

    base: BaseModelConfig = field(default_factory=BaseModelConfig)
    """The model to tune."""
    task: ArithmeticConfig = field(default_factory=lambda: ArithmeticConfig(errors="systematic", error_rate=0.2))
    """The problems and the better teacher."""
    steps: Count = 400
    """Optimizer steps of tuning."""
    batch_size: Count = 64
    """Traces a step, each used once."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of AdamW; linear warm-up, then cosine decay."""
    seed: Seed = 1
    """Seed of the traces."""

    def validate(self) -> None:
        """Check every value, the base's too.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        check(self)
        self.base.validate()
