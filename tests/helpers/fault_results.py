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


def write_results(path: Path, told: Sequence[dict[str, Any]], words: str) -> None:
    """Write what all hurts came to, in addition to what is in the file: it may take several nights.

    Args:
        path: of the file; those of benchmarks/results end with -faults.json.
        told: of every test, as `as_told` has it.
        words: given to the tests.
    """
    from benchmarks.machine import describe_machine

    before = json.loads(path.read_text()) if path.exists() else {"entries": [], "command": "", "by_chance": 0}
    sums = {(cell["command"], cell["hurt"]): cell for cell in before["entries"]}
    cells = []
    for command in ROWS:
        for kind in KINDS:
            cell = {"tried": 0, "lost": [], "by_chance": []} | sums.get((command, kind), {})
            for each in told:
                if (each["command"], each["hurt"]) == (command, kind):
                    cell["tried"] += each["tried"]
                    cell["lost"] += each["lost"]
                    cell["by_chance"] += each["details"] if each["by_chance"] and each["tried"] else []
            cells.append({"command": command, "hurt": kind, "why_not": why_not(command, kind)} | cell)
    commands = [each for each in (before["command"], f'make test-faults ARGS="{words}"') if each]
    results = {
        "suite": "faults",
        "date": date.today().isoformat(),
        "command": "; ".join(commands),
        "machine": describe_machine(),
        "device": "cpu",
        "size": "full",
        "missing": {},
        "skipped": {},
        "finished": True,
        "by_chance": sum(len(cell["by_chance"]) for cell in cells),
        "entries": cells,
    }
    path.write_text(json.dumps(results, indent=1) + "\n")
