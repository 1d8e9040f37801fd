"""The results file of the hurts: for each command and kind of hurt how often it was tried, and what was lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from fault_rows import ROWS
from faults import KINDS, Bench, Detail, why_not

# The name of the property of a test that has what its hurts came to.
FAULT = "fault"


def as_told(bench: Bench, kind: str, details: Sequence[Detail], *, by_chance: bool = False) -> str:
    """What the hurts of a test came to, as a property of that test."""
    told = {"command": bench.name, "hurt": kind, "tried": bench.tried, "lost": bench.told}
    return json.dumps(told | {"details": list(details), "by_chance": by_chance})


def write_results(path: Path, told: Sequence[dict[str, Any]], *, hurts: int, seed: int) -> None:
    """Write what all hurts came to.

    Args:
        path: of the file; those of benchmarks/results end with -faults.json.
        told: of every test, as `as_told` has it.
        hurts: how many random ones were wanted, beside those that are the same at every run.
        seed: of theirs.
    """
    from benchmarks.machine import describe_machine

    cells = []
    for command in ROWS:
        for kind in KINDS:
            mine = [each for each in told if (each["command"], each["hurt"]) == (command, kind)]
            found = {
                "tried": sum(each["tried"] for each in mine),
                "lost": [text for each in mine for text in each["lost"]],
                "by_chance": [each["details"][0] for each in mine if each["by_chance"] and each["tried"]],
            }
            cells.append({"command": command, "hurt": kind, "why_not": why_not(command, kind)} | found)
    words = f" --full --hurts {hurts} --seed {seed}" if hurts else ""
    results = {
        "suite": "faults",
        "date": date.today().isoformat(),
        "command": f'make test-faults ARGS="{words.strip()} --output {path.name}"',
        "machine": describe_machine(),
        "size": "full" if hurts else "quick",
        "missing": {},
        "skipped": {},
        "finished": all(cell["tried"] or cell["why_not"] for cell in cells),
        "by_chance": sum(each["tried"] for each in told if each["by_chance"]),
        "entries": cells,
    }
    path.write_text(json.dumps(results, indent=1) + "\n")
