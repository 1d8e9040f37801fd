"""What a compiled kernel became: its main loop found in the disassembly and counted. Needs no GPU."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Counts:
    """What the kernel became: per element of the main loop (None without one), registers and spills of the whole."""

    kernel: str
    target: str
    registers: int
    spills: int  # instructions that store to or load from local memory, or on AMD spilled registers
    instructions: float | None = None
    exponentials: float | None = None
    barriers: int | None = None
    shuffles: int | None = None
    load_bytes: int | None = None  # the narrowest access of the main loop
    store_bytes: int | None = None  # None as well where the loop stores nothing


def count_compiled(
    name: str, target: str, compiled: Any, per_thread: int | None, itemsize: int, stores: bool | None = None
) -> Counts:
    """Count a compiled kernel whose main loop takes `per_thread` elements a thread and turn, or more if unrolled.

    A kernel that reads its row twice has two such loops: `stores` says which of them to count, the one that writes or
    the one that does not.
    """
    if target.startswith("gfx"):
        return count_amd(name, target, compiled.asm["amdgcn"], per_thread, itemsize, stores)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        sass = subprocess.run(
            [CUOBJDUMP, "-sass", "-res-usage", cubin.name], capture_output=True, text=True, check=True
        )
    instructions = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", sass.stdout)]
    registers = int(re.search(r"REG:(\d+)", sass.stdout)[1])  # type: ignore[index]
    spills = sum(opcode(text) in ("STL", "LDL") for _, text in instructions)
    if per_thread is None:
        return Counts(name, target, registers, spills)
    jumps = [(re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text), address) for address, text in instructions]
    loops = [(int(jump[1], 16), address) for jump, address in jumps if jump and int(jump[1], 16) < address]
    loop = main_loop(instructions, loops, "MUFU", "STG", stores)
    names = Counter(opcode(text) for text in loop)
    per_thread *= unrolled(sum(access_widths(loop, "LDG")), per_thread * itemsize, loop)
    return Counts(
        name,
        target,
        registers,
        spills,
        len(loop) / per_thread,
        names["MUFU"] / per_thread,
        names["BAR"],
        names["SHFL"],
        narrowest(access_widths(loop, "LDG"), loop),
        narrowest(access_widths(loop, "STG"), loop),
    )


def count_amd(
    name: str, target: str, assembly: str, per_thread: int | None, itemsize: int, stores: bool | None
) -> Counts:
    """`count_compiled` from AMD's assembly. `per_thread` is for warps of 32 threads: a wavefront has 64.

    Scalar instructions, which issue beside the vector unit's, are not counted.
    """
    # Spilled scalar registers go to lanes of a vector register, not to memory.
    registers, spills = (
        int(re.search(rf"\.{key}:\s+(\d+)", assembly)[1])  # type: ignore[index]
        for key in ("vgpr_count", "vgpr_spill_count")
    )
    if per_thread is None:
        return Counts(name, target, registers, spills)
    lines = [line.split(";")[0].strip() for line in assembly.splitlines()]
    labels = {line[:-1]: number for number, line in enumerate(lines) if re.fullmatch(r"\.LBB\w+:", line)}
    instructions = [(number, line) for number, line in enumerate(lines) if re.match(r"(v|s|ds|global|buffer)_", line)]
    backward_jumps = [
        (labels[line.split()[1]], number)
        for number, line in instructions
        if line.startswith(("s_cbranch", "s_branch")) and labels.get(line.split()[1], number) < number
    ]
    loop = main_loop(instructions, backward_jumps, "v_exp_f32", "_store_", stores)
    count = Counter(re.sub(r"_(e32|e64|sdwa|dpp)$", "", line.split()[0]) for line in loop)
    widths = {"dwordx4": 16, "dwordx2": 8, "dword": 4, "ushort": 2, "short": 2}
    access = {
        kind: [
            widths.get(op.rsplit("_", 1)[1], 2) for op in count.elements() if re.match(rf"(global|buffer)_{kind}_", op)
        ]
        for kind in ("load", "store")
    }
    per_thread *= unrolled(2 * sum(access["load"]), per_thread * itemsize, loop)
    return Counts(
        name,
        target,
        registers,
        spills,
        sum(not line.startswith("s_") for line in loop) / (per_thread / 2),
        count["v_exp_f32"] / (per_thread / 2),
        count["s_barrier"],
        sum(number for op, number in count.items() if op.startswith(("ds_bpermute", "ds_swizzle"))),
        narrowest(access["load"], loop),
        narrowest(access["store"], loop),
    )


def opcode(text: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", text).split()[0].split(".")[0]


def main_loop(
    instructions: list[tuple[int, str]],
    backward_jumps: list[tuple[int, int]],
    exponential: str,
    store: str,
    stores: bool | None,
) -> list[str]:
    """The innermost loop with the most exponentials: the others are tails, masks and rare rows.

    `instructions` are (address, text), `backward_jumps` the (first, last) address of each loop; `stores` leaves only
    the loops that store something, or those that do not.
    """
    innermost = [
        (first, last)
        for first, last in backward_jumps
        if not any(first <= other and end <= last for other, end in backward_jumps if (other, end) != (first, last))
    ]
    if not innermost:  # no loop at all: the program up to its first unconditional exit
        texts = [text.strip() for _, text in instructions]
        return texts[: min(texts.index(end) for end in ("EXIT", "s_endpgm") if end in texts) + 1]
    bodies = [[text for at, text in instructions if first <= at <= last] for first, last in innermost]
    bodies = [body for body in bodies if stores is None or any(store in text for text in body) == stores]
    return max(bodies, key=lambda body: sum(exponential in text for text in body))


def unrolled(loaded: int, expected: int, loop: list[str]) -> int:
    """How many turns the compiler made one of: bytes that a loop loads over those of one turn. 1 without a loop."""
    return 1 if {"EXIT", "s_endpgm"} & set(loop) else max(1, round(loaded / expected))


def access_widths(loop: list[str], name: str) -> list[int]:
    """The width in bytes of each global access of that kind in a loop of SASS."""
    widths = []
    for text in loop:
        if opcode(text) == name:
            suffix = re.search(r"\.(128|64|U16|U8|S16|S8)\b", text.removeprefix("@").split(name, 1)[1].split()[0])
            widths.append({"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}[suffix[1]] if suffix else 4)
    return widths


def narrowest(widths: list[int], loop: list[str]) -> int | None:
    """Of a loop the smallest; of a program without one, which loads its row's constants singly as well, the largest."""
    choose = max if {"EXIT", "s_endpgm"} & set(loop) else min
    return choose(widths, default=None)
