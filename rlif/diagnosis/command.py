"""`rlif diagnose`: measure a model and rewards before any training, and say what to expect."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlif.data.prompts import Prompt, read_with_options
from rlif.diagnosis.diagnose import Diagnosis, diagnose
from rlif.diagnosis.options import DiagnoseConfig
from rlif.diagnosis.report import show, write_diagnosis
from rlif.diagnosis.short_training import train_shortly
from rlif.files.lock import Lock
from rlif.models.language_model import LanguageModel, load_with_options
from rlif.options.record import check_unchanged, make_directory, output_directory
from rlif.rewards import load_rewards
from rlif.terminal import make_console

if TYPE_CHECKING:
    from rlif.explanation.options import ExplainConfig

SAMPLES_FILE = "samples.jsonl"
# What has no part in what is sampled and measured, but for rounding: it may differ when a diagnosis is resumed.
DIAGNOSE_CHANGEABLE = frozenset({"device", "prompts_per_batch", "max_tokens_per_forward", "fused_head", "json"})


def run(config: DiagnoseConfig) -> None:
    """Measure, train shortly if that is wanted, write what was found, and print tables and sentences or JSON.

    Raises:
        UserError: bad input, before any work starts where it shows by then; what was sampled before is kept.
        KeyboardInterrupt: Ctrl-C; what was sampled before is kept, and the message says how to go on.
    """
    config.validate()
    output_dir = output_directory(config, "diagnose", what="diagnosis")
    with Lock(output_dir) as lock:
        prompts = drawn_prompts(config, config.rewards)
        if config.resume:
            check_unchanged(
                output_dir,
                config,
                changeable=DIAGNOSE_CHANGEABLE,
                what=f"diagnosis in {output_dir}",
                prog="rlif diagnose",
            )
        language_model = load_with_options(config, config.model)
        make_directory(output_dir, config, lock)
        try:
            diagnosis = _diagnose(config, language_model, prompts, output_dir / SAMPLES_FILE)
            if config.steps is not None:
                del language_model  # a training loads its own, from the same place
                diagnosis = train_shortly(config, diagnosis, output_dir)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(
                f"interrupted: what was done is in {output_dir}; the same command with --output-dir {output_dir} "
                "--resume goes on"
            ) from interrupt
        write_diagnosis(config, diagnosis, output_dir)
    if config.json != "-":
        show(diagnosis, make_console())
        training = ", the logs of each short training in its folder there" if config.steps is not None else ""
        print(f"\nsamples and diagnosis.json are in {output_dir}{training}")


def drawn_prompts(config: DiagnoseConfig | ExplainConfig, rewards: Sequence[str]) -> list[Prompt]:
    """Read the prompts to sample for, and draw as many as are wanted if there are more.

    Args:
        config: where they are, how many, and the seed.
        rewards: names of those that will be computed; where one needs gold answers every prompt must have one.
    """
    need_answers = bool(rewards) and load_rewards(rewards).needs_answers
    prompts = read_with_options(config, config.data, config.split, need_answers=need_answers)
    if len(prompts) > config.num_prompts:
        prompts = random.Random(config.seed).sample(prompts, config.num_prompts)
    return prompts


def _diagnose(config: DiagnoseConfig, language_model: LanguageModel, prompts: list[Prompt], samples: Path) -> Diagnosis:
    """Measure as the options say, and keep the samples in a file."""
    return diagnose(
        language_model,
        prompts,
        reward=config.rewards,
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        chat=config.chat,
        system_prompt=config.system_prompt,
        answer_style=config.answer_style,
        batch_size=config.prompts_per_batch,
        max_tokens_per_forward=config.max_tokens_per_forward,
        fused_head=config.fused_head,
        share_prompts=config.share_prompts,
        seed=config.seed,
        console=make_console(errors=True),
        parts=samples,
    )
