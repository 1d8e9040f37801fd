"""The built-in start models' sizes and how they are made. Loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rlif.errors import UserError
from rlif.tasks.arithmetic import ArithmeticConfig

# Tokens that the model has positions for.
MAX_POSITIONS = 512


@dataclass(frozen=True)
class BaseModelConfig:
    """The base model's size and how it is pretrained; every field is part of the cache key."""

    task: ArithmeticConfig = field(default_factory=ArithmeticConfig)
    """The problems and their teacher."""
    hidden_size: int = 128
    """Width of the residual stream; a multiple of 64."""
    num_hidden_layers: int = 2
    """Transformer layers."""
    pretraining_steps: int = 600
    """Optimizer steps of pretraining."""
    pretraining_batch_size: int = 64
    """Traces a step, each used once."""
    pretraining_learning_rate: float = 3e-3
    """Peak learning rate of AdamW; linear warm-up, then cosine decay."""
    label_smoothing: float = 3e-4
    """Share of the target probability spread over the vocabulary: bounds the logits of tokens that never occur."""
    seed: int = 0
    """Seed of the weights and of the traces."""

    def validate(self) -> None:
        """Check every value, the task's too.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        self.task.validate()
        if self.hidden_size < 1 or self.hidden_size % 64:
            raise UserError(f"hidden_size: got {self.hidden_size!r}, expected a positive multiple of 64")
        for name in ("num_hidden_layers", "pretraining_steps", "pretraining_batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: got {getattr(self, name)!r}, expected an integer of at least 1")
        if not 0.0 < self.pretraining_learning_rate < math.inf:
            raise UserError(
                f"pretraining_learning_rate: got {self.pretraining_learning_rate!r}, expected a finite number above 0"
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"base.seed: got {self.seed!r}, expected an integer from 0 to 2**63 - 1")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UserError(f"label_smoothing: got {self.label_smoothing!r}, expected a number in [0, 1)")


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
    steps: int = 400
    """Optimizer steps of tuning."""
    batch_size: int = 64
    """Traces a step, each used once."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; linear warm-up, then cosine decay."""
    seed: int = 1
    """Seed of the traces."""

    def validate(self) -> None:
        """Check every value, the base's too.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        self.base.validate()
        self.task.validate()
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: got {getattr(self, name)!r}, expected an integer of at least 1")
        if not 0.0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate: got {self.learning_rate!r}, expected a finite number above 0")
