"""Compare the ops of this tree with those of another commit, in turns on the same machine.

    python -m benchmarks compare BASE [--turns 4] [options of pytest, such as -k token_stats]

BASE is checked out into a temporary worktree. Its `rlif_kernels` and ours run the same benchmarks, those of this tree
(`benchmarks/gates/test_cpu_ops.py`, by pytest-benchmark), each turn in a fresh process: base, here, here, base. The
ratio of an op is the median over the turns of the base's time over ours, with the smallest and the largest: above 1
this tree is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.report.markdown import table
from benchmarks.timing import rotated

ROOT = Path(__file__).parents[2]
BENCHMARKS = "benchmarks/gates/test_cpu_ops.py::test_rlif"


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A temporary worktree of a revision of this repository."""
    git = ["git", "-C", str(ROOT)]
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "base"
        process = subprocess.run(
            [*git, "worktree", "add", "--detach", str(tree), revision], capture_output=True, text=True
        )
        if process.returncode:
            raise SystemExit(f"BASE is {revision!r}; expected a revision of this repository: {process.stderr.strip()}")
        try:
            yield tree
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)


def measure(tree: Path, options: list[str]) -> dict[str, float]:
    """Median seconds of each op, with the `rlif_kernels` of a tree and the benchmarks of this one."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "benchmarks.json"
        search = os.pathsep.join(filter(None, (str(tree / "kernels"), str(ROOT), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "pytest", "-q", BENCHMARKS, f"--benchmark-json={path}", *options]
        process = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": search}
        )
        if process.returncode:
            raise SystemExit(f"the benchmarks fail with the kernels of {tree}:\n{process.stdout[-3000:]}")
        benchmarks = json.loads(path.read_text())["benchmarks"]
    for each in benchmarks:
        if not Path(each["extra_info"]["rlif_kernels"]).is_relative_to(tree):
            raise SystemExit(f"measured {each['extra_info']['rlif_kernels']}; expected the kernels of {tree}")
    return {each["group"]: each["stats"]["median"] for each in benchmarks}


def compare(trees: dict[str, Path], turns: int, options: list[str]) -> str:
    """A table of each op's medians in two trees, "base" and "here", and of their ratio."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for turn in range(turns):
        for name in rotated(trees, turn):
            print(f"turn {turn + 1} of {turns}: {name}", file=sys.stderr, flush=True)
            measured[name].append(measure(trees[name], options))
    rows = []
    for op in measured["here"][0]:
        base, here = ([found[op] for found in measured[name]] for name in ("base", "here"))
        ratios = [theirs / ours for theirs, ours in zip(base, here, strict=True)]
        times = [f"{1e3 * median(values):.2f} ms" for values in (base, here)]
        rows.append([op, *times, f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"])
    return table(["forward + backward", "base", "here", "base / here"], rows)


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="a revision, such as HEAD~3")
    parser.add_argument("--turns", type=int, default=4, help="processes of each of the two; default 4")
    options, of_pytest = parser.parse_known_args(arguments)
    with checked_out(options.base) as base:
        print(compare({"base": base, "here": ROOT}, options.turns, of_pytest))
    return 0
