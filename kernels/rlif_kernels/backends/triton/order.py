"""What the order of a row's logits says, after the read: the columns of the k largest.

Each lane of the read has left its largest z. The k-th largest of these is a bar that k columns at least reach, so that
the k largest columns do, and lanes below it have none of them. The columns of the others, about k of 512 lanes, are
looked at once more, in the cache, lane after lane. What reaches the bar is put in order by the logit as it was given,
and by its column where two are equal, which make one integer that no other column has. So no bit depends on how the row
was divided.

A softcap keeps the order but for its rounding, which the bar is lowered by.
"""

import triton
import triton.language as tl

from rlif_kernels.backends.triton.blocks import INFINITY, cap
from rlif_kernels.backends.triton.lanes import LOWEST
from rlif_kernels.stats import NO_COLUMN

MISSING = tl.constexpr(NO_COLUMN)
LOWEST_KEY = tl.constexpr(-(2**63))
HIGHEST_KEY = tl.constexpr(2**63 - 1)
LAST_COLUMN = tl.constexpr(2**31 - 1)
# Of the softcap and of the product with it, with a margin: relative to z.
ROUNDING = tl.constexpr(1e-5)


@triton.jit
def _bar(l_m, TOP: tl.constexpr):
    """The TOP-th largest of the lanes' maxima, or -inf where fewer lanes have seen a number."""
    bar = tl.full((), INFINITY, tl.float32)
    count = tl.full((), 0, tl.int32)
    while (count < TOP) & (bar > LOWEST):
        bar = tl.max(tl.where(l_m < bar, l_m, LOWEST), axis=0)
        count = tl.sum((l_m >= bar).to(tl.int32), axis=0)
    return tl.where(bar > LOWEST, bar, -INFINITY)


@triton.jit
def _key(x, o):
    """An integer that grows with the logit, and of equal ones with the way to the row's end."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)  # -0 has other bits than 0
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) | (LAST_COLUMN.value - o).to(tl.int64)


@triton.jit
def largest_keys(
    p_row, l_m, V, scale, softcap, LANES: tl.constexpr, K: tl.constexpr, SOFTCAP: tl.constexpr, TOP: tl.constexpr,
    SLOTS: tl.constexpr,
):  # fmt: skip
    """The keys of the TOP largest columns, [SLOTS] in any order; LOWEST_KEY and a few more where there is none."""
    SOME: tl.constexpr = LANES // 4  # one column to a thread
    bar = _bar(l_m, TOP)
    if SOFTCAP:
        bar -= tl.abs(bar) * ROUNDING
    o_slot = tl.arange(0, SLOTS)
    # A new key takes the place of the least: each empty slot has another one to begin with.
    b_kept = tl.where(o_slot < TOP, o_slot.to(tl.int64) + LOWEST_KEY, HIGHEST_KEY)
    least = tl.min(b_kept, axis=0)
    o_some = tl.arange(0, SOME)
    # K columns next to each other in each of SOME / K tiles.
    o_column = o_some // K * (LANES * K) + o_some % K
    # One lane after the other, the first first: of equal logits it has the first, which none after it displaces.
    o_lane = tl.arange(0, LANES)
    l_waiting = tl.where((l_m >= bar) & (o_lane * K < V), o_lane, LANES)
    lane = tl.min(l_waiting, axis=0)
    while lane < LANES:
        for start in range(0, V, SOME * LANES):
            o = start + lane * K + o_column
            x = tl.load(p_row + o, mask=o < V, other=-INFINITY).to(tl.float32)
            z = x
            if SOFTCAP:
                z = cap(x, softcap, SOFTCAP)
            b_key = tl.where((x > -INFINITY) & (z * scale >= bar), _key(x, o), LOWEST_KEY)
            best = tl.max(b_key, axis=0)
            while best > least:
                b_kept = tl.where(b_kept == least, best, b_kept)
                least = tl.min(b_kept, axis=0)
                b_key = tl.where(b_key < best, b_key, LOWEST_KEY)
                best = tl.max(b_key, axis=0)
        l_waiting = tl.where(l_waiting == lane, LANES, l_waiting)
        lane = tl.min(l_waiting, axis=0)
    return tl.where(o_slot < TOP, b_kept, LOWEST_KEY)


@triton.jit
def store_order(
    p_row, l_m, log_s, argmax_ptr, top_ids_ptr, i_row, V, scale, softcap, LANES: tl.constexpr, K: tl.constexpr,
    SOFTCAP: tl.constexpr, TOP: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Store the columns of the largest logits of a row, the largest first."""
    b_kept = largest_keys(p_row, l_m, V, scale, softcap, LANES, K, SOFTCAP, TOP, SLOTS)
    for i in range(0, TOP):
        best = tl.max(b_kept, axis=0)
        found = (best > LOWEST_KEY + SLOTS) & (log_s == log_s)  # NaN where the row is no distribution
        column = tl.where(found, LAST_COLUMN.value - (best & 0xFFFFFFFF), MISSING)
        if top_ids_ptr is not None:
            tl.store(top_ids_ptr + i_row * TOP + i, column)
        if argmax_ptr is not None:
            if i == 0:
                tl.store(argmax_ptr + i_row, column)
        b_kept = tl.where(b_kept == best, LOWEST_KEY, b_kept)


@triton.jit
def store_rank(target_rank_ptr, l_r, log_s, i_row):
    """Store how many logits of a row are larger than the target's, from the counts of its lanes."""
    rank = tl.sum(l_r.to(tl.int32), axis=0)
    tl.store(target_rank_ptr + i_row, tl.where(log_s == log_s, rank, MISSING))
