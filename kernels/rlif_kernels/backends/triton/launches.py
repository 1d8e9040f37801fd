"""The table of launch choices, `launches.json`: what decides the speed of a kernel and never its bits.

An entry names a kernel, and may name an architecture ("sm_90", "gfx942"), the bytes of a logit and a range of columns
[from, to). All entries that fit a launch are laid over each other in their order, so that a special one follows a
general one and has only the choices that differ. `python -m benchmarks.gpu --apply FILE` writes the entries that were
measured; `override` lays one more over them for a while, so that variants can be timed.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("launches.json")
HINTS = ("", "evict_first", "evict_last")
# In the place of a hint: where rows start on 16 bytes the loop loads by a tensor descriptor (TMA), elsewhere plainly.
DESCRIPTOR = "descriptor"
PATHS = ("auto", "fused", "pair")
# forward: a whole row; forward_all: with fields whose state is larger than that of the default ones;
# forward_softcap: with a softcap; ..._part: a part of a row that several programs share. grpo: one program has a
# multiprocessor to itself; grpo_short: two share it; grpo_softcap: with a softcap. divergence_few: of no more rows than
# there are multiprocessors.
KERNELS = (
    "forward", "forward_part", "forward_all", "forward_all_part", "forward_softcap", "forward_softcap_part", "backward",
    "grpo", "grpo_short", "grpo_softcap", "divergence", "divergence_few",
)  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """The choices for one launch."""

    num_warps: int
    registers: int
    """Of a thread, at most, as compiled: how many programs are resident follows from it."""
    num_stages: int = 1
    """Of the loop that reads a row: 1 loads as it goes; more load that many tiles less one ahead, by way of shared
    memory."""
    unroll: int = 1
    """Tiles in one turn of that loop. A part of a row multiplies it by its slices, whose threads have fewer lanes."""
    block_bytes: int = 0
    """Of logits that the loop writing the gradient takes in one turn."""
    tiles: int = 0
    """Such blocks to a program of the backward, at most."""
    load: str = ""
    """Eviction hint of the first look at a row; "" leaves it to the cache, and "descriptor" is another way to load."""
    second_load: str = ""
    """That of the second look, in the backward and in the fused loss."""
    store: str = ""
    """That of the gradient."""
    max_registers: int = 0
    """To which NVIDIA's compiler is told that it may go. Left free (0) it goes by an occupancy of its own choice, and
    may spill to reach it; told of a number it may spill as well."""
    slices: int | None = None
    """Of the forward: None lets `plan` decide, 0 never splits a row, 1, 2 or 4 always splits it, into chunks and their
    lanes into as many slices."""
    path: str = "auto"
    """Of the loss: "fused" in one kernel, "pair" in a forward and a backward; "auto" lets `plan` decide."""

    def __post_init__(self) -> None:
        for name, low, high in (("num_warps", 1, 32), ("num_stages", 1, 8), ("unroll", 1, 64)):
            value = getattr(self, name)
            if not low <= value <= high or (name == "num_warps" and value & (value - 1)):
                powers = "a power of two, " if name == "num_warps" else ""
                raise ValueError(f"{name}: got {value}, expected {powers}{low} to {high}")
        for name, others in (("load", (DESCRIPTOR,)), ("second_load", ()), ("store", ())):
            if getattr(self, name) not in (*HINTS, *others):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {(*HINTS, *others)}")
        if self.slices not in (None, 0, 1, 2, 4):
            raise ValueError(f"slices: got {self.slices}, expected None, 0, 1, 2 or 4")
        if self.path not in PATHS:
            raise ValueError(f"path: got {self.path!r}, expected one of {PATHS}")


CHOICES = tuple(field.name for field in dataclasses.fields(Launch))


class Table:
    """Entries in their order. Equal to itself alone, so that what was planned by it can be remembered."""

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        for entry in entries:
            check_entry(entry)
        self.entries = tuple(entries)

    def find(self, kernel: str, architecture: str, itemsize: int, num_columns: int) -> Launch:
        """The choices for a kernel at these columns of this many bytes each."""
        choices: dict[str, Any] = {}
        for entry in self.entries:
            low, high = entry.get("columns", (0, None))
            if (
                entry["kernel"] == kernel
                and entry.get("architecture", architecture) == architecture
                and entry.get("itemsize", itemsize) == itemsize
                and low <= num_columns
                and (high is None or num_columns < high)
            ):
                choices |= entry["choices"]
        return Launch(**choices)


def check_entry(entry: Mapping[str, Any]) -> None:
    """Raise ValueError for an entry that names what there is not."""
    if entry["kernel"] not in KERNELS:
        raise ValueError(f"kernel: got {entry['kernel']!r}, expected one of {KERNELS}")
    keys = {"kernel", "architecture", "itemsize", "columns", "choices"}
    if not entry.keys() <= keys:
        raise ValueError(f"entry: got the keys {sorted(entry)}, expected some of {sorted(keys)}")
    unknown = sorted(entry["choices"].keys() - set(CHOICES))
    if unknown:
        raise ValueError(f"choices: got {unknown}, expected some of {CHOICES}")
    if entry["choices"].get("load") == DESCRIPTOR and not entry["kernel"].startswith(("forward", "grpo")):
        raise ValueError(f"load: got {DESCRIPTOR!r} for {entry['kernel']}, expected one of {HINTS}")


def read(file: Path = FILE) -> Table:
    """Return the table that a file holds."""
    return Table(json.loads(file.read_text(encoding="utf-8")))


_current = read()


def current() -> Table:
    """The table that launches go by now."""
    return _current


@contextmanager
def override(kernel: str, **choices: Any) -> Iterator[None]:
    """Lay these choices over the table's, for one kernel at all shapes, in the whole process.

    Raises:
        ValueError: the kernel or a choice is not known, or a choice is out of range.
    """
    global _current
    before = _current
    _current = Table([*before.entries, {"kernel": kernel, "choices": choices}])
    try:
        _current.find(kernel, "", 2, 0)  # so that a bad value raises here and not at a launch
        yield
    finally:
        _current = before
