"""How a call is launched: pure functions of rows, columns and what is known of the device. Nothing here needs a GPU.

The launcher goes by these plans, and `python -m benchmarks static` predicts from them.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from rlif_kernels.backends.triton import launches
from rlif_kernels.backends.triton.launches import Launch, Table
from rlif_kernels.functional import sums_of
from rlif_kernels.stats import DEFAULT_OUTPUTS

# LANES and warps: 512 lanes on 128 threads give each thread four independent 16-byte loads, enough in flight at the
#   occupancy that their registers leave; LANES also fixes the bits of a result, so it does not vary with the shape.
# TILES a chunk, which fix the bits as well: 8 tiles of 4096 (bf16) or 2048 (fp32) columns. Merging a chunk costs a lane
#   about 14 instructions, 0.2 an element; a smaller chunk would cost more, a larger one would add up too many terms.
LANES = 512
TILES = 8
LOAD_BYTES = 16
TILE_BYTES = LANES * LOAD_BYTES
# How a row can be split over programs, without a change of bits: into chunks, and the lanes of each into slices. Four
# slices leave each of 128 threads one lane; more would only leave threads without one.
SLICES = (1, 2, 4)
# What of a split row's time is not spent on logits: its lanes' state is written and read again, 8 KB for 64 KB.
SPLIT_EFFICIENCY = 0.85
# Bytes under way that keep a multiprocessor's share of the memory busy: 4.3 TB/s at 700 ns on 132 of them are 23 KB.
BYTES_NEEDED = 24 << 10
# A plan this close to the best that there can be is not split further.
GOOD = 0.95
# The second look of the fused loss finds its rows in the cache if they fill no more than this share of it.
CACHE_SHARE = 0.8


@dataclass(frozen=True)
class Device:
    """What a plan has to know of a GPU."""

    architecture: str
    """"sm_90", "gfx942"; of others any name."""
    multiprocessors: int
    cache_bytes: int
    """Of the last cache before the memory that all multiprocessors share."""
    warp: int = 32
    registers: int = 65536
    """32-bit, of a multiprocessor."""
    threads: int = 2048
    """Resident on a multiprocessor, at most."""
    shared_bytes: int = 228 << 10
    """Of a multiprocessor."""


@dataclass(frozen=True)
class ForwardPlan:
    """A forward is one launch: of a program for each row, or for each part of a row, the last of which sums them up."""

    launch: Launch
    split: bool
    chunks: int
    """Of a row."""
    slices: int
    programs: int
    resident: int
    """Programs on a multiprocessor at a time."""
    balance: float
    efficiency: float
    """Balance, times the share of the memory's rate that the loads under way allow, less what splitting costs."""
    memsets: int
    launches: int = 1

    @property
    def parts(self) -> int:
        """Programs to a row."""
        return self.chunks * self.slices if self.split else 1


@dataclass(frozen=True)
class BackwardPlan:
    """A backward is one launch, of a program for each chunk of each row."""

    launch: Launch
    tiles: int
    """Blocks to a chunk."""
    chunks: int
    """Of a row."""
    programs: int
    resident: int
    balance: float
    efficiency: float
    launches: int = 1
    memsets: int = 0


@dataclass(frozen=True)
class LossPlan:
    """The fused loss is one launch of the programs that are resident; the pair, a forward, the loss and a backward."""

    path: Literal["fused", "pair"]
    launch: Launch
    """Of the fused kernel."""
    programs: int
    resident: int
    balance: float
    rows_in_flight: int
    """Of the fused kernel, at most."""
    fits: bool
    """Whether these rows stay in the cache until they are looked at again."""
    forward: ForwardPlan
    backward: BackwardPlan
    launches: int
    memsets: int


def forward(
    num_rows: int, num_columns: int, itemsize: int, device: Device, large_state: bool = False, softcap: bool = False
) -> ForwardPlan:
    """Plan a forward: whole rows where they fill the device, or else as many parts as do."""
    return _forward(launches.current(), num_rows, num_columns, itemsize, device, forward_name(large_state, softcap))


def has_large_state(outputs: Iterable[str]) -> bool:
    """Whether the fields need more sums than the default ones do."""
    return not sums_of(outputs) <= sums_of(DEFAULT_OUTPUTS)


def forward_name(large_state: bool, softcap: bool) -> str:
    """Which kernel of the table a forward is, by whether its state or its loop takes more registers than others."""
    return "forward_softcap" if softcap else "forward_all" if large_state else "forward"


def backward(num_rows: int, num_columns: int, itemsize: int, device: Device) -> BackwardPlan:
    """Plan a backward: chunks as large as still fill the device."""
    return _backward(launches.current(), num_rows, num_columns, itemsize, device)


def loss(num_rows: int, num_columns: int, itemsize: int, device: Device, softcap: bool = False) -> LossPlan:
    """Plan a policy loss: fused where the rows under way stay in the cache and fill the device better than the pair."""
    return _loss(launches.current(), num_rows, num_columns, itemsize, device, softcap)


def divergence(num_rows: int, num_columns: int, itemsize: int, device: Device) -> Launch:
    """Plan a divergence, a program to a pair of rows: where a program has a multiprocessor to itself, it has the loads
    under way that several would have."""
    name = "divergence_few" if num_rows <= device.multiprocessors else "divergence"
    return launches.current().find(name, device.architecture, itemsize, num_columns)


def num_chunks(num_columns: int, itemsize: int) -> int:
    """Chunks of a row: the parts of it that are added up first, whoever does."""
    return cdiv(num_columns * itemsize, TILES * TILE_BYTES)


def resident_programs(launch: Launch, device: Device) -> int:
    """How many programs a multiprocessor holds at a time, by their threads, registers and shared memory; at least 1."""
    threads = launch.num_warps * device.warp
    registers = _round_up(launch.registers, 8)
    programs = min(device.threads // threads, device.registers // (registers * threads))
    if launch.num_stages > 1:
        # Tiles that wait in shared memory, and 1 KB that the system keeps of each program.
        programs = min(programs, device.shared_bytes // (launch.num_stages * TILE_BYTES + 1024))
    return max(1, programs)


def part_of(launch: Launch, slices: int, warp: int) -> Launch:
    """The launch of a slice: threads that have fewer lanes each take more tiles in a turn, and none has no lane.

    The table's registers are those of such a thread; one with all the lanes may take as many as it is allowed.
    """
    registers = launch.registers if slices > 1 else max(launch.registers, launch.max_registers)
    num_warps = min(launch.num_warps, LANES // slices // warp)
    return replace(launch, num_warps=num_warps, registers=registers, unroll=launch.unroll * slices)


def bytes_in_flight(launch: Launch, slices: int = 1) -> int:
    """Bytes of a row, or of a slice of its lanes, that a program has asked for before it waits for the first."""
    return launch.unroll * max(1, launch.num_stages - 1) * TILE_BYTES // slices


def balance(programs: int, resident: int, multiprocessors: int) -> float:
    """The share of the time that multiprocessors have work, all programs being equal.

    Programs that are all resident at once share the memory: then the multiprocessor with the most decides. More come in
    waves, and the last one is as long as the others.
    """
    if programs <= resident * multiprocessors:
        return programs / multiprocessors / -(-programs // multiprocessors)
    waves = programs / (resident * multiprocessors)
    return waves / -(-programs // (resident * multiprocessors))


def _fill(programs: int, resident: int, multiprocessors: int, in_flight: int) -> float:
    """The share of the memory's rate that the loads under way allow."""
    return min(1.0, min(resident, programs / multiprocessors) * in_flight / BYTES_NEEDED)


@functools.lru_cache(maxsize=4096)
def _forward(table: Table, num_rows: int, num_columns: int, itemsize: int, device: Device, name: str) -> ForwardPlan:
    def plan(slices: int) -> ForwardPlan:
        launch = table.find(f"{name}_part" if slices else name, device.architecture, itemsize, num_columns)
        split = slices > 0
        if split:
            launch = part_of(launch, slices, device.warp)
        programs = num_rows * (chunks * slices if split else 1)
        resident = resident_programs(launch, device)
        balanced = balance(programs, resident, device.multiprocessors)
        efficiency = balanced * _fill(
            programs, resident, device.multiprocessors, bytes_in_flight(launch, max(1, slices))
        )
        if split:
            efficiency *= SPLIT_EFFICIENCY
        return ForwardPlan(launch, split, chunks, slices, programs, resident, balanced, efficiency, int(split))

    chunks = num_chunks(num_columns, itemsize)
    whole = plan(0)
    if whole.launch.slices is not None:
        return plan(whole.launch.slices) if whole.launch.slices else whole
    parts = [plan(slices) for slices in SLICES if chunks * slices > 1]
    return max([whole, *parts], key=lambda each: each.efficiency)


@functools.lru_cache(maxsize=4096)
def _backward(table: Table, num_rows: int, num_columns: int, itemsize: int, device: Device) -> BackwardPlan:
    launch = table.find("backward", device.architecture, itemsize, num_columns)
    resident = resident_programs(launch, device)

    def plan(tiles: int) -> BackwardPlan:
        chunks = cdiv(num_columns * itemsize, tiles * launch.block_bytes)
        programs = num_rows * chunks
        balanced = balance(programs, resident, device.multiprocessors)
        efficiency = balanced * _fill(programs, resident, device.multiprocessors, launch.block_bytes)
        return BackwardPlan(launch, tiles, chunks, programs, resident, balanced, efficiency)

    # The largest chunks that are good enough: each program loads its row's constants anew.
    plans = [plan(tiles) for tiles in range(launch.tiles, 0, -1)]
    return next((each for each in plans if each.efficiency >= GOOD), max(plans, key=lambda each: each.efficiency))


@functools.lru_cache(maxsize=4096)
def _loss(table: Table, num_rows: int, num_columns: int, itemsize: int, device: Device, softcap: bool) -> LossPlan:
    forward_plan = _forward(table, num_rows, num_columns, itemsize, device, forward_name(False, softcap))
    backward_plan = _backward(table, num_rows, num_columns, itemsize, device)

    def plan(name: str) -> tuple[float, LossPlan]:
        """The fused loss by one of its kernels, and how many times the rows are moved, over the efficiency."""
        launch = table.find(name, device.architecture, itemsize, num_columns)
        resident = resident_programs(launch, device)
        balanced = balance(num_rows, resident, device.multiprocessors)
        cost = 2 / balanced / _fill(num_rows, resident, device.multiprocessors, bytes_in_flight(launch))
        rows = min(num_rows, resident * device.multiprocessors)
        fits = rows * num_columns * itemsize <= CACHE_SHARE * device.cache_bytes
        plan = LossPlan("fused", launch, rows, resident, balanced, rows, fits, forward_plan, backward_plan, 1, 0)
        return cost, plan

    # Those that fit first, then by cost; of equal ones that with more rows under way.
    names = ("grpo_softcap",) if softcap else ("grpo_short", "grpo")
    cost, fused = min((plan(name) for name in names), key=lambda each: (not each[1].fits, each[0]))
    pair_cost = 1 / forward_plan.efficiency + 2 / backward_plan.efficiency
    path = table.find("grpo", device.architecture, itemsize, num_columns).path
    if path == "auto":
        path = "fused" if fused.fits and cost <= pair_cost else "pair"
    if path == "fused":
        return fused
    return LossPlan(
        "pair", fused.launch, forward_plan.programs, forward_plan.resident,
        min(forward_plan.balance, backward_plan.balance), fused.rows_in_flight, fused.fits, forward_plan, backward_plan,
        launches=forward_plan.launches + 1 + backward_plan.launches, memsets=forward_plan.memsets,
    )  # fmt: skip


def cdiv(number: int, divisor: int) -> int:
    """`triton.cdiv`, which a tracer of constants wraps: a hundred times the work."""
    return -(-number // divisor)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
