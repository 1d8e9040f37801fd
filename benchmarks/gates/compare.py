"""Compare the ops of this tree with those of another commit, call by call on the same machine.

    python -m benchmarks compare BASE [options of pytest, such as -k token_stats]

BASE is checked out into a temporary worktree, whose `rlif_kernels` runs in a process of its own. The benchmark is this
tree's (`test_base` in `benchmarks/gates/test_cpu_ops.py`, by pytest-benchmark): a call of the base, a call of ours, the
base again, and so on, so that what slows the machine slows both. The ratio is the median over these pairs of the base's
time over ours, with its quartiles: above 1 this tree is faster.
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

from benchmarks.report import ROOT
from benchmarks.report.markdown import table
from benchmarks.timing import quartiles


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Yield a temporary worktree of a revision of this repository."""
    git = ["git", "-C", str(ROOT)]
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "base"
        add = [*git, "worktree", "add", "--detach", str(tree), revision]
        process = subprocess.run(add, capture_output=True, text=True)
        if process.returncode:
            raise SystemExit(f"BASE is {revision!r}; expected a revision of this repository: {process.stderr.strip()}")
        try:
            yield tree
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)


def compare(kernels: Path, options: list[str]) -> str:
    """Return a table of the medians of each op, with the kernels in a folder and with ours, and of their ratio."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "benchmarks.json"
        where = ["benchmarks/gates/test_cpu_ops.py::test_base", f"--base={kernels}", f"--benchmark-json={path}"]
        # pytest-benchmark measures nothing in what it takes for a worker of xdist, as a test of this command may be.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        command = [sys.executable, "-m", "pytest", *where, *options]
        process = subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr)
        if process.returncode:
            raise SystemExit(process.returncode)
        benchmarks = json.loads(path.read_text())["benchmarks"]
    rows = []
    for each in benchmarks:
        base, here = (each["extra_info"][f"seconds {side}"] for side in ("base", "here"))
        low, ratio, high = quartiles([theirs / ours for theirs, ours in zip(base, here, strict=True)])
        times = [f"{1e3 * median(values):.2f} ms" for values in (base, here)]
        rows.append([each["group"], *times, f"{ratio:.2f} ({low:.2f} to {high:.2f})"])
    return table(["forward + backward", "base", "here", "base / here"], rows)


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="a revision, such as HEAD~3")
    options, of_pytest = parser.parse_known_args(arguments)
    with checked_out(options.base) as base:
        print(compare(base / "kernels", of_pytest))
    return 0
