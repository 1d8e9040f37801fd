"""The command line: `rlif train` and `rlif demo`.

Torch and transformers load only once a command runs, so that `--help` and a mistyped option are answered at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import tyro

from rlif.config import TrainConfig
from rlif.demo import DemoConfig
from rlif.errors import UserError

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def main() -> None:
    """Entry point of `rlif`: exits with 0, with 2 on bad input, with 130 after Ctrl-C."""
    config: TrainConfig | DemoConfig = tyro.cli(
        Annotated[TrainConfig, tyro.conf.subcommand("train")] | Annotated[DemoConfig, tyro.conf.subcommand("demo")],
        prog="rlif",
        description="Train language models on their own confidence: reinforcement learning from internal feedback.",
    )
    try:
        run(config)
    except UserError as error:
        print(f"rlif: error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt as interrupt:
        print(f"rlif: {interrupt}" if interrupt.args else "rlif: interrupted, nothing saved", file=sys.stderr)
        sys.exit(INTERRUPTED)


def run(config: TrainConfig | DemoConfig) -> None:
    """Run the command that the configuration stands for."""
    import transformers

    # Its bars for loading and saving a model would break the lines of ours. Downloads keep theirs.
    transformers.utils.logging.disable_progress_bar()
    if isinstance(config, TrainConfig):
        from rlif.trainer import train

        result = train(config)
        skipped = int(result.rows[-1].get("skipped_updates", 0))
        note = f" ({skipped} updates skipped: loss or gradient was not finite)" if skipped else ""
        print(
            f"{result.last_step} steps done{note}; metrics and samples are in {result.run_dir}, the model in its model/"
        )
    else:
        from rlif.demo import run_demo

        run_demo(config)
