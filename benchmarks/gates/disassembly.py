"""What a compiled kernel became: its main loop found in the disassembly and counted. Needs no GPU."""

import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

from benchmarks.gates.hardware import gpu_of, resident_programs
from benchmarks.gates.loads import bytes_under_way, bytes_under_way_amd

# The release of Triton that compiles may be older than a target: what it ships then cannot disassemble for it.
SHIPPED = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
CUOBJDUMP = Path(os.environ.get("TRITON_CUOBJDUMP_PATH", SHIPPED))


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
    warps: int = 0  # of a program
    shared_bytes: int = 0  # of a program
    programs: int = 0  # that a multiprocessor holds at once
    in_flight: int | None = None  # bytes that its threads load before they have to wait, in a multiprocessor


@dataclass(frozen=True)
class Program:
    """A kernel's disassembly, whichever GPU it is for."""

    registers: int
    spills: int
    instructions: list[tuple[int, str]]
    """Address and text of each."""
    backward_jumps: list[tuple[int, int]]
    """The first and the last address of each loop."""


def count_compiled(
    name: str,
    target: str,
    compiled: Any,
    per_thread: int | None,
    itemsize: int,
    stores: bool | None = None,
    unroll: int = 1,
    exponentials: int = 1,
    in_flight: int | None = None,
) -> Counts:
    """Count a compiled kernel whose main loop takes `per_thread` elements a thread and turn, `unroll` times or more.

    `per_thread` is for warps of 32 threads. A kernel that reads its row several times has several such loops: `stores`
    says which of them to count, the one that writes or one that does not, and `exponentials` how many it has at least
    for each element. What loads by descriptors have under way at once does not show: of those `in_flight` is given, the
    bytes of a program.
    """
    amd = target.startswith("gfx")
    program = disassembled(target, compiled)
    warps, shared = compiled.metadata.num_warps, compiled.metadata.shared
    device = gpu_of(target).device
    programs = resident_programs(device, program.registers, warps, shared)
    residency: dict[str, Any] = {"warps": warps, "shared_bytes": shared, "programs": programs}
    if per_thread is None:
        return Counts(name, target, program.registers, program.spills, **residency)
    exponential, store = ("v_exp_f32", "_store_") if amd else ("MUFU", "STG")
    threads = 2 if amd else 1  # a wavefront has 64
    widths = amd_widths if amd else access_widths
    least = per_thread * unroll * exponentials // threads
    loop = main_loop(program, exponential, store, stores, least, lambda body: sum(widths(body, "load")))
    loads, writes = (widths(loop, kind) for kind in ("load", "store"))
    under_way = bytes_under_way_amd if amd else bytes_under_way
    turns = unrolled(threads * sum(loads), per_thread * itemsize, loop) if in_flight is None else unroll
    elements = per_thread * turns / threads

    def count(*patterns: str) -> int:
        return sum(opcode(text).startswith(patterns) for text in loop)

    return Counts(
        name,
        target,
        program.registers,
        program.spills,
        # Scalar instructions issue beside the vector unit's.
        sum(not text.startswith("s_") for text in loop) / elements,
        count(exponential) / elements,
        count("s_barrier", "BAR"),
        count("ds_bpermute", "ds_swizzle", "SHFL"),
        narrowest(loads, loop),
        narrowest(writes, loop),
        **residency,
        in_flight=programs * (under_way(loop) * warps * device.warp if in_flight is None else in_flight),
    )


def disassembled(target: str, compiled: Any) -> Program:
    """The program that Triton compiled for a target."""
    if target.startswith("gfx"):
        return amd_program(compiled.asm["amdgcn"])
    return nvidia_program(compiled.asm["cubin"])


def registers_and_spills(target: str, compiled: Any) -> tuple[int, int]:
    """Registers of the program that Triton compiled, and instructions that spill; it is disassembled only if any do."""
    if not target.startswith("gfx"):
        used = cuobjdump(compiled.asm["cubin"], "-res-usage")
        found = re.search(r"REG:(\d+) STACK:0 SHARED:\d+ LOCAL:0 ", used)
        if found:  # what is spilled lies on the stack
            return int(found[1]), 0
    program = disassembled(target, compiled)
    return program.registers, program.spills


def cuobjdump(cubin: bytes, *options: str) -> str:
    """What cuobjdump prints of a kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([CUOBJDUMP, *options, file.name], capture_output=True, text=True, check=True).stdout


@functools.cache
def nvidia_program(cubin: bytes) -> Program:
    """Of a kernel with two main loops, each of which is counted, for both."""
    sass = cuobjdump(cubin, "-sass", "-res-usage")
    instructions = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", sass)]
    registers = int(re.search(r"REG:(\d+)", sass)[1])  # type: ignore[index]
    spills = sum(opcode(text) in ("STL", "LDL") for _, text in instructions)
    jumps = [(re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text), address) for address, text in instructions]
    loops = [(int(jump[1], 16), address) for jump, address in jumps if jump and int(jump[1], 16) < address]
    return Program(registers, spills, instructions, loops)


def amd_program(assembly: str) -> Program:
    # Spilled scalar registers go to lanes of a vector register, not to memory.
    registers, spills = (
        int(re.search(rf"\.{key}:\s+(\d+)", assembly)[1])  # type: ignore[index]
        for key in ("vgpr_count", "vgpr_spill_count")
    )
    lines = [line.split(";")[0].strip() for line in assembly.splitlines()]
    labels = {line[:-1]: number for number, line in enumerate(lines) if re.fullmatch(r"\.LBB\w+:", line)}
    instructions = [(number, line) for number, line in enumerate(lines) if re.match(r"(v|s|ds|global|buffer)_", line)]
    loops = [
        (labels[line.split()[1]], number)
        for number, line in instructions
        if line.startswith(("s_cbranch", "s_branch")) and labels.get(line.split()[1], number) < number
    ]
    return Program(registers, spills, instructions, loops)


def opcode(text: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", text).split()[0].split(".")[0]


def main_loop(
    program: Program,
    exponential: str,
    store: str,
    stores: bool | None,
    least: int,
    loaded: Callable[[list[str]], int],
) -> list[str]:
    """Return the innermost loop with the fewest instructions to a byte that it loads, of those that do main work.

    These have `least` exponentials, one or more for each of a turn's elements. The others are tails, masks and rare
    rows, which take fewer elements in a turn, or more instructions for them. `stores` leaves only the loops that store
    something, or those that do not.
    """
    jumps = program.backward_jumps
    innermost = [
        (first, last)
        for first, last in jumps
        if not any(first <= other and end <= last for other, end in jumps if (other, end) != (first, last))
    ]
    if not innermost:  # no loop at all: the program up to its first unconditional exit
        texts = [text.strip() for _, text in program.instructions]
        return texts[: min(texts.index(end) for end in ("EXIT", "s_endpgm") if end in texts) + 1]
    bodies = [[text for at, text in program.instructions if first <= at <= last] for first, last in innermost]
    bodies = [body for body in bodies if stores is None or any(store in text for text in body) == stores]
    exponentials = [sum(exponential in text for text in body) for body in bodies]
    enough = [body for body, count in zip(bodies, exponentials, strict=True) if count >= least]
    return min(enough, key=lambda body: len(body) / max(1, loaded(body)))


def unrolled(loaded: int, expected: int, loop: list[str]) -> int:
    """How many turns the compiler made one of: bytes that a loop loads over those of one turn. 1 without a loop."""
    return 1 if {"EXIT", "s_endpgm"} & set(loop) else max(1, round(loaded / expected))


def access_widths(loop: list[str], kind: str) -> list[int]:
    """Return the width in bytes of each global "load" or "store" in a loop of SASS."""
    names = {"load": ("LDG", "LDGSTS"), "store": ("STG",)}[kind]  # LDGSTS copies into shared memory
    widths = []
    for text in loop:
        name = opcode(text)
        if name in names:
            suffix = re.search(r"\.(128|64|U16|U8|S16|S8)\b", text.removeprefix("@").split(name, 1)[1].split()[0])
            widths.append({"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}[suffix[1]] if suffix else 4)
    return widths


def amd_widths(loop: list[str], kind: str) -> list[int]:
    """Return the same in a loop of AMD's assembly."""
    widths = {"dwordx4": 16, "dwordx2": 8, "dword": 4}
    accesses = (opcode(text) for text in loop if re.match(rf"(global|buffer)_{kind}_", text))
    return [widths.get(name.rsplit("_", 1)[1], 2) for name in accesses]


def narrowest(widths: list[int], loop: list[str]) -> int | None:
    """Of a loop the smallest; of a program without one, which loads its row's constants singly as well, the largest."""
    choose = max if {"EXIT", "s_endpgm"} & set(loop) else min
    return choose(widths, default=None)
