"""`rlif eval`: sample or read completions, measure them, and write tables and figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlif.doing import doing
from rlif.evaluation.completions import Completions, read_completions
from rlif.evaluation.measure import Evaluation, evaluate_completions
from rlif.evaluation.options import EvalConfig
from rlif.evaluation.report import print_tables, write_evaluation
from rlif.evaluation.sampling import EvalSampling, prepare_sampling
from rlif.files.lock import Lock
from rlif.options.record import check_unchanged, make_directory, output_directory

# What has no part in what is sampled: it may differ when an evaluation is resumed.
EVAL_CHANGEABLE = frozenset({"device", "max_batch_tokens", "num_bins"})
COMPLETIONS_FILE = "completions.jsonl"


def run(config: EvalConfig) -> None:
    """Sample, verify or read completions, measure them, print the tables and write everything to the output directory.

    Raises:
        UserError: bad input; what was sampled before is kept.
        KeyboardInterrupt: Ctrl-C; what was sampled before is kept, and the message says how to go on.
    """
    config.validate()
    output_dir = output_directory(config, "eval", what="evaluation")
    with Lock(output_dir) as lock:
        # Model, data and completions are checked before a directory is made, and they say which style of answers it is.
        sampling = prepare_sampling(config) if config.model is not None else None
        config = replace(config, answer_style=config.answer_style or "strict") if sampling is None else sampling.config
        completions = _given_completions(config) if sampling is None else None
        if config.resume:
            check_unchanged(
                output_dir,
                config,
                changeable=EVAL_CHANGEABLE,
                what=f"evaluation in {output_dir}",
                prog="rlif eval",
                old_name="config.json",
            )
        make_directory(output_dir, config, lock)
        evaluation = _evaluate(config, output_dir, sampling, completions)
    print_tables(evaluation)
    sampled = "" if sampling is None else "completions, "
    print(f"\n{sampled}results and figures are in {output_dir}")


def _given_completions(config: EvalConfig) -> Completions:
    """The completions of a file."""
    assert config.completions is not None
    assert config.answer_style is not None
    return read_completions(config.completions, answer_style=config.answer_style)


def _evaluate(
    config: EvalConfig, output_dir: Path, sampling: EvalSampling | None, completions: Completions | None
) -> Evaluation:
    """Sample what is left to sample, measure everything, and write it to the output directory."""
    if sampling is not None:
        assert config.answer_style is not None
        sampling.run(output_dir / COMPLETIONS_FILE)
        completions = read_completions(output_dir / COMPLETIONS_FILE, answer_style=config.answer_style)
    assert completions is not None
    try:
        with doing("measuring"):
            evaluation = evaluate_completions(completions, num_bins=config.num_bins)
            write_evaluation(evaluation, completions, output_dir)
    except KeyboardInterrupt as interrupt:
        if sampling is None:
            raise
        raise KeyboardInterrupt(
            f"interrupted: all completions are in {output_dir / COMPLETIONS_FILE}; the same command with --output-dir "
            f"{output_dir} --resume measures them"
        ) from interrupt
    return evaluation
