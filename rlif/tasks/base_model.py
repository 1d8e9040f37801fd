"""The built-in start models, made on first use and cached: a base model, and the same tuned until it is sure.

The base is a small Qwen3 pretrained on the imperfect teacher's traces, the instruct-like one is tuned from it.

The cache is `RLIF_CACHE_DIR`, or the user's cache directory. A model's directory is named by a hash of its whole
configuration and appears in one rename once it is complete, so an interrupted pretraining leaves no half model and
two processes at once only waste work. The directory is an ordinary Hugging Face one.

Needs no torch at import, so that the command line can show the options at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from rich.console import Console

from rlif.errors import UserError
from rlif.tasks.arithmetic import ALPHABET, ArithmeticConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Part of the cache key: raise it whenever the same configuration would give another model.
_FORMAT_VERSION = 1
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


def cache_dir() -> Path:
    """Where base models are kept: the environment variable RLIF_CACHE_DIR, else the user's cache directory."""
    return Path(os.environ.get("RLIF_CACHE_DIR") or platformdirs.user_cache_dir("rlif"))


def base_model_dir(config: BaseModelConfig) -> Path:
    """The directory of this configuration's model, whether it exists yet or not."""
    return cache_dir() / f"base-{_key(config)}"


def pretrained_base(config: BaseModelConfig, console: Console | None = None) -> Path:
    """The directory of the pretrained base model; pretrains it if the cache does not have it yet.

    `console` shows a progress bar while pretraining; None pretrains silently. The caller's random state is left alone.

    Raises:
        UserError: a bad value in the configuration, or no cache directory can be made.
    """
    config.validate()

    def make() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        from rlif.tasks.pretraining import pretrain

        return pretrain(config, console)

    return _cached(base_model_dir(config), make)


def tuned_instruct(config: InstructModelConfig, console: Console | None = None) -> Path:
    """The directory of the instruct-like model; tunes it, from its base, if the cache does not have it yet.

    Raises:
        UserError: as `pretrained_base`.
    """
    config.validate()

    def make() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        from rlif.tasks.pretraining import tune

        return tune(config, console)

    return _cached(cache_dir() / f"instruct-{_key(config)}", make)


def _key(config: BaseModelConfig | InstructModelConfig) -> str:
    key = json.dumps({"format": _FORMAT_VERSION, "alphabet": ALPHABET, **asdict(config)}, sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _cached(directory: Path, make: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]) -> Path:
    """The directory, which `make`'s model and tokenizer are saved in if it does not exist."""
    if directory.is_dir():
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"RLIF_CACHE_DIR: cannot make {directory.parent}: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=directory.parent) as unfinished:
        model, tokenizer = make()
        complete = Path(unfinished) / "model"
        model.save_pretrained(complete)
        tokenizer.save_pretrained(complete)
        try:
            complete.replace(directory)
        except OSError:
            # A directory never replaces one that has files: another process finished the same model first.
            if not directory.is_dir():
                raise
    return directory
