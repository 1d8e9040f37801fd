"""`rlif explain`: sample from the model before a training and the one after it, and say what the training rewarded."""

from __future__ import annotations

from pathlib import Path

from rlif.data.prompts import Prompt
from rlif.diagnosis.command import drawn_prompts
from rlif.doing import doing
from rlif.explanation.measure import measure
from rlif.explanation.options import ExplainConfig
from rlif.explanation.report import show, write_explanation
from rlif.explanation.samples import Samples, sample_both
from rlif.files.lock import Lock
from rlif.models.language_model import LanguageModel, load_with_options
from rlif.models.sources import check_model_path
from rlif.options.record import check_unchanged, make_directory, output_directory
from rlif.terminal import make_console

SAMPLES_FILE = "samples.jsonl"
# What has no part in what is sampled and measured, but for rounding: it may differ when an explanation is resumed.
EXPLAIN_CHANGEABLE = frozenset({"device", "prompts_per_batch", "max_tokens_per_forward", "fused_head"})


def run(config: ExplainConfig) -> None:
    """Sample, measure, write what was found, and print a table and sentences.

    Raises:
        UserError: bad input, before any work starts where it shows by then; what was sampled before is kept.
        KeyboardInterrupt: Ctrl-C; what was sampled before is kept, and the message says how to go on.
    """
    config.validate()
    check_model_path(config.start, "start")
    check_model_path(config.tuned, "tuned")
    output_dir = output_directory(config, "explain", what="explanation")
    with Lock(output_dir) as lock:
        prompts = drawn_prompts(config, config.reward)
        if config.resume:
            check_unchanged(
                output_dir,
                config,
                changeable=EXPLAIN_CHANGEABLE,
                what=f"explanation in {output_dir}",
                prog="rlif explain",
            )
        start, tuned = (load_with_options(config, name) for name in (config.start, config.tuned))
        make_directory(output_dir, config, lock)
        try:
            samples = _samples(config, start, tuned, prompts, output_dir / SAMPLES_FILE)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(
                f"interrupted: what was sampled is in {output_dir}; the same command with --output-dir {output_dir} "
                "--resume goes on"
            ) from interrupt
        with doing("comparing"):
            explanation = measure(samples, seed=config.seed)
        write_explanation(config, explanation, samples, output_dir)
    show(explanation, make_console())
    print(f"\nsamples, explanation.json and explanation.png are in {output_dir}")


def _samples(
    config: ExplainConfig, start: LanguageModel, tuned: LanguageModel, prompts: list[Prompt], parts: Path
) -> Samples:
    """Sample as the options say, and keep the samples in a file."""
    return sample_both(
        start,
        tuned,
        prompts,
        reward=config.reward,
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        chat=config.chat,
        system_prompt=config.system_prompt,
        answer_style=config.answer_style,
        batch_size=config.prompts_per_batch,
        memory=config,
        seed=config.seed,
        console=make_console(errors=True),
        parts=parts,
    )
