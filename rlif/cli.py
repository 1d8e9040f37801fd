"""The command line: `rlif train` and its companions, which `COMMANDS` names.

Torch and transformers load only once a command runs, so that `--help` and a mistyped option are answered at once.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import make_dataclass
from importlib import import_module
from typing import Annotated, Any, Union

from rlif.doing import doing, speaking
from rlif.errors import UserError
from rlif.extras import advice
from rlif.files.versions import versions
from rlif.interrupts import as_ctrl_c, exit_code, ignore_signals_after
from rlif.printable import one_line

BAD_INPUT = 2
NOBODY_READS = 141  # 128 + SIGPIPE

# Of each command the package, whose options.py has the dataclass of that name, and whose command.py runs with it.
COMMANDS = {
    "train": ("rlif.training", "TrainConfig"),
    "plot": ("rlif.plotting", "PlotConfig"),
    "report": ("rlif.reporting", "ReportConfig"),
    "demo": ("rlif.demo", "DemoConfig"),
    "lab": ("rlif.lab", "LabConfig"),
    "diagnose": ("rlif.diagnosis", "DiagnoseConfig"),
    "explain": ("rlif.explanation", "ExplainConfig"),
    "convert": ("rlif.conversion", "ConvertConfig"),
    "mix": ("rlif.mixing", "MixConfig"),
    "eval": ("rlif.evaluation", "EvalConfig"),
    "retry": ("rlif.retry", "RetryConfig"),
    "introspect": ("rlif.introspection", "IntrospectConfig"),
    "self-feedback": ("rlif.self_feedback", "SelfFeedbackConfig"),
}

DESCRIPTION = """\
Train language models on their own confidence: reinforcement learning from internal feedback.

rlif train --help explains every option; rlif --version prints the versions of what is installed."""


def program() -> None:
    """Entry point of `rlif`: `main`, for a process that is there for nothing else."""
    ignore_signals_after()
    main()


def main() -> None:
    """Run what the command line says; exits with 0, with 2 on bad input, with 128 + the number of a signal to stop."""
    open_streams()
    with as_ctrl_c() as end:
        try:
            try:
                words = sys.argv[1:]
                options = parse(words)
                is_first = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher started
                with speaking(f"rlif {words[0]}", tell) if is_first else nullcontext(), build_told():
                    run(words[0], options)
            except UserError as error:
                end()
                say(f"error: {error}")
                sys.exit(BAD_INPUT)
            except KeyboardInterrupt as interrupt:
                end()
                say(what_is_saved(interrupt))
                sys.exit(exit_code())
            except ModuleNotFoundError as error:
                if (hint := advice(error)) is None:
                    raise
                say(f"error: {hint}")
                sys.exit(BAD_INPUT)
            finally:
                end()
                sys.stdout.flush()
        except BrokenPipeError:  # `rlif --help | head`: what Python would write at its end has nowhere to go either
            write_to_nowhere()
            sys.exit(NOBODY_READS)
        except OSError as error:
            if error.filename is not None:
                raise
            # No file, but a stream: the output is on a disk that is full, for instance.
            write_to_nowhere()
            say(f"error: cannot write the output: {error.strerror}")
            sys.exit(BAD_INPUT)


def open_streams() -> None:
    """See to it that there is an output to write to, and that it takes every character, replaced if need be."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before the program began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as we live
        elif isinstance(stream, io.TextIOWrapper) and name == "stdout":
            stream.reconfigure(errors="replace")


def write_to_nowhere() -> None:
    """Let nothing more be written to the standard output, whose buffer Python would write at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Print one line on stderr, if that can be written to."""
    with suppress(OSError):
        print(one_line(f"rlif: {text}"), file=sys.stderr)


def tell(line: str) -> None:
    """Print a line of what a command is doing, on stderr."""
    print(one_line(line), file=sys.stderr, flush=True)


@contextmanager
def build_told() -> Iterator[None]:
    """Tell, within, when the C kernels are compiled, which happens once on a machine."""

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(OSError):
                tell(f"rlif: {record.getMessage()}")

    logger, handler = logging.getLogger("rlif_kernels.backends.c.build"), Told()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


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
    if list(words) == ["--version"]:
        print(versions())
        sys.exit(0)
    # Not before, so that a package without its extras can say its version, and what it lacks.
    import tyro

    from rlif.options.command_line import broken_into_lines, described, parse_options

    if words and words[0] in COMMANDS:
        return parse_options(options_class(words[0]), words[1:], prog=f"rlif {words[0]}")
    # Without a command there is nothing to read but what the commands are, so that none has options here.
    commands = [
        Annotated[make_dataclass(name, []), tyro.conf.subcommand(name, description=described(options_class(name)))]
        for name in COMMANDS
    ]
    one_of: Any = Union[tuple(commands)]  # noqa: UP007 - the `|` of a list that is known only here
    tyro.cli(one_of, args=words, prog="rlif", description=broken_into_lines(DESCRIPTION))
    raise AssertionError("words that are no command end the program")


def options_class(name: str) -> type:
    """Return the dataclass of a command's options; to import it loads no torch."""
    package, options = COMMANDS[name]
    return getattr(import_module(f"{package}.options"), options)


def run(name: str, options: Any) -> None:
    """Run a command."""
    package, _ = COMMANDS[name]
    with doing("importing what it needs"):
        command = import_module(f"{package}.command")
    if "transformers" in sys.modules:
        # Its bars for loading and saving a model would break the lines of ours. Downloads keep theirs.
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    command.run(options)
