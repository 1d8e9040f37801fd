"""The first half of the forward: what each lane keeps of its columns while a row is read.

A row's columns are dealt to LANES lanes, K consecutive columns at a time (16 bytes). Each lane keeps an online softmax
state of its own, so that the main loop has no barrier and no shuffle, and reduces its K columns before it touches that
state, so that the rescaling is paid once per K columns:

    m   the largest z so far                      t    sum (z - m)
    s   sum exp2(z - m)                           q    sum exp2(z - m)^2
    w   sum exp2(z - m) (z - m)                   x1   the largest x, x2 the second largest
                                                  a    the largest |logit|, with a softcap

with z = softcap(x) / temperature in units of log 2: one exp2 per element and no multiplication before it. Every sum is
relative to a maximum of its own columns, never to 0, so that a constant added to all logits changes no digit beyond the
rounding of the logits themselves.

The order of every addition is fixed by column numbers alone: tiles make a chunk, and chunks make the row. What a lane
adds up does not depend on other lanes, nor a chunk on other chunks. So programs can share a row, each with some lanes
of one chunk (a slice), and it has the same bits as when one program reads it all.
"""

import triton
import triton.language as tl

from rlif_kernels.backends.triton.blocks import (
    DESCRIPTOR,
    INFINITY,
    SHORT,
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

# The maximum of no columns: finite, because -inf - -inf is NaN; so low that exp2(LOWEST - m) is 0.
LOWEST = tl.constexpr(-1e38)
# Arrays of LANES numbers in the state: those above.
NUM_PARTS = tl.constexpr(8)


@triton.jit
def empty_state(LANES: tl.constexpr):
    zero = tl.zeros((LANES,), tl.float32)
    lowest = tl.full((LANES,), LOWEST, tl.float32)
    nothing = tl.full((LANES,), -INFINITY, tl.float32)
    return lowest, zero, zero, zero, zero, nothing, nothing, zero  # m, s, w, t, q, x1, x2, a


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
    state, even, odd, n, scale, softcap, m_even, m_odd, LANES: tl.constexpr, PAIRS: tl.constexpr, MASKED: tl.constexpr,
    SOFTCAP: tl.constexpr, GUARDED: tl.constexpr, W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """Take one tile, [LANES, PAIRS] even and odd columns, into the state of lanes that have seen n columns each: the
    body of the main loop."""
    l_m, l_s, l_w, l_t, l_q, l_x1, l_x2, l_a = state
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
    if W:
        l_w = tl.fma(a, tl.fma(shift, l_s, l_w), sum_pairs(tl.fma(e0, d0, e1 * d1), LANES, PAIRS))
    l_s = tl.fma(a, l_s, sum_pairs(e0 + e1, LANES, PAIRS))
    if T:
        l_t = tl.fma(shift, n, l_t) + sum_pairs(d0 + d1, LANES, PAIRS)
    if Q:
        l_q = tl.fma(a * a, l_q, sum_pairs(tl.fma(e0, e0, e1 * e1), LANES, PAIRS))
    if TOP:
        tile_x1, tile_x2 = _top_two(even, odd, LANES, PAIRS)
        l_x1, l_x2 = merge_top_two(l_x1, l_x2, tile_x1, tile_x2)
    return l_new, l_s, l_w, l_t, l_q, l_x1, l_x2, l_a


@triton.jit
def _tiles_state(
    p_row, first, last, first_lane, V, scale, softcap,
    LANES: tl.constexpr, SLICE: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, SOFTCAP: tl.constexpr,
    GUARDED: tl.constexpr, W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr,
    UNROLL: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr,
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
            state, even, odd, n, scale, softcap, None, None, SLICE, K // 2, False, SOFTCAP, GUARDED, W, T, Q, TOP
        )
        n += K
    if whole < last:
        if DESCRIBED:  # bfloat16 too in the layout that a block has, so that no lane changes its thread
            p_rest = tl.multiple_of(p_row + whole + first_lane * K, 16)
            even, odd = load_block_pairs(p_rest, whole + first_lane * K, V, SLICE, K, True, HINT)
        else:
            even, odd = load_pairs(p_row, whole + first_lane * K, V, SLICE, K, WIDE, True, HINT)
        m_even, m_odd = pairs_inside(whole + first_lane * K, V, SLICE, K)
        state = _absorb(
            state, even, odd, n, scale, softcap, m_even, m_odd, SLICE, K // 2, True, SOFTCAP, GUARDED, W, T, Q, TOP
        )
    return state


@triton.jit
def chunk_state(
    p_row, i_chunk, first_lane, V, scale, softcap,
    LANES: tl.constexpr, SLICE: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr,
    SOFTCAP: tl.constexpr, W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr,
    UNROLL: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr,
):  # fmt: skip
    """The state of SLICE lanes of chunk `i_chunk`, from the logits.

    With a softcap the loop has but the short form of tanh. A chunk with a logit that it is not made for is read again:
    then what the short form serves gets the very same bits as before, so that it does not matter who shares the chunk.
    """
    first = i_chunk * (TILES * LANES * K)
    last = tl.minimum(first + TILES * LANES * K, V)
    m, s, w, t, q, x1, x2, a = _tiles_state(
        p_row, first, last, first_lane, V, scale, softcap, LANES, SLICE, K, WIDE, SOFTCAP, SOFTCAP != SHORT, W, T, Q,
        TOP, UNROLL, STAGES, LOAD,
    )  # fmt: skip
    if SOFTCAP == SHORT:
        if tl.max(a, axis=0) >= cap_limit(softcap):
            m, s, w, t, q, x1, x2, a = _tiles_state(
                p_row, first, last, first_lane, V, scale, softcap, LANES, SLICE, K, WIDE, SOFTCAP, True, W, T, Q, TOP,
                1, None, LOAD,
            )  # fmt: skip
    return m, s, w, t, q, x1, x2, a


@triton.jit
def _merge(x, y, n_x, n_y, W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr):
    """The state of the n_x columns of `x` followed by the n_y columns of `y`."""
    xm, xs, xw, xt, xq, x1, x2, xa = x
    ym, ys, yw, yt, yq, y1, y2, ya = y
    m = tl.maximum(xm, ym)
    dx, dy = xm - m, ym - m
    ax, ay = tl.exp2(dx), tl.exp2(dy)
    if W:
        xw = tl.fma(ax, tl.fma(dx, xs, xw), ay * tl.fma(dy, ys, yw))
    xs = tl.fma(ax, xs, ay * ys)
    if T:
        xt = tl.fma(dx, n_x, xt) + tl.fma(dy, n_y, yt)
    if Q:
        xq = tl.fma(ax * ax, xq, ay * ay * yq)
    if TOP:
        x1, x2 = merge_top_two(x1, x2, y1, y2)
    return m, xs, xw, xt, xq, x1, x2, tl.maximum(xa, ya)


@triton.jit
def row_state(
    p_row, p_parts, num_chunks, V, scale, softcap,
    LANES: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr, SOFTCAP: tl.constexpr,
    W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr,
    UNROLL: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr,
):  # fmt: skip
    """The state of a whole row: of its chunks in order, from the logits, or from what other programs stored of them."""
    CHUNK: tl.constexpr = TILES * LANES * K
    # Which parts of the state (m, s, w, t, q, x1, x2, a) the requested fields need: a bit each.
    USED: tl.constexpr = 0b11 | W << 2 | T << 3 | Q << 4 | TOP << 5 | TOP << 6 | (SOFTCAP == SHORT.value) << 7
    state = empty_state(LANES)
    for i_chunk in range(0, num_chunks):
        if p_parts is None:
            chunk = chunk_state(
                p_row, i_chunk, 0, V, scale, softcap, LANES, LANES, K, TILES, WIDE, SOFTCAP, W, T, Q, TOP, UNROLL,
                STAGES, LOAD,
            )  # fmt: skip
        else:
            p = p_parts + i_chunk * (NUM_PARTS * LANES) + tl.arange(0, LANES)
            chunk = (
                _load_used(p, 0, USED, LANES), _load_used(p, 1, USED, LANES), _load_used(p, 2, USED, LANES),
                _load_used(p, 3, USED, LANES), _load_used(p, 4, USED, LANES), _load_used(p, 5, USED, LANES),
                _load_used(p, 6, USED, LANES), _load_used(p, 7, USED, LANES),
            )  # fmt: skip
        n_y = lane_columns(i_chunk * CHUNK, tl.minimum((i_chunk + 1) * CHUNK, V), 0, LANES, LANES, K)
        state = _merge(state, chunk, tl.cast(i_chunk * (TILES * K), tl.float32), n_y, W, T, Q, TOP)
    return state


@triton.jit
def store_part(
    p_row, p_parts, i_chunk, first_lane, V, scale, softcap,
    LANES: tl.constexpr, SLICE: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr,
    SOFTCAP: tl.constexpr, W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr,
    UNROLL: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr,
):  # fmt: skip
    """Store the state of a slice of a chunk, for the program that will have the whole row's."""
    USED: tl.constexpr = 0b11 | W << 2 | T << 3 | Q << 4 | TOP << 5 | TOP << 6 | (SOFTCAP == SHORT.value) << 7
    state = chunk_state(
        p_row, i_chunk, first_lane, V, scale, softcap, LANES, SLICE, K, TILES, WIDE, SOFTCAP, W, T, Q, TOP, UNROLL,
        STAGES, LOAD,
    )  # fmt: skip
    p = p_parts + i_chunk * (NUM_PARTS * LANES) + first_lane + tl.arange(0, SLICE)
    for i in tl.static_range(NUM_PARTS):
        if USED >> i & 1:
            tl.store(p + i * LANES, state[i])


@triton.jit
def _load_used(p, i: tl.constexpr, USED: tl.constexpr, LANES: tl.constexpr):
    if USED >> i & 1:
        # Past the multiprocessor's own cache, which does not hear of what others store.
        return tl.load(p + i * LANES, cache_modifier=".cg")
    return tl.zeros((LANES,), tl.float32)
