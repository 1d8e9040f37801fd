"""The first half of the forward: what each lane keeps of its columns while a row is read.

A row's columns are dealt to LANES lanes, K consecutive columns at a time (16 bytes). Each lane keeps an online softmax
state of its own, so that the main loop has no barrier and no shuffle, and reduces its K columns before it touches that
state, so that the rescaling is paid once per K columns:

    m   the largest z so far                      t    sum (z - m)
    s   sum exp2(z - m)                           q    sum exp2(z - m)^2
    w   sum exp2(z - m) (z - m)                   x1   the largest x, x2 the second largest
    r   logits larger than the target's           a    the largest |logit|, with a softcap

with z = softcap(x) / temperature in units of log 2: one exp2 per element and no multiplication before it. Every sum is
relative to a maximum of its own columns, never to 0, so that a constant added to all logits changes no digit beyond the
rounding of the logits themselves.

The order of every addition is fixed by column numbers alone: tiles make a chunk, and chunks make the row. What a lane
adds up does not depend on other lanes, nor a chunk on other chunks. So programs can share a row, each with some lanes
of one chunk (a slice), and it has the same bits as when one program reads it all.
"""

from collections.abc import Iterable

import triton
import triton.language as tl

from rlif_kernels.backends.triton.blocks import (
    DESCRIPTOR,
    INFINITY,
    SHORT,
    add_products,
    cap,
    cap_limit,
    describe_row,
    load_block_pairs,
    load_described_pairs,
    load_pairs,
    pairs_inside,
    short_cap,
    sum_pairs,
)
from rlif_kernels.functional import sums_of

# The maximum of no columns: finite, because -inf - -inf is NaN; so low that exp2(LOWEST - m) is 0.
LOWEST = tl.constexpr(-1e38)
# The parts of a state, LANES numbers each. Which of them a kernel needs is its argument SUMS, a bit for each: m and s
# always, others by the table of `functional`.
PARTS = ("m", "s", "w", "t", "q", "x1", "x2", "a", "v", "r")
NUM_PARTS = tl.constexpr(len(PARTS))
SUM_W, SUM_T, SUM_Q, SUM_TOP, SUM_V, SUM_R = (
    tl.constexpr(1 << PARTS.index(name)) for name in ("w", "t", "q", "x2", "v", "r")
)


def needed_parts(outputs: Iterable[str], softcap: int) -> int:
    """The SUMS of a kernel that computes these fields; `softcap` is a form of tanh, or 0."""
    names = {"m", "s"} | sums_of(outputs) | ({"a"} if softcap == SHORT.value else set())
    return sum(1 << PARTS.index(name) for name in names)


@triton.jit
def empty_state(LANES: tl.constexpr):
    zero = tl.zeros((LANES,), tl.float32)
    lowest = tl.full((LANES,), LOWEST, tl.float32)
    nothing = tl.full((LANES,), -INFINITY, tl.float32)
    return lowest, zero, zero, zero, zero, nothing, nothing, zero, zero, zero  # PARTS


@triton.jit
def lane_columns(first, last, first_lane, LANES: tl.constexpr, SLICE: tl.constexpr, K: tl.constexpr):
    """How many of the columns [first, last), which begin with a tile, each lane of a slice has: [SLICE] float32."""
    BLOCK: tl.constexpr = LANES * K
    rest = (last - first) % BLOCK - (first_lane + tl.arange(0, SLICE)) * K
    return ((last - first) // BLOCK * K + tl.minimum(tl.maximum(rest, 0), K)).to(tl.float32)


@triton.jit
def _top_two(even, odd, LANES: tl.constexpr, PAIRS: tl.constexpr):
    """The two largest of each lane's 2 * PAIRS columns."""
    high, low = tl.maximum(even, odd), tl.minimum(even, odd)
    for i in tl.static_range(0, 3):
        if PAIRS >> i > 1:
            high_a, high_b = tl.split(tl.reshape(high, (LANES, PAIRS >> (i + 1), 2)))
            low_a, low_b = tl.split(tl.reshape(low, (LANES, PAIRS >> (i + 1), 2)))
            high, low = merge_top_two(high_a, low_a, high_b, low_b)
    return tl.reshape(high, (LANES,)), tl.reshape(low, (LANES,))


@triton.jit
def merge_top_two(high_a, low_a, high_b, low_b):
    return tl.maximum(high_a, high_b), tl.maximum(tl.minimum(high_a, high_b), tl.maximum(low_a, low_b))


@triton.jit
def _absorb(
    state, even, odd, n, scale, softcap, above, m_even, m_odd, LANES: tl.constexpr, PAIRS: tl.constexpr,
    MASKED: tl.constexpr, SOFTCAP: tl.constexpr, GUARDED: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Take one tile, [LANES, PAIRS] even and odd columns, into the state of lanes that have seen n columns each: the
    body of the main loop."""
    l_m, l_s, l_w, l_t, l_q, l_x1, l_x2, l_a, l_v, l_r = state
    if SUM_R & SUMS:  # of the logits as they are given; those beyond the row are -inf
        l_r += sum_pairs((even > above).to(tl.float32) + (odd > above).to(tl.float32), LANES, PAIRS)
    if SOFTCAP:
        if SOFTCAP == SHORT:
            magnitude = tl.maximum(tl.abs(even), tl.abs(odd))
            if MASKED:
                magnitude = tl.maximum(tl.where(m_even, tl.abs(even), 0.0), tl.where(m_odd, tl.abs(odd), 0.0))
            l_a = tl.maximum(l_a, tl.max(magnitude, axis=1))
        if GUARDED:
            even, odd = cap(even, softcap, SOFTCAP), cap(odd, softcap, SOFTCAP)
        else:
            even, odd = short_cap(even, softcap, SOFTCAP), short_cap(odd, softcap, SOFTCAP)
            if MASKED:
                even, odd = tl.where(m_even, even, -INFINITY), tl.where(m_odd, odd, -INFINITY)
    tile_max = tl.max(tl.maximum(even, odd), axis=1) * scale
    l_new = tl.maximum(l_m, tile_max)
    d0, d1 = tl.fma(even, scale, -l_new[:, None]), tl.fma(odd, scale, -l_new[:, None])
    e0, e1 = tl.exp2(d0), tl.exp2(d1)
    if MASKED:  # columns beyond the row came as -inf: their exponential is 0, their difference must not count
        d0, d1 = tl.where(m_even, d0, 0.0), tl.where(m_odd, d1, 0.0)
    shift = l_m - l_new
    a = tl.exp2(shift)
    if SUM_W & SUMS:
        moved = tl.fma(shift, l_s, l_w)
        if SUM_V & SUMS:
            l_v = a * tl.fma(shift, l_w + moved, l_v)
            l_v = add_products(l_v, e0 * d0, d0, LANES, PAIRS)
            l_v = add_products(l_v, e1 * d1, d1, LANES, PAIRS)
        l_w = tl.fma(a, moved, sum_pairs(tl.fma(e0, d0, e1 * d1), LANES, PAIRS))
    l_s = tl.fma(a, l_s, sum_pairs(e0 + e1, LANES, PAIRS))
    if SUM_T & SUMS:
        l_t = tl.fma(shift, n, l_t) + sum_pairs(d0 + d1, LANES, PAIRS)
    if SUM_Q & SUMS:
        l_q = tl.fma(a * a, l_q, sum_pairs(tl.fma(e0, e0, e1 * e1), LANES, PAIRS))
    if SUM_TOP & SUMS:
        tile_x1, tile_x2 = _top_two(even, odd, LANES, PAIRS)
        l_x1, l_x2 = merge_top_two(l_x1, l_x2, tile_x1, tile_x2)
    return l_new, l_s, l_w, l_t, l_q, l_x1, l_x2, l_a, l_v, l_r


@triton.jit
def _tiles_state(
    p_row, first, last, first_lane, V, scale, softcap, above,
    LANES: tl.constexpr, SLICE: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, SOFTCAP: tl.constexpr,
    GUARDED: tl.constexpr, SUMS: tl.constexpr, UNROLL: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr,
):  # fmt: skip
    """The state of the columns [first, last): full tiles without masks, then at most one masked tile."""
    BLOCK: tl.constexpr = LANES * K
    DESCRIBED: tl.constexpr = LOAD == DESCRIPTOR and WIDE
    HINT: tl.constexpr = "" if LOAD == DESCRIPTOR else LOAD
    if DESCRIBED:
        row = describe_row(p_row, V, SLICE, K)
    state = empty_state(SLICE)
    n = tl.full((), 0.0, tl.float32)
    whole = last // BLOCK * BLOCK
    for start in tl.range(first, whole, BLOCK, num_stages=STAGES, loop_unroll_factor=UNROLL):
        if DESCRIBED:
            even, odd = load_described_pairs(p_row, row, start + first_lane * K, SLICE, K)
        else:
            even, odd = load_pairs(p_row, start + first_lane * K, V, SLICE, K, WIDE, False, HINT)
        state = _absorb(
            state, even, odd, n, scale, softcap, above, None, None, SLICE, K // 2, False, SOFTCAP, GUARDED, SUMS
        )  # fmt: skip
        n += K
    if whole < last:
        if DESCRIBED:  # bfloat16 too in the layout that a block has, so that no lane changes its thread
            p_rest = tl.multiple_of(p_row + whole + first_lane * K, 16)
            even, odd = load_block_pairs(p_rest, whole + first_lane * K, V, SLICE, K, True, HINT)
        else:
            even, odd = load_pairs(p_row, whole + first_lane * K, V, SLICE, K, WIDE, True, HINT)
        m_even, m_odd = pairs_inside(whole + first_lane * K, V, SLICE, K)
        state = _absorb(
            state, even, odd, n, scale, softcap, above, m_even, m_odd, SLICE, K // 2, True, SOFTCAP, GUARDED, SUMS
        )  # fmt: skip
    return state


@triton.jit
def chunk_state(
    p_row, i_chunk, first_lane, V, scale, softcap, above,
    LANES: tl.constexpr, SLICE: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr,
    SOFTCAP: tl.constexpr, SUMS: tl.constexpr, UNROLL: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr,
):  # fmt: skip
    """The state of SLICE lanes of chunk `i_chunk`, from the logits.

    With a softcap the loop has but the short form of tanh. A chunk with a logit that it is not made for is read again:
    then what the short form serves gets the very same bits as before, so that it does not matter who shares the chunk.
    """
    first = i_chunk * (TILES * LANES * K)
    last = tl.minimum(first + TILES * LANES * K, V)
    state = _tiles_state(
        p_row, first, last, first_lane, V, scale, softcap, above, LANES, SLICE, K, WIDE, SOFTCAP, SOFTCAP != SHORT,
        SUMS, UNROLL, STAGES, LOAD,
    )  # fmt: skip
    if SOFTCAP == SHORT:
        if tl.max(state[7], axis=0) >= cap_limit(softcap):
            state = _tiles_state(
                p_row, first, last, first_lane, V, scale, softcap, above, LANES, SLICE, K, WIDE, SOFTCAP, True, SUMS,
                1, None, LOAD,
            )  # fmt: skip
    return state


@triton.jit
def _merge(x, y, n_x, n_y, SUMS: tl.constexpr):
    """The state of the n_x columns of `x` followed by the n_y columns of `y`."""
    xm, xs, xw, xt, xq, x1, x2, xa, xv, xr = x
    ym, ys, yw, yt, yq, y1, y2, ya, yv, yr = y
    m = tl.maximum(xm, ym)
    dx, dy = xm - m, ym - m
    ax, ay = tl.exp2(dx), tl.exp2(dy)
    if SUM_W & SUMS:
        moved_x, moved_y = tl.fma(dx, xs, xw), tl.fma(dy, ys, yw)
        if SUM_V & SUMS:
            xv = tl.fma(ax, tl.fma(dx, xw + moved_x, xv), ay * tl.fma(dy, yw + moved_y, yv))
        xw = tl.fma(ax, moved_x, ay * moved_y)
    xs = tl.fma(ax, xs, ay * ys)
    if SUM_T & SUMS:
        xt = tl.fma(dx, n_x, xt) + tl.fma(dy, n_y, yt)
    if SUM_Q & SUMS:
        xq = tl.fma(ax * ax, xq, ay * ay * yq)
    if SUM_TOP & SUMS:
        x1, x2 = merge_top_two(x1, x2, y1, y2)
    if SUM_R & SUMS:
        xr += yr
    return m, xs, xw, xt, xq, x1, x2, tl.maximum(xa, ya), xv, xr


@triton.jit
def row_state(
    p_row, p_parts, num_chunks, V, scale, softcap, above,
    LANES: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr, SOFTCAP: tl.constexpr,
    SUMS: tl.constexpr, UNROLL: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr,
):  # fmt: skip
    """The state of a whole row: of its chunks in order, from the logits, or from what other programs stored of them."""
    CHUNK: tl.constexpr = TILES * LANES * K
    state = empty_state(LANES)
    for i_chunk in range(0, num_chunks):
        if p_parts is None:
            chunk = chunk_state(
                p_row, i_chunk, 0, V, scale, softcap, above, LANES, LANES, K, TILES, WIDE, SOFTCAP, SUMS, UNROLL,
                STAGES, LOAD,
            )  # fmt: skip
        else:
            p = p_parts + i_chunk * (NUM_PARTS * LANES) + tl.arange(0, LANES)
            chunk = (
                _load_part(p, 0, SUMS, LANES), _load_part(p, 1, SUMS, LANES), _load_part(p, 2, SUMS, LANES),
                _load_part(p, 3, SUMS, LANES), _load_part(p, 4, SUMS, LANES), _load_part(p, 5, SUMS, LANES),
                _load_part(p, 6, SUMS, LANES), _load_part(p, 7, SUMS, LANES), _load_part(p, 8, SUMS, LANES),
                _load_part(p, 9, SUMS, LANES),
            )  # fmt: skip
        n_y = lane_columns(i_chunk * CHUNK, tl.minimum((i_chunk + 1) * CHUNK, V), 0, LANES, LANES, K)
        state = _merge(state, chunk, tl.cast(i_chunk * (TILES * K), tl.float32), n_y, SUMS)
    return state


@triton.jit
def store_part(
    p_row, p_parts, i_chunk, first_lane, V, scale, softcap, above,
    LANES: tl.constexpr, SLICE: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr,
    SOFTCAP: tl.constexpr, SUMS: tl.constexpr, UNROLL: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr,
):  # fmt: skip
    """Store the state of a slice of a chunk, for the program that will have the whole row's."""
    state = chunk_state(
        p_row, i_chunk, first_lane, V, scale, softcap, above, LANES, SLICE, K, TILES, WIDE, SOFTCAP, SUMS, UNROLL,
        STAGES, LOAD,
    )  # fmt: skip
    p = p_parts + i_chunk * (NUM_PARTS * LANES) + first_lane + tl.arange(0, SLICE)
    for i in tl.static_range(NUM_PARTS):
        if SUMS >> i & 1:
            tl.store(p + i * LANES, state[i])


@triton.jit
def _load_part(p, i: tl.constexpr, SUMS: tl.constexpr, LANES: tl.constexpr):
    if SUMS >> i & 1:
        # Past the multiprocessor's own cache, which does not hear of what others store.
        return tl.load(p + i * LANES, cache_modifier=".cg")
    return tl.zeros((LANES,), tl.float32)
