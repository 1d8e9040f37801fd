"""`rlif retry`: fit or read a discriminator, try each prompt until it accepts, and measure what that is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlif.data.prompts import Prompt, answer_style_of, read_with_options
from rlif.doing import doing
from rlif.evaluation.sampling import append_rows
from rlif.files.lock import Lock
from rlif.models.language_model import LanguageModel, load_with_options
from rlif.models.sources import check_model_path
from rlif.options.record import check_unchanged, make_directory, output_directory
from rlif.retry.attempts import Retrying
from rlif.retry.discriminator import (
    ATTEMPTS_FILE,
    DISCRIMINATOR_FILE,
    Discriminator,
    fit_discriminator,
    read_discriminator,
)
from rlif.retry.measure import measure, read_attempts
from rlif.retry.options import RetryConfig
from rlif.retry.report import show, show_discriminator, write_retry
from rlif.rollouts.decoding_check import check_decoding
from rlif.rollouts.encode import EncodedPrompt, encode_prompts
from rlif.terminal import make_console

# What has no part in what is sampled and measured, but for rounding: it may differ when a retry is resumed.
RETRY_CHANGEABLE = frozenset({"device", "prompts_per_batch"})


def run(config: RetryConfig) -> None:
    """Fit, try and try again, measure, write what was found, and print tables.

    Raises:
        UserError: bad input, before any work starts where it shows by then; what was sampled before is kept.
        KeyboardInterrupt: Ctrl-C; what was sampled before is kept, and the message says how to go on.
    """
    config.validate()
    check_model_path(config.model)
    output_dir = output_directory(config, "retry", what="retry")
    with Lock(output_dir) as lock:
        prompts = read_with_options(config, config.data, config.split, default_split="test")
        config, discriminator = _resolved(config, prompts, output_dir)
        if config.resume:
            check_unchanged(
                output_dir, config, changeable=RETRY_CHANGEABLE, what=f"retry in {output_dir}", prog="rlif retry"
            )
        language_model = load_with_options(config, config.model)
        retrying = Retrying(config, language_model, _encoded(config, language_model, prompts), discriminator)
        if config.show_rejected:
            retrying.turns.check(retrying.prompts)
        make_directory(output_dir, config, lock)
        if not (output_dir / DISCRIMINATOR_FILE).exists():
            discriminator.write(output_dir / DISCRIMINATOR_FILE)
        asked = [prompt.text for prompt in retrying.prompts]
        show_discriminator(discriminator, asked, make_console(), threshold=config.threshold)
        append_rows(output_dir / ATTEMPTS_FILE, retrying.prompts, retrying.batch_size(), retrying.rows)
        try:
            with doing("measuring"):
                tried = read_attempts(output_dir / ATTEMPTS_FILE, config.max_rounds)
                found = measure(tried, abstain=config.abstain, seed=config.seed)
                write_retry(config, found, output_dir)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(
                f"interrupted: all attempts are in {output_dir / ATTEMPTS_FILE}; the same command with --output-dir "
                f"{output_dir} --resume measures them"
            ) from interrupt
    show(found, make_console())
    print(f"\n{DISCRIMINATOR_FILE}, attempts, retry.json and retry.png are in {output_dir}")


def _resolved(config: RetryConfig, prompts: list[Prompt], output_dir: Path) -> tuple[RetryConfig, Discriminator]:
    """Return the options with nothing left open, and the discriminator: of a directory that is resumed, its own."""
    style = config.answer_style or answer_style_of(prompts, chat=config.chat, system_prompt=config.system_prompt)
    if config.resume and (output_dir / DISCRIMINATOR_FILE).exists():
        discriminator = read_discriminator(output_dir / DISCRIMINATOR_FILE, argument="resume")
    elif config.discriminator is not None:
        discriminator = read_discriminator(config.discriminator.expanduser())
    else:
        paths = [path.expanduser() for path in config.fit_on]
        discriminator = fit_discriminator(paths, labels=config.labels, answer_style=style)
    temperature = discriminator.check_temperature(config.temperature)
    return replace(config, answer_style=style, temperature=temperature), discriminator


def _encoded(config: RetryConfig, language_model: LanguageModel, prompts: list[Prompt]) -> list[EncodedPrompt]:
    """Tokenize the prompts; a model that cannot sample is found out here."""
    encoded = encode_prompts(
        language_model,
        prompts,
        config.max_completion_length,
        chat=config.chat,
        system_prompt=config.system_prompt,
        answer_style=config.answer_style,
    )
    check_decoding(language_model, encoded[0].ids)
    return encoded
