"""Measure every method of the family on the built-in task, and put the papers' claims beside what was seen.

    python -m benchmarks.family [--output DIR] [--minutes N] [--repeats N]

Each method has a suite of its own. One whose results are in DIR already, whole, is not run again, so that the same
command goes on where it was stopped; `--output benchmarks/results` gathers what is published. The table is in
DIR/family.md. What would end after --minutes is skipped and named, and the next call runs it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.report import finished
from benchmarks.report.family import SUITES, claims
from benchmarks.runner import Options, run_suite
from rlif.files.whole import write_text

DEFAULT_OUTPUT = Path("runs/family")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.family", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"directory; default {DEFAULT_OUTPUT}")
    parser.add_argument("--minutes", type=float, default=90.0, help="for all suites together; default 90")
    parser.add_argument("--repeats", type=int, default=3, help="seeds; default 3")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes is {options.minutes}; expected a positive number")
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; expected a positive number")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output is {options.output}; expected a directory that can be written to ({error.strerror})")
    return measure(options.output, 60 * options.minutes, options.repeats)


def measure(output: Path, seconds: float, repeats: int) -> int:
    """Run the suites that have no results yet, and write the table; returns 1 if anything is missing, else 0."""
    end, wanting = time.monotonic() + seconds, dict[str, str]()
    try:
        for suite in SUITES:
            if (path := finished(suite, output)) is not None:
                print(f"{suite}: {path.name} is there")
                continue
            left = max(0.0, end - time.monotonic())
            results = run_suite(suite, Options(output, repeats=repeats, seconds=left))
            wanting |= {
                f"{suite}, {name}": reason for name, reason in (results["missing"] | results["skipped"]).items()
            }
    except KeyboardInterrupt:
        print(f"interrupted; what was measured is in {output}, and the same command goes on", file=sys.stderr)
        return 130
    page = output / "family.md"
    write_text(page, f"# The family\n\n{claims(lambda suite: finished(suite, output), page)}\n", argument="output")
    for name, reason in wanting.items():
        print(f"missing: {name} ({reason})", file=sys.stderr)
    print(page)
    return 1 if wanting else 0


if __name__ == "__main__":
    sys.exit(main())
