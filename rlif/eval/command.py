"""`rlif eval`: the options, and what runs with them.

Imports neither torch nor matplotlib until it runs, so that the command line can answer at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import get_args

from rlif.config import Dtype
from rlif.errors import UserError

# What has no part in what is sampled: it may differ when an evaluation is resumed.
CHANGEABLE = frozenset({"output_dir", "resume", "device", "max_batch_tokens", "num_bins"})
CONFIG_FILE = "config.json"
COMPLETIONS_FILE = "completions.jsonl"


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


def run_eval(config: EvalConfig) -> None:
    """Sample or read completions, measure them, print the tables and write everything to the output directory.

    Raises:
        UserError: bad input; what was sampled before is kept.
        KeyboardInterrupt: Ctrl-C; likewise, and the message says how to go on.
    """
    config.validate()
    from rlif.eval.completions import read_completions

    if config.completions is not None:
        completions = read_completions(config.completions)
        output_dir = prepare_output_dir(config)
    else:
        from rlif.eval.sampling import prepare_sampling

        # Model and data are checked before a directory is made.
        sampling = prepare_sampling(config)
        output_dir = prepare_output_dir(config)
        sampling.run(output_dir / COMPLETIONS_FILE)
        completions = read_completions(output_dir / COMPLETIONS_FILE)

    from rlif.eval.measure import evaluate_completions
    from rlif.eval.report import print_tables, write_report

    try:
        evaluation = evaluate_completions(completions, num_bins=config.num_bins)
        write_report(evaluation, completions, output_dir)
    except KeyboardInterrupt as interrupt:
        if config.completions is not None:
            raise
        raise KeyboardInterrupt(
            f"interrupted: all completions are in {output_dir / COMPLETIONS_FILE}; the same command with --output-dir "
            f"{output_dir} --resume measures them"
        ) from interrupt
    print_tables(evaluation)
    sampled = "" if config.completions else "completions, "
    print(f"\n{sampled}results and figures are in {output_dir}")


def prepare_output_dir(config: EvalConfig) -> Path:
    """Make the directory with the configuration in it, or find that of the evaluation to resume.

    Raises:
        UserError: it exists and nothing is resumed, it cannot be made, or its evaluation had other options.
    """
    output_dir = (config.output_dir or Path("runs") / f"eval-{time.strftime('%Y%m%d-%H%M%S')}").expanduser()
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in dataclasses.asdict(config).items()
    }
    try:
        if config.resume:
            saved = json.loads((output_dir / CONFIG_FILE).read_text(encoding="utf-8"))
            for name, value in settings.items():
                if name not in CHANGEABLE and saved[name] != value:
                    raise UserError(
                        f"resume: {name} is {value!r}, but the evaluation in {output_dir} had {saved[name]!r}; "
                        "expected no change"
                    )
        elif output_dir.exists():
            raise UserError(f"output_dir: {output_dir} exists, expected a new directory, or --resume to go on in it")
        else:
            output_dir.mkdir(parents=True)
            (output_dir / CONFIG_FILE).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    except (OSError, ValueError, KeyError) as error:
        what = "cannot resume" if config.resume else "cannot make"
        reason = error.strerror if isinstance(error, OSError) else f"{CONFIG_FILE} is damaged ({error})"
        raise UserError(f"output_dir: {what} {output_dir}: {reason}") from error
    return output_dir
