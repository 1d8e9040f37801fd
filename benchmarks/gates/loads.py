"""How many bytes a thread has under way at once in a loop: its loads until the first instruction that has to wait.

A loop is walked several times, as the hardware would issue it. A load is under way until an instruction needs one of
its registers, or until a barrier says so; loads come back in order, so that who waits for one has all before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TURNS = 4
_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_AMD_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4}


@dataclass(frozen=True)
class Load:
    """A load under way; of a copy into shared memory without registers."""

    width: int
    registers: frozenset[str]


def bytes_under_way(loop: list[str]) -> int:
    """Return the most bytes of loads from memory that one thread has under way in NVIDIA's SASS."""
    return max(_walk_nvidia(loop), default=0)


def _walk_nvidia(loop: list[str]) -> Iterator[int]:
    pending: list[Load] = []
    # Copies into shared memory, in groups that a wait leaves a number of.
    groups: list[int] = [0]
    for text in loop * TURNS:
        text = re.sub(r"^@!?U?P\w+\s+", "", text)
        name, _, operands = text.partition(" ")
        kind, *traits = name.split(".")
        touched = set(re.findall(r"\bR\d+\b", operands))
        last = max((i for i, load in enumerate(pending) if load.registers & touched), default=-1)
        del pending[: last + 1]
        if kind == "LDG":
            width = next((_WIDTHS[trait] for trait in traits if trait in _WIDTHS), 4)
            first = int(re.match(r"R(\d+)", operands)[1])  # type: ignore[index]
            pending.append(Load(width, frozenset(f"R{first + i}" for i in range(max(1, width // 4)))))
        elif kind == "LDGSTS":
            groups[-1] += next((_WIDTHS[trait] for trait in traits if trait in _WIDTHS), 4)
        elif kind == "LDGDEPBAR":
            groups.append(0)
        elif kind == "DEPBAR" and (kept := re.search(r"SB\d+,\s*0x([0-9a-f]+)", operands)):
            # The last group is still being filled: it is none of those that may be left.
            groups = groups[max(0, len(groups) - 1 - int(kept[1], 16)) :]
        yield sum(load.width for load in pending) + sum(groups)


def bytes_under_way_amd(loop: list[str]) -> int:
    """Return the same in AMD's assembly, where waits count the accesses that may be left."""
    return max(_walk_amd(loop), default=0)


def _walk_amd(loop: list[str]) -> Iterator[int]:
    pending: list[int] = []
    for text in loop * TURNS:
        if re.match(r"(global|buffer)_load_", text):
            pending.append(_AMD_WIDTHS.get(text.split()[0].rsplit("_", 1)[1], 2))
        elif re.match(r"(global|buffer)_store_", text):
            pending.append(0)  # is counted with the loads, and brings nothing
        elif text.startswith("s_waitcnt") and (left := re.search(r"vmcnt\((\d+)\)", text)):
            del pending[: max(0, len(pending) - int(left[1]))]
        yield sum(pending)
