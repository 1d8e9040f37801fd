"""How long a call should take on a GPU that nobody has at hand, and what it is bound by.

Five bounds are told apart: the bytes that have to move; the loads under way (a multiprocessor that has too few cannot
draw its share of the bandwidth, whatever it computes); instructions; exponentials; and launches, memsets included. The
largest of the first four, over the balance of the programs, is the time of the kernels; launches come on top.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.gates.hardware import GPU, GPUS, LATENCY_SECONDS, LAUNCH_SECONDS
from rlif_kernels.backends.triton import launches, plan

# Those of the report: vocabularies of Llama 2, GPT-2, Llama 3, Qwen2.5 and Gemma.
COLUMNS = (32000, 50257, 102400, 128256, 151936, 262144)
ROWS = (64, 1024, 8192)
SHAPES = tuple((rows, columns) for columns in COLUMNS for rows in ROWS)
ITEMSIZES = {"bf16": 2, "fp32": 4}
OPS = ("forward", "backward", "grpo_loss")
PLANS: dict[str, Callable[..., Any]] = {"forward": plan.forward, "backward": plan.backward, "grpo_loss": plan.loss}
TRL_BLOCK = 1024

Counted = Mapping[str, Any]
"""An entry of the suite `static`: `benchmarks.gates.disassembly.Counts` as a dictionary."""


@dataclass(frozen=True)
class Prediction:
    """Of one call."""

    seconds: float
    bound: str
    """Which of the bounds holds."""
    balance: float
    launches: int
    memsets: int
    path: str = ""
    """Of the loss: "fused" or "pair"."""


@dataclass(frozen=True)
class Pass:
    """One kernel's way over all logits."""

    counted: Counted
    bytes_moved: float
    """Between the multiprocessors and memory."""
    bytes_loaded: float
    """By its loads, of those."""
    programs: int
    resident: int
    balance: float
    gathers: bool = True
    """Whether its loads have to come from memory, and not from a cache that holds them."""


def kernel_seconds(gpu: GPU, elements: float, each: Pass) -> dict[str, float]:
    """What each bound would take of a pass over so many elements, were it the only one."""
    device = gpu.device
    # Programs that are fewer than fit leave multiprocessors with fewer loads under way.
    filled = min(1.0, each.programs / (each.resident * device.multiprocessors))
    under_way = each.counted["in_flight"] * device.multiprocessors * filled
    seconds = {
        "bytes": each.bytes_moved / gpu.copy_bandwidth,
        "latency": each.bytes_loaded / under_way * LATENCY_SECONDS if each.gathers else 0.0,
        "instructions": elements * each.counted["instructions"] / (gpu.clocks * gpu.lanes),
        "exponentials": elements * each.counted["exponentials"] / (gpu.clocks * gpu.exponentials),
    }
    return {name: value / each.balance for name, value in seconds.items()}


def together(gpu: GPU, elements: float, passes: list[Pass], launches: int, memsets: int, path: str = "") -> Prediction:
    """Passes one after the other. The bound is that of the longest."""
    bounds = [kernel_seconds(gpu, elements, each) for each in passes]
    kernels = sum(max(each.values()) for each in bounds)
    started = (launches + memsets) * LAUNCH_SECONDS
    longest = max(bounds, key=lambda each: max(each.values()))
    bound = "launches" if started > kernels else max(longest, key=longest.__getitem__)
    return Prediction(kernels + started, bound, min(each.balance for each in passes), launches, memsets, path)


def ours(gpu: GPU, op: str, rows: int, columns: int, dtype: str, counts: Mapping[str, Counted]) -> Prediction:
    """Predict one of `OPS` as the launcher would run it; the arguments are those of `passes`."""
    itemsize, device = ITEMSIZES[dtype], gpu.device
    planned = PLANS[op](rows, columns, itemsize, device)
    path = getattr(planned, "path", "")
    found = passes(gpu, op, rows, columns, dtype, counts)
    return together(gpu, float(rows * columns), found, planned.launches, planned.memsets, path)


def passes(gpu: GPU, op: str, rows: int, columns: int, dtype: str, counts: Mapping[str, Counted]) -> list[Pass]:
    """The passes over the logits that one of `OPS` is made of, as the launcher's plan has them.

    Args:
        counts: of the GPU's target, by kernel.
    """
    itemsize, device = ITEMSIZES[dtype], gpu.device
    size = float(rows * columns * itemsize)

    def forward(planned: plan.ForwardPlan) -> Pass:
        slices = f", {planned.slices} slices" if planned.slices > 1 else ""
        counted = counts[f"part ({dtype}{slices})" if planned.split else f"forward ({dtype})"]
        return Pass(counted, size, size, planned.programs, planned.resident, planned.balance)

    def backward(planned: plan.BackwardPlan) -> Pass:
        counted = counts[f"backward ({dtype})"]
        return Pass(counted, 2 * size, size, planned.programs, planned.resident, planned.balance)

    if op == "forward":
        return [forward(plan.forward(rows, columns, itemsize, device))]
    if op == "backward":
        return [backward(plan.backward(rows, columns, itemsize, device))]
    loss = plan.loss(rows, columns, itemsize, device)
    if loss.path == "pair":
        return [forward(loss.forward), backward(loss.backward)]
    short = launches.current().find("grpo_short", device.architecture, itemsize, columns)
    kind = ", short rows" if loss.launch == short else ""
    looks = [counts[f"grpo {loop} ({dtype}{kind})"] for loop in ("statistics", "gradient")]
    # A program that walks over several rows is as many programs of a row each, for what it has to move.
    share = (rows, loss.resident, loss.balance)
    again = 0.0 if loss.fits else size
    return [Pass(looks[0], size, size, *share), Pass(looks[1], size + again, size, *share, gathers=not loss.fits)]


def peers(gpu: GPU, name: str, rows: int, columns: int, counts: Mapping[str, Counted]) -> Prediction:
    """Predict a peer's kernel on bfloat16 logits, without what its package launches besides.

    TRL's backward takes a program for each of its blocks, all others one for each row.
    """
    counted, elements = counts[name], float(rows * columns)
    reads_alone = name.split()[-2] == "forward"
    blocks = -(-columns // TRL_BLOCK) if name.startswith("TRL") and not reads_alone else 1
    programs, resident = rows * blocks, counted["programs"]
    share = plan.balance(programs, resident, gpu.device.multiprocessors)
    each = Pass(counted, (2 if reads_alone else 4) * elements, 2 * elements, programs, resident, share)
    return together(gpu, elements, [each], launches=1, memsets=0)


def simulated_balance(gpu: GPU, each: Pass) -> float:
    """Return the time that the pass would take if work could be dealt out to the byte, over that of its programs.

    Programs are started in waves, as many as fit, and share the memory: a wave goes at its full rate, or at what the
    loads that it has under way allow. Waves over their ceiling, which `plan.balance` gives, is the worst that can come
    of it: the last wave as slow as a full one.
    """
    slots = each.resident * gpu.device.multiprocessors
    loads = each.counted["in_flight"] / each.counted["programs"]
    size = each.bytes_moved / each.programs
    written = each.bytes_moved / each.bytes_loaded

    def seconds(programs: float) -> float:
        return programs * size / min(gpu.copy_bandwidth, programs * loads * written / LATENCY_SECONDS)

    full, rest = divmod(each.programs, slots)
    taken = full * seconds(slots) + (seconds(rest) if rest else 0.0)
    return each.programs / slots * seconds(slots) / taken if full else 1.0


def predictions(counts: list[Counted]) -> list[dict[str, Any]]:
    """Of every GPU whose target was counted, of every op, shape and dtype of the report; and of the peers' kernels."""
    found = []
    for gpu in GPUS.values():
        by_kernel = {each["kernel"]: each for each in counts if each["target"] == gpu.target}
        if not by_kernel:
            continue
        for dtype in ITEMSIZES:
            for op in OPS:
                for rows, columns in SHAPES:
                    predicted = asdict(ours(gpu, op, rows, columns, dtype, by_kernel))
                    where = {"gpu": gpu.name, "op": op, "rows": rows, "columns": columns, "dtype": dtype}
                    found.append(where | {"who": "rlif"} | predicted)
        for name in by_kernel:
            if name.startswith(("TRL", "Liger")) and by_kernel[name]["instructions"]:
                op = name.split()[-2]
                for rows, columns in SHAPES:
                    predicted = asdict(peers(gpu, name, rows, columns, by_kernel))
                    where = {"gpu": gpu.name, "op": op, "rows": rows, "columns": columns, "dtype": "bf16"}
                    found.append(where | {"who": name.removesuffix(f" {op} (bf16)")} | predicted)
    return found
