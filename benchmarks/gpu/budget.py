"""Parts of a run that share one stretch of time: each has its share, and what one leaves the next ones get."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What a process that is told to stop gets for writing down what it has.
GRACE_SECONDS = 3
# Below which a part is not begun.
LEAST_SECONDS = 10


@dataclass(frozen=True)
class Part:
    """A piece of a run."""

    name: str
    share: float
    """Of the time: seconds of the sum of all shares."""
    run: Callable[[float], dict[str, Any]]
    """Given its seconds, returns what it found."""


def run_parts(parts: Sequence[Part], seconds: float, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run the parts in their order, each until the end of its share: what the parts before it left is added to it.

    Args:
        save: gets the entries of all parts so far, after each.

    Returns:
        by name what each part found, and how many `seconds` it took; or under `skipped`, or `failed`, why it found
        nothing. The others go on.
    """
    started = time.perf_counter()
    shares = sum(part.share for part in parts)
    until = 0.0
    entries: dict[str, Any] = {}
    for part in parts:
        until += part.share
        begun = time.perf_counter()
        left = seconds * until / shares - (begun - started)
        if left < LEAST_SECONDS:
            entries[part.name] = {"skipped": f"wants {LEAST_SECONDS} seconds; {max(left, 0):.0f} were left"}
        else:
            try:
                entries[part.name] = part.run(left)
            except Exception as error:  # whatever a part raises, the others go on
                entries[part.name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
            entries[part.name]["seconds"] = round(time.perf_counter() - begun, 1)
        save(entries)
    return entries


def start(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Begin a command in a process group of its own, which reads from a pipe and whose output is kept for `finish`."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment and os.environ | environment,
        start_new_session=True,  # its own children are to be stopped with it
    )


def finish(process: subprocess.Popen[str], seconds: float, given: str = "", tail: int = 3000) -> dict[str, Any]:
    """Wait so many seconds at most for a process of `start`; then it is interrupted, and soon after that killed.

    Args:
        given: is written to its standard input, which is then closed.

    Returns:
        `exit`, its exit code; `tail`, the end of what it printed; and `stopped` where it was not done in time.
    """
    stopped = None
    try:
        output, _ = process.communicate(given, timeout=max(1.0, seconds - GRACE_SECONDS))
    except subprocess.TimeoutExpired:
        stopped = f"not done in {seconds:.0f} seconds"
        os.killpg(process.pid, signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return {"exit": process.returncode, "tail": output[-tail:]} | ({"stopped": stopped} if stopped else {})
