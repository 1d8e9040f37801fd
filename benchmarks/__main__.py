"""Measure everything that this project claims about speed and memory, on this machine, beside its peers.

    python -m benchmarks [SUITE ...] [--quick] [--output DIR] [--device cpu|cuda] [--peers PACKAGE ...]
    python -m benchmarks report [--check] [--results DIR]

  static      instructions, registers and bytes of the compiled GPU kernels; needs no GPU
  ops         token_stats, grpo_loss and their forms with the head in them: time, share of the floor, error, memory
  loop        the whole training step
  generation  statistics kept while sampling

Without a suite all four run, twenty minutes on two cores. Every measurement is saved as it comes, in
DIR/MACHINE-DATE-SUITE.json. Peers take part where they can be imported (pip install '.[bench]'); those that cannot,
or that fail, are named. At the end `report` draws DIR/report.md and DIR/charts/ from the files. With
`benchmarks/results` as DIR it draws the README's tables as well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

DEFAULT_OUTPUT = Path("runs/benchmarks")
SUITE_NAMES = ("static", "ops", "loop", "generation")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["report"]:
        from benchmarks.report import main as report

        return report(arguments[1:])
    options = parser().parse_args(arguments)
    if unknown := [name for name in options.suites if name not in SUITE_NAMES]:
        parser().error(f"suite is {unknown[0]!r}; expected some of {', '.join(SUITE_NAMES)}, or report alone")
    return run(options)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITE_NAMES)}; all if none is named")
    found.add_argument("--quick", action="store_true", help="a few minutes: small shapes, fewer of them")
    found.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"directory; default {DEFAULT_OUTPUT}")
    found.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    found.add_argument(
        "--peers",
        nargs="+",
        metavar="PACKAGE",
        help="only these, trl or liger_kernel say; none: ours and PyTorch alone",
    )
    return found


def run(options: argparse.Namespace) -> int:
    """Run the suites, and draw what they found."""
    import torch

    from benchmarks.ops.implementations import IMPLEMENTATIONS
    from benchmarks.report import write_report
    from benchmarks.runner import Options, run_suite

    packages = {each.package for group in IMPLEMENTATIONS.values() for each in group} - {"torch", "rlif"}
    peers = None if options.peers is None else frozenset(options.peers) - {"none"}
    if unknown := sorted((peers or frozenset()) - packages):
        parser().error(f"--peers is {unknown[0]!r}; expected some of {', '.join(sorted(packages))}, or none")
    device: Literal["cpu", "cuda"] = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser().error("--device is cuda; PyTorch finds no CUDA or ROCm device here")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser().error(f"--output is {options.output}; expected a directory that can be written to ({error.strerror})")
    size: Literal["full", "quick"] = "quick" if options.quick else "full"
    missing: dict[str, str] = {}
    try:
        for name in options.suites or SUITE_NAMES:
            missing |= run_suite(name, Options(options.output, device, size, peers))["missing"]
    except KeyboardInterrupt:
        drawn = f"python -m benchmarks report --results {options.output}"
        print(f"interrupted; what was measured is in {options.output}, and `{drawn}` draws it", file=sys.stderr)
        return 130
    for name, reason in missing.items():
        print(f"missing: {name} ({reason})", file=sys.stderr)
    print(write_report(options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
