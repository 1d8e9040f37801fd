"""Parts of a run that share one stretch of time, the most valuable first: what no longer fits is named, not begun."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What a process that is told to stop gets for writing down what it has.
GRACE_SECONDS = 10


@dataclass(frozen=True)
class Part:
    """A piece of a run."""

    name: str
    least: float
    """Seconds below which it is not worth beginning."""
    most: float
    """Seconds after which it is stopped, however many are left."""
    run: Callable[[float], dict[str, Any]]
    """Given its seconds, returns what it found."""


def run_parts(parts: Sequence[Part], seconds: float, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run the parts in their order until the time is up.

    Args:
        save: gets the entries of all parts so far, after each.

    Returns:
        by name what each part found, and how many `seconds` it took; or under `skipped`, or `failed`, why it found
        nothing. The others go on.
    """
    started = time.perf_counter()
    entries: dict[str, Any] = {}
    for part in parts:
        left = seconds - (time.perf_counter() - started)
        begun = time.perf_counter()
        if left < part.least:
            entries[part.name] = {"skipped": f"wants {part.least:.0f} seconds; {max(left, 0):.0f} were left"}
        else:
            try:
                entries[part.name] = part.run(min(left, part.most))
            except Exception as error:  # whatever a part raises, the others go on
                entries[part.name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
            entries[part.name]["seconds"] = round(time.perf_counter() - begun, 1)
        save(entries)
    return entries


def finish(
    command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None, tail: int = 3000
) -> dict[str, Any]:
    """Run a command for so many seconds at most; then it is interrupted, and soon after that killed.

    Returns:
        `exit`, its exit code; `tail`, the end of what it printed; and `stopped` where it was not done in time.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment and os.environ | environment,
        start_new_session=True,  # its own children are to be stopped with it
    )
    stopped = None
    try:
        output, _ = process.communicate(timeout=max(1.0, seconds - GRACE_SECONDS))
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
