"""`rlif eval`: sample or read completions, measure them, and write tables and figures."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

from rlif.errors import UserError
from rlif.evaluation.options import EvalConfig

# What has no part in what is sampled: it may differ when an evaluation is resumed.
CHANGEABLE = frozenset({"output_dir", "resume", "device", "max_batch_tokens", "num_bins"})
CONFIG_FILE = "config.json"
COMPLETIONS_FILE = "completions.jsonl"


def run_eval(config: EvalConfig) -> None:
    """Sample or read completions, measure them, print the tables and write everything to the output directory.

    Raises:
        UserError: bad input; what was sampled before is kept.
        KeyboardInterrupt: Ctrl-C; likewise, and the message says how to go on.
    """
    config.validate()
    from rlif.evaluation.completions import read_completions

    if config.completions is not None:
        completions = read_completions(config.completions)
        output_dir = prepare_output_dir(config)
    else:
        from rlif.evaluation.sampling import prepare_sampling

        # Model and data are checked before a directory is made.
        sampling = prepare_sampling(config)
        output_dir = prepare_output_dir(config)
        sampling.run(output_dir / COMPLETIONS_FILE)
        completions = read_completions(output_dir / COMPLETIONS_FILE)

    from rlif.evaluation.measure import evaluate_completions
    from rlif.evaluation.report import print_tables, write_report

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
