"""Count what the kernels compile to, on a machine without any GPU.

    python -m benchmarks.static [--json FILE]

Every kernel is compiled ahead of time for each target, disassembled, and its main loop found: instructions per element,
barriers, shuffles, load and store width, registers, spills. From the counts follows a predicted time per GPU: the
larger of bytes over bandwidth and instructions over issue rate.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

# The kernels must be compiled, not interpreted, and this is read when they are decorated.
os.environ.pop("TRITON_INTERPRET", None)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rlif_kernels import triton_token_stats as launcher
from rlif_kernels.stats import DEFAULT_OUTPUTS, FIELDS
from rlif_kernels.triton_token_stats_backward import backward_kernel
from rlif_kernels.triton_token_stats_forward import forward_kernel

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TRITON_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Gpu:
    """What bounds a kernel that streams: the makers' figures, but for the H200's bandwidth: a measured copy."""

    target: str
    bandwidth: float  # bytes a second
    lanes: int  # float32 lanes: one instruction each a clock
    clock: float  # Hz, sustained


GPUS = {
    "A100": Gpu("sm_80", 2.04e12, 108 * 64, 1.41e9),
    "H100": Gpu("sm_90", 3.35e12, 132 * 128, 1.75e9),
    "H200": Gpu("sm_90", 4.3e12, 132 * 128, 1.75e9),
    "B200": Gpu("sm_100", 8.0e12, 148 * 128, 1.85e9),
    "MI300X": Gpu("gfx942", 5.3e12, 304 * 64, 2.1e9),
}


@dataclass(frozen=True)
class Kernel:
    """One compilation of a kernel, as the launcher would ask for it."""

    name: str  # forward, chunk, fold, backward
    dtype: torch.dtype
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS
    wide: bool = True
    softcap: bool = False

    def __str__(self) -> str:
        notes = [TRITON_DTYPES[self.dtype]]
        notes += ["all fields"] if self.outputs == FIELDS else []
        notes += [] if self.wide else ["unaligned"]
        notes += ["softcap"] if self.softcap else []
        return f"{self.name} ({', '.join(notes)})"


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


def kernels() -> list[Kernel]:
    """Every kernel that the launcher can ask for, but for combinations that only repeat what others show."""
    bf16, fp32, fp16 = torch.bfloat16, torch.float32, torch.float16
    names = ("forward", "chunk", "fold", "backward")
    return [
        *(Kernel(name, dtype) for dtype in (bf16, fp32) for name in names),
        Kernel("forward", fp16),
        Kernel("backward", fp16),
        *(Kernel(name, dtype, wide=False) for dtype in (bf16, fp32) for name in ("forward", "backward")),
        *(Kernel(name, bf16, outputs=FIELDS) for name in names),
        *(Kernel(name, bf16, softcap=True) for name in ("forward", "backward")),
    ]


def compile_kernel(kernel: Kernel, target: str) -> Any:
    """Compile ahead of time; returns Triton's compiled kernel, with every stage's text in `.asm`."""
    absent: dict[str, object] = {"offsets_ptr": None, "temperature_ptr": None}
    if kernel.name == "backward":
        function = backward_kernel
        constants = launcher.backward_constants(kernel.wide, kernel.softcap)
        absent["grad_offsets_ptr"] = None
        absent |= {f"g_{name}_ptr": None for name in FIELDS[:-1] if name not in kernel.outputs}
    else:
        function = forward_kernel
        constants = launcher.forward_constants(kernel.dtype, kernel.outputs, kernel.wide, kernel.softcap)
        stage = "row" if kernel.name == "forward" else kernel.name
        absent |= {"STAGE": stage} | ({"partials_ptr": None} if stage == "row" else {})
        absent |= {f"{name}_ptr": None for name in FIELDS if name not in kernel.outputs}
    options = {name: constants.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    fixed = absent | constants
    types = {
        "logits_ptr": f"*{TRITON_DTYPES[kernel.dtype]}",
        "grad_ptr": f"*{TRITON_DTYPES[kernel.dtype]}",
        "targets_ptr": "*i64",
        "scale": "fp32",
        "softcap": "fp32",
    }
    signature = {
        name: "constexpr" if name in fixed else types.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        for name in function.arg_names
    }
    return triton.compile(ASTSource(function, signature, fixed, {}), target=TARGETS[target], options=options)


def elements_per_thread(kernel: Kernel) -> int:
    """Elements that one thread takes in one turn of the main loop."""
    if kernel.name == "backward":
        return launcher.BACKWARD_BLOCK // (32 * launcher.BACKWARD_WARPS)
    constants = launcher.forward_constants(kernel.dtype, kernel.outputs, kernel.wide, kernel.softcap)
    return constants["LANES"] * constants["K"] // (32 * constants["num_warps"])


def count(kernel: Kernel, target: str) -> Counts:
    """Compile and count one of our kernels."""
    # The loop of "fold" runs over chunks, not over elements: nothing to count per element.
    per_thread = None if kernel.name == "fold" else elements_per_thread(kernel)
    return count_compiled(str(kernel), target, compile_kernel(kernel, target), per_thread)


def count_compiled(name: str, target: str, compiled: Any, per_thread: int | None) -> Counts:
    """Count a compiled kernel whose main loop takes `per_thread` elements a thread and turn."""
    if target.startswith("gfx"):
        return count_amd(name, target, compiled.asm["amdgcn"], per_thread)
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
    loop = main_loop(instructions, loops, "MUFU")
    names = Counter(opcode(text) for text in loop)
    return Counts(
        name,
        target,
        registers,
        spills,
        len(loop) / per_thread,
        names["MUFU"] / per_thread,
        names["BAR"],
        names["SHFL"],
        access_bytes(loop, "LDG"),
        access_bytes(loop, "STG"),
    )


def count_amd(name: str, target: str, assembly: str, per_thread: int | None) -> Counts:
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
    loop = main_loop(instructions, backward_jumps, "v_exp_f32")
    count = Counter(re.sub(r"_(e32|e64|sdwa|dpp)$", "", line.split()[0]) for line in loop)
    widths = {"dwordx4": 16, "dwordx2": 8, "dword": 4, "ushort": 2, "short": 2}
    access = {
        kind: [widths.get(op.rsplit("_", 1)[1], 2) for op in count if re.match(rf"(global|buffer)_{kind}_", op)]
        for kind in ("load", "store")
    }
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


def count_trl(target: str) -> list[Counts]:
    """TRL's kernels for log-probability and entropy (two statistics), compiled as TRL launches them.

    Empty where TRL is not installed, or has no such kernels. Its backward is one block a program, without a loop: there
    the whole program is counted.
    """
    try:
        module = importlib.import_module("trl.kernels.logprob_entropy")
        version = importlib.metadata.version("trl")
    except ImportError:
        return []
    counts = []
    for name in ("forward", "backward"):
        function = getattr(module, f"_{name}_kernel")
        fixed: dict[str, object] = {"n_cols": 151936, "TEMPERATURE": 1.0, "HAS_MASK": False}
        fixed |= {"BLOCK_SIZE": module._BLOCK_SIZE, "HAS_LOGPROB_GRAD": True, "HAS_ENTROPY_GRAD": True}
        fixed = {key: value for key, value in fixed.items() if key in function.arg_names}
        types = {"logits_ptr": "*bf16", "grad_logits_ptr": "*bf16", "index_ptr": "*i64", "row_mask_ptr": "*i1"}
        signature = {
            arg: "constexpr" if arg in fixed else types.get(arg, "*fp32" if arg.endswith("_ptr") else "i32")
            for arg in function.arg_names
        }
        # Triton's launcher marks pointers and strides that are multiples of 16, as they are at this vocabulary size.
        aligned = {
            (index,): [["tt.divisibility", 16]]
            for index, arg in enumerate(function.arg_names)
            if arg not in fixed and (arg.endswith("_ptr") or "logits" in arg)
        }
        source = ASTSource(function, signature, fixed, aligned)
        compiled = triton.compile(source, target=TARGETS[target], options={"num_warps": 4})
        counts.append(count_compiled(f"TRL {version} {name} (bf16)", target, compiled, module._BLOCK_SIZE // 128))
    return counts


def opcode(text: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", text).split()[0].split(".")[0]


def main_loop(
    instructions: list[tuple[int, str]], backward_jumps: list[tuple[int, int]], exponential: str
) -> list[str]:
    """The innermost loop with the most exponentials: the others are tails, masks and rare rows.

    `instructions` are (address, text), `backward_jumps` the (first, last) address of each loop.
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
    return max(bodies, key=lambda body: sum(exponential in text for text in body))


def access_bytes(loop: list[str], name: str) -> int | None:
    """The narrowest global access of that kind in a loop of SASS, in bytes."""
    widths = []
    for text in loop:
        if opcode(text) == name:
            suffix = re.search(r"\.(128|64|U16|U8|S16|S8)\b", text.removeprefix("@").split(name, 1)[1].split()[0])
            widths.append({"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}[suffix[1]] if suffix else 4)
    return narrowest(widths, loop)


def narrowest(widths: list[int], loop: list[str]) -> int | None:
    """Of a loop the smallest; of a program without one, which loads its row's constants singly as well, the largest."""
    choose = max if {"EXIT", "s_endpgm"} & set(loop) else min
    return choose(widths, default=None)


def predicted_milliseconds(
    counts: Counts, kernel: Kernel, gpu: Gpu, num_rows: int, num_columns: int
) -> tuple[float, str]:
    """The larger of bytes over bandwidth and instructions over issue rate, and which of the two it is."""
    elements = num_rows * num_columns
    transfers = 2 if kernel.name == "backward" else 1
    by_bytes = elements * kernel.dtype.itemsize * transfers / gpu.bandwidth
    by_issue = elements * (counts.instructions or 0.0) / (gpu.lanes * gpu.clock)
    return 1e3 * max(by_bytes, by_issue), "bytes" if by_bytes >= by_issue else "instructions"


def cell(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}" if isinstance(number, float) else str(number)


def main() -> None:
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the counts to this file")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this target (may be repeated)")
    arguments = parser.parse_args()

    console = Console(width=max(Console().width, 116))  # the tables need it, on a pipe too
    jobs = [(kernel, target) for target in arguments.target or TARGETS for kernel in kernels()]
    results = {job: count(*job) for job in track(jobs, "compiling", console=Console(stderr=True), transient=True)}
    peers = [counts for target in arguments.target or TARGETS for counts in count_trl(target)]

    for target in arguments.target or TARGETS:
        table = Table(title=f"{target}: main loop per element; registers and spills of the whole kernel")
        for heading in (
            "kernel",
            "instructions",
            "exp",
            "barriers",
            "shuffles",
            "load",
            "store",
            "registers",
            "spills",
        ):
            table.add_column(heading, justify="left" if heading == "kernel" else "right")
        for c in (*results.values(), *peers):
            if c.target == target:
                numbers = [c.instructions, c.exponentials, c.barriers, c.shuffles, c.load_bytes, c.store_bytes]
                table.add_row(c.kernel, *map(cell, (*numbers, c.registers, c.spills)))
        console.print(table)

    num_rows, num_columns = 8192, 151936
    table = Table(title=f"Predicted time, {num_rows} rows of {num_columns}, and the bound that holds")
    for heading in ("kernel", *GPUS):
        table.add_column(heading)
    for kernel in kernels():
        if kernel.name in ("forward", "backward"):
            cells = []
            for gpu in GPUS.values():
                if (kernel, gpu.target) in results:
                    time, bound = predicted_milliseconds(
                        results[kernel, gpu.target], kernel, gpu, num_rows, num_columns
                    )
                    cells.append(f"{time:.2f} ms ({bound})")
                else:
                    cells.append("")
            table.add_row(str(kernel), *cells)
    console.print(table)
    console.print("Predicted from static counts, not measured: no GPU took part.")
    if arguments.json:
        payload = {
            "date": str(datetime.date.today()),
            "versions": {"torch": torch.__version__, "triton": triton.__version__},
            "counts": [asdict(c) for c in (*results.values(), *peers)],
        }
        arguments.json.write_text(json.dumps(payload, indent=1) + "\n")


if __name__ == "__main__":
    main()
