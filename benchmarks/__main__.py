"""Measure everything that this project claims about speed and memory, on this machine, beside its peers.

    python -m benchmarks [SUITE ...] [--quick] [--output DIR] [--device cpu|cuda] [--peers PACKAGE ...] [--repeats N]
    python -m benchmarks report [--check] [--results DIR]
    python -m benchmarks compare BASE [--turns N] [options of pytest]
    python -m benchmarks releases [--triton VERSION ...] [--targets TARGET ...]
    python -m benchmarks gpu --output DIR [--minutes N] [--wheels DIR] [--dry-run], or --apply FILE
    python -m benchmarks.family [--output DIR] [--minutes N]

  static         what the GPU kernels compile to, and what a call should take; needs no GPU
  ops            token_stats, grpo_loss and their forms with the head in them: time, share of the floor, error, memory
  levels         the C kernels with and without AVX-512, beside torch.compile and TRL
  loop           the whole training step, and TRL's
  generation     statistics kept while sampling
  trl-step       a step of TRL's GRPOTrainer, stock and with our parts in it
  self-feedback  RLSF on the built-in task, and a DPO step beside TRL's
  demo           `rlif demo` with several seeds
  answers        which answers are right, by `rlif` and by math-verify
  word-prompts   word problems: after which instruction the model in --model DIR states answers, and is right how often
  recipe         the recipe for word problems with the model in --model DIR, on internal rewards and on right answers
  real-self-feedback  RLSF on word problems with the model in --model DIR
  real-family    the family's commands on word problems, each once and small, with the model in --model DIR
  explain        what `rlif explain` says of runs on the built-in task, step by step
  retry          `rlif retry` on the built-in task, with and without rejected attempts in the context
  introspect     `rlif introspect` on the built-in task: turns before and after, beside as many samples
  verify         solving and verifying at once on the built-in task, beside solving alone
  length-conditioned  what learned rewards have to do with length, with and without length instructions
  rlcr           confidence in words on the built-in task: a reward for it, beside right answers alone
  collapse       whether the collapse step tells what right answers gain the lab's start models, and trainings on few
                 prompts
  guard          what the guard keeps where right answers unlearn a misconception, by gold answers and by majorities
  evidence       what confidence knows about the answers in --completions FILE, which `rlif eval` wrote
  shared-prompts an update where completions share their prompt, and where each has its own
  real-step      the whole training step of the model in --model DIR, with and without shared prompts, and TRL's
  architectures  sampled and scored distributions of some thirty kinds of models, beside float64
  kl-estimators  how far the gradient of a penalty is off, by its estimator and the number of completions

Without a suite the first four run, twenty minutes on two cores. Every measurement is saved as it comes, in
DIR/MACHINE-DATE-SUITE.json. Peers take part where they can be imported (pip install '.[bench]'); those that cannot,
or that fail, are named. At the end `report` draws DIR/report.md and DIR/charts/ from the files. With
`benchmarks/results` as DIR it draws the tables of the README and of the documentation as well.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

# What loads torch is imported where it is used, so that the help appears at once.
if TYPE_CHECKING:
    from benchmarks.runner import Options

DEFAULT_OUTPUT = Path("runs/benchmarks")
TOOLS = {
    "report": "benchmarks.report",
    "compare": "benchmarks.gates.compare",
    "releases": "benchmarks.gates.releases",
    "gpu": "benchmarks.gpu.command",
}
BY_DEFAULT = ("static", "ops", "loop", "generation")
SUITE_NAMES = (
    *BY_DEFAULT, "levels", "trl-step", "self-feedback", "demo", "answers", "word-prompts", "recipe", "evidence",
    "shared-prompts", "real-step", "real-self-feedback", "real-family", "architectures", "explain", "kl-estimators",
    "verify", "retry", "introspect", "length-conditioned", "rlcr", "collapse", "guard",
)  # fmt: skip
NEED_A_MODEL = ("word-prompts", "recipe", "real-self-feedback", "real-family", "real-step")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in TOOLS:
        code: int = importlib.import_module(TOOLS[arguments[0]]).main(arguments[1:])
        return code
    options = parser().parse_args(arguments)
    if unknown := [name for name in options.suites if name not in SUITE_NAMES]:
        expected = f"expected some of {', '.join(SUITE_NAMES)}, or alone {', '.join(TOOLS)}"
        parser().error(f"suite is {unknown[0]!r}; {expected}")
    return run(options.suites or BY_DEFAULT, run_options(options))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("suites", nargs="*", metavar="SUITE", help="the first four if none is named")
    found.add_argument("--quick", action="store_true", help="a few minutes: small shapes, fewer of them")
    found.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"directory; default {DEFAULT_OUTPUT}")
    found.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    found.add_argument(
        "--peers",
        nargs="+",
        metavar="PACKAGE",
        help="only these, trl or liger_kernel say; none: ours and PyTorch alone",
    )
    found.add_argument(
        "--model",
        type=Path,
        help="of word-prompts, recipe, real-self-feedback, real-family, shared-prompts, real-step: a directory of "
        "transformers",
    )
    found.add_argument("--completions", type=Path, help="of evidence: a completions.jsonl of rlif eval")
    found.add_argument("--repeats", type=int, help="turns of each trainer, or seeds; default 3, or 1 with --quick")
    return found


def run_options(options: argparse.Namespace) -> Options:
    """Return the options of every suite, or one clear line about a wrong argument."""
    import torch

    from benchmarks.ops.implementations import IMPLEMENTATIONS
    from benchmarks.runner import Options

    packages = {each.package for group in IMPLEMENTATIONS.values() for each in group} - {"torch", "rlif"}
    peers = None if options.peers is None else frozenset(options.peers) - {"none"}
    if unknown := sorted((peers or frozenset()) - packages):
        parser().error(f"--peers is {unknown[0]!r}; expected some of {', '.join(sorted(packages))}, or none")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser().error("--device is cuda; PyTorch finds no CUDA or ROCm device here")
    repeats = (1 if options.quick else 3) if options.repeats is None else options.repeats
    if options.model is None and (needing := [name for name in NEED_A_MODEL if name in options.suites]):
        parser().error(f"--model is None; expected a directory saved by transformers, for {needing[0]}")
    if "evidence" in options.suites and not (options.completions and options.completions.is_file()):
        parser().error(
            f"--completions is {options.completions}; expected a completions.jsonl of rlif eval, for evidence"
        )
    if repeats < 1:
        parser().error(f"--repeats is {repeats}; expected a positive number")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser().error(f"--output is {options.output}; expected a directory that can be written to ({error.strerror})")
    if options.model is not None and not (options.model / "config.json").is_file():
        parser().error(f"--model is {options.model}; expected a directory with a config.json")
    return Options(
        options.output,
        options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        "quick" if options.quick else "full",
        peers,
        repeats,
        options.model,
        options.completions,
    )


def run(suites: tuple[str, ...], options: Options) -> int:
    """Run the suites, and draw what they found."""
    from benchmarks.report import write_report
    from benchmarks.runner import run_suite

    missing: dict[str, str] = {}
    try:
        for name in suites:
            missing |= run_suite(name, options)["missing"]
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
