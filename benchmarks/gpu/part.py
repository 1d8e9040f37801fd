"""One part of `python -m benchmarks gpu`, in a process of its own: a kernel that faults takes no other part with it.

    echo SECONDS | python -m benchmarks.gpu.part NAME FILE DEVICE SIZE

What it finds is in FILE after every measurement, so that a part that is stopped has lost one at most. It imports what
it needs and then waits for its seconds on the standard input: the command starts each part while the one before it
measures.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.budget import GRACE_SECONDS
from rlif.files.whole import write_text

# By name the module whose `measure` does the part, in the order of the run.
MODULES = {
    "contract": "benchmarks.gpu.contract",
    "ops": "benchmarks.gpu.ops",
    "variants": "benchmarks.gpu.variants",
    "heads": "benchmarks.gpu.heads",
    "step": "benchmarks.gpu.step",
    "counters": "benchmarks.gpu.ncu",
    "sanitizer": "benchmarks.gpu.sanitizer",
}
# Left of a part's seconds: it should be done before it is told to stop.
MARGIN_SECONDS = GRACE_SECONDS + 1.5


@dataclass
class Task:
    """What a part is given: where it runs, for how long, and where it puts what it finds."""

    device: str
    """ "cuda" or "cpu"."""
    size: str
    """ "full", or of a dry run "tiny" or "tiny with peers", who take minutes to import and to compile on a CPU."""
    seconds: float
    path: Path | None = None
    """Of the file; None: what is found is only in `found`."""
    found: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def tiny(self) -> bool:
        return self.size.startswith("tiny")

    @property
    def peers(self) -> bool:
        return self.size != "tiny"

    def left(self) -> float:
        """Seconds until this part should end."""
        return self.started + self.seconds - MARGIN_SECONDS - time.monotonic()

    def save(self) -> None:
        if self.path is not None:
            write_text(self.path, json.dumps(self.found) + "\n", argument="output")


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    name, path, device, size = arguments
    module = importlib.import_module(MODULES[name])
    task = Task(device, size, float(sys.stdin.readline()), Path(path))
    try:
        module.measure(task)
    except KeyboardInterrupt:
        task.found["stopped"] = "its time was up"
    except Exception as error:
        from benchmarks.memory import describe_error  # which loads torch: not every part needs it

        task.found["failed"] = describe_error(error)
        raise
    finally:
        task.save()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
