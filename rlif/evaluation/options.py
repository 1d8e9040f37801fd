"""The options of `rlif eval`. Loads no torch."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import get_args

from rlif.errors import UserError
from rlif.options.groups import Dtype


@dataclasses.dataclass
class EvalConfig:
    """Measure a model's samples: accuracy, voting, best-of-N by confidence, and calibration.

    Samples a group of completions for every prompt, with the confidence of each from the sampling pass itself, or reads
    completions from a file. Without gold answers it measures what needs none.
    """

    model: str | None = None
    """Model to sample from: a directory saved by transformers, or a Hugging Face hub id."""

    data: str | None = None
    """Prompts: a JSONL, JSON, Parquet or CSV file, a directory of them, or a Hugging Face hub id."""

    completions: Path | None = None
    """Measure the completions in this file instead: a completions.jsonl of `rlif eval`, or lines of that form."""

    output_dir: Path | None = None
    """New directory for completions, results and figures. None: runs/eval-DATE-TIME."""

    data_config: str | None = None
    """Configuration (subset) of a hub dataset, where it has several."""

    split: str | None = None
    """Split to evaluate on, for data with splits; may be a slice, test[:1000]. None: the only one, or test."""

    prompt_column: str = "prompt"
    """Column with the prompt: text, or a conversation as a list of messages with `role` and `content`."""

    answer_column: str = "answer"
    """Column with the gold answer. Of a whole solution, what follows the last #### or stands in the last \\boxed{}."""

    chat: bool = False
    """Put prompts that are plain text into the tokenizer's chat template too. Conversations always are."""

    system_prompt: str | None = None
    """System message before every conversation. Implies chat."""

    num_generations: int = 8
    """Completions sampled for each prompt."""

    max_completion_length: int = 256
    """Longest completion, in tokens; a longer one is cut off."""

    temperature: float = 1.0
    """Sampling temperature, 0 being greedy. Confidence is that of the distribution at this temperature, or at 1."""

    top_k: int = 0
    """Sample from the k most likely tokens only; 0 from all. Confidence is that of the whole distribution."""

    top_p: float = 1.0
    """Sample from the most likely tokens that make up this probability only, likewise."""

    max_batch_tokens: int = 16384
    """Tokens of prompts and completions sampled at a time: fewer need less memory. Every prompt has its own random
    numbers."""

    num_bins: int = 10
    """Bins of the calibration error and of the reliability diagram, of equal width."""

    resume: bool = False
    """Go on with the evaluation in output_dir where it stopped."""

    attn_implementation: str | None = None
    """Attention, as transformers names it: eager, sdpa, flash_attention_2, … None: its own choice."""

    device: str = "auto"
    """Device, as torch names it (cpu, cuda, cuda:1, mps). auto: cuda if there is one, else cpu."""

    dtype: Dtype = "float32"
    """Data type of weights and activations."""

    seed: int = 0
    """Seed of sampling."""

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        if self.completions is not None:
            for name in ("model", "data"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"{name}: got {getattr(self, name)!r} beside completions, expected one or the other"
                    )
            if self.resume:
                raise UserError("resume: got completions, of which none are left to sample; expected a model and data")
        elif self.model is None or self.data is None:
            missing = "model" if self.model is None else "data"
            raise UserError(f"{missing}: got none, expected a model and data, or completions")
        if self.resume and self.output_dir is None:
            raise UserError("output_dir: got none, expected the directory of the evaluation to resume")
        for name, minimum in (
            ("num_generations", 1),
            ("max_completion_length", 1),
            ("max_batch_tokens", 1),
            ("num_bins", 1),
            ("top_k", 0),
            ("seed", 0),
        ):
            if getattr(self, name) < minimum:
                raise UserError(f"{name}: got {getattr(self, name)!r}, expected an integer of at least {minimum}")
        if self.seed >= 2**63:
            raise UserError(f"seed: got {self.seed!r}, expected an integer below 2**63")
        if not 0.0 <= self.temperature < math.inf:
            raise UserError(f"temperature: got {self.temperature!r}, expected a finite number of at least 0")
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"top_p: got {self.top_p!r}, expected a number greater than 0 and at most 1")
        if self.dtype not in get_args(Dtype):
            raise UserError(f"dtype: got {self.dtype!r}, expected one of {', '.join(get_args(Dtype))}")
