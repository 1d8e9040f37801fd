"""The options of `rlif diagnose`. Loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlif.errors import UserError
from rlif.options.checks import require_integer
from rlif.options.groups import Dtype
from rlif.rewards import load_rewards
from rlif.rewards.registry import INTERNAL_REWARDS


@dataclass
class DiagnoseConfig:
    """Say before any training, and without labels, whether a reward is likely to help a model.

    Samples a group of completions of each prompt once, and measures how unsure the model is, how far its answers
    agree, and whether each reward prefers the answers that most of a group agree on.
    """

    model: str
    """Model directory or Hugging Face hub id."""

    data: str
    """Prompts: a JSONL, JSON, Parquet or CSV file, a directory of them, or a Hugging Face hub id. Gold answers, where
    there are any, are reported beside and not used."""

    reward: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="NAME", help_behavior_hint=f"(default: {', '.join(INTERNAL_REWARDS)})"),
    ] = ()
    """Reward to judge, as of rlif train; repeat the option for several. Each is judged by itself."""

    data_config: str | None = None
    """Configuration (subset) of a hub dataset, where it has several."""

    split: str | None = None
    """Split of data with splits; may be a slice, train[:1000]. None: the only one, or train."""

    prompt_column: str = "prompt"
    """Column with the prompt: text, or a conversation as a list of messages with `role` and `content`."""

    answer_column: str = "answer"
    """Column with the gold answer. Of a whole solution, what follows the last #### or stands in the last \\boxed{}."""

    chat: bool = False
    """Put prompts that are plain text into the tokenizer's chat template too. Conversations always are."""

    system_prompt: str | None = None
    """System message before every conversation. Implies chat."""

    num_prompts: int = 128
    """Prompts to sample for, drawn from the data if it has more. Intervals shrink with their square root."""

    num_generations: int = 8
    """Completions sampled for each prompt: the group within which answers agree. At least 2."""

    max_completion_length: int = 256
    """Longest completion, in tokens; a longer one is cut off."""

    temperature: float = 1.0
    """Sampling temperature: that of the training. Measures see the distribution at this temperature too."""

    batch_size: int = 32
    """Prompts sampled at a time: fewer need less memory."""

    max_tokens_per_forward: int = 8192
    """Tokens in one forward of the scoring, padding included: fewer need less memory."""

    fused_head: bool = True
    """Apply the head in tiles, so that logits are never in memory. Off: the model's own logits."""

    attn_implementation: str | None = None
    """Attention, as transformers names it: eager, sdpa, flash_attention_2, … None: its own choice."""

    device: str = "auto"
    """Device, as torch names it (cpu, cuda, cuda:1, mps). auto: cuda if there is one, else cpu."""

    dtype: Dtype = "float32"
    """Data type of weights and activations."""

    seed: int = 0
    """Seed of the choice of prompts, of sampling and of the intervals."""

    json: str | None = None
    """File to write everything to as JSON too; - writes it to the standard output, and nothing else."""

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        load_rewards(self.reward or INTERNAL_REWARDS)
        for name, minimum, why in (
            ("num_prompts", 1, ""),
            ("num_generations", 2, ": agreement is within a group"),
            ("max_completion_length", 1, ""),
            ("batch_size", 1, ""),
            ("max_tokens_per_forward", 1, ""),
            ("seed", 0, ""),
        ):
            require_integer(name, getattr(self, name), minimum, why)
        if not (isinstance(self.temperature, int | float) and 0 < self.temperature < math.inf):
            raise UserError(f"temperature: got {self.temperature!r}, expected a finite number greater than 0")
        if self.json not in (None, "-") and not Path(self.json).expanduser().absolute().parent.is_dir():
            raise UserError(f"json: cannot write {self.json}: there is no such directory")
