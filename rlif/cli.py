"""The command line: `rlif train` and its companions, which `COMMANDS` names.

Torch and transformers load only once a command runs, so that `--help` and a mistyped option are answered at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from importlib import import_module
from typing import Annotated, Any, Union

import tyro

from rlif.errors import UserError
from rlif.files.versions import versions
from rlif.interrupts import as_ctrl_c
from rlif.options.command_line import described, parse_options

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NOBODY_READS = 141  # 128 + SIGPIPE

# Of each command the package, whose options.py has the dataclass of that name, and whose command.py runs with it.
COMMANDS = {
    "train": ("rlif.training", "TrainConfig"),
    "plot": ("rlif.plotting", "PlotConfig"),
    "demo": ("rlif.demo", "DemoConfig"),
    "lab": ("rlif.lab", "LabConfig"),
    "diagnose": ("rlif.diagnosis", "DiagnoseConfig"),
    "mix": ("rlif.mixing", "MixConfig"),
    "eval": ("rlif.evaluation", "EvalConfig"),
    "self-feedback": ("rlif.self_feedback", "SelfFeedbackConfig"),
}

DESCRIPTION = """\
Train language models on their own confidence: reinforcement learning from internal feedback.

rlif train --help explains every option; rlif --version prints the versions of what is installed."""


def main() -> None:
    """Entry point of `rlif`: exits with 0, with 2 on bad input, with 130 after Ctrl-C and other signals to stop."""
    with as_ctrl_c():
        try:
            try:
                words = sys.argv[1:]
                options = parse(words)
                run(words[0], options)
            except UserError as error:
                print(f"rlif: error: {error}", file=sys.stderr)
                sys.exit(BAD_INPUT)
            except KeyboardInterrupt as interrupt:
                print(f"rlif: {what_is_saved(interrupt)}", file=sys.stderr)
                sys.exit(INTERRUPTED)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:  # `rlif --help | head`: what Python would write at its end has nowhere to go either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(NOBODY_READS)


def what_is_saved(interrupt: BaseException | None) -> str:
    """Return what a command says of its end; an interrupt that came while another one ended it may say nothing."""
    while interrupt is not None:
        if isinstance(interrupt, KeyboardInterrupt) and interrupt.args:
            return str(interrupt)
        interrupt = interrupt.__context__
    return "interrupted, nothing saved"


def parse(words: Sequence[str]) -> Any:
    """The options that the words of a command line stand for: the dataclass of the command that comes first.

    Raises:
        UserError: of the file that `--config` names.
        SystemExit: after `--help` and `--version`, and on words that stand for nothing.
    """
    if words and words[0] in COMMANDS:
        return parse_options(options_class(words[0]), words[1:], prog=f"rlif {words[0]}")
    if list(words) == ["--version"]:
        print(versions())
        sys.exit(0)
    # Without a command there is nothing to read but what the commands are, so that none has options here.
    commands = [
        Annotated[make_dataclass(name, []), tyro.conf.subcommand(name, description=described(options_class(name)))]
        for name in COMMANDS
    ]
    one_of: Any = Union[tuple(commands)]  # noqa: UP007 - the `|` of a list that is known only here
    tyro.cli(one_of, args=words, prog="rlif", description=DESCRIPTION)
    raise AssertionError("words that are no command end the program")


def options_class(name: str) -> type:
    """Return the dataclass of a command's options; to import it loads no torch."""
    package, options = COMMANDS[name]
    return getattr(import_module(f"{package}.options"), options)


def run(name: str, options: Any) -> None:
    """Run a command."""
    package, _ = COMMANDS[name]
    command = import_module(f"{package}.command")
    if "transformers" in sys.modules:
        # Its bars for loading and saving a model would break the lines of ours. Downloads keep theirs.
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    command.run(options)
