"""The forward kernel of `token_stats`: every statistic of a row from one read of its logits.

A row's columns are dealt to LANES lanes, K consecutive columns at a time (16 bytes). Each lane keeps an online softmax
state of its own, so that the main loop has no barrier and no shuffle, and reduces its K columns before it touches that
state, so that the rescaling is paid once per K columns:

    m   the largest z so far                      n    columns so far
    s   sum exp2(z - m)                           t    sum (z - m)
    w   sum exp2(z - m) (z - m)                   q    sum exp2(z - m)^2
    x1  the largest x, x2 the second largest

with z = softcap(x) / temperature in units of log 2: one exp2 per element and no multiplication before it. Every sum is
relative to a maximum of its own columns, never to 0, so that a constant added to all logits changes no digit beyond the
rounding of the logits themselves.

The order of every addition is fixed by column numbers alone: tiles make a chunk, chunks make the row, lanes are summed
by a balanced tree. So a row has the same bits alone, in any batch, at any address, and split over programs. Contraction
of floating-point operations is switched off for that reason; each fused multiply-add is written out.

The main loop has no guards. A row with -inf, NaN or values that overflow ends it with sums that are not finite, or with
s = 0; only such a row is read again, by `_exact_row`, and its n is stored negative to tell the backward.
"""

import triton
import triton.language as tl

from rlif_kernels.backends.triton.blocks import (
    INFINITY,
    LN2,
    LOG2E,
    SKIPPED,
    STATE_COMPLEMENT,
    STATE_ENTROPY,
    STATE_LOG_S,
    STATE_M,
    STATE_N,
    STATE_ROWS,
    STATE_SUM_SQ_PROBS,
    cap,
    load_pairs,
    pairs_inside,
    row_pointer,
    row_scale,
    sum_lanes,
    sum_pairs,
)

# The maximum of no columns: finite, because -inf - -inf is NaN; so low that exp2(LOWEST - m) is 0.
LOWEST = tl.constexpr(-1e38)
LOWEST_FLOAT32 = tl.constexpr(-3.4028234663852886e38)
# Where 1 - p_y as a difference has lost four of its 24 bits, it is added up from the others instead.
CANCELS = tl.constexpr(0.0625)


# ---------------------------------------------------------------- forward: one chunk of one row, lane by lane


@triton.jit
def _empty_state(LANES: tl.constexpr):
    zero = tl.zeros((LANES,), tl.float32)
    lowest = tl.full((LANES,), LOWEST, tl.float32)
    nothing = tl.full((LANES,), -INFINITY, tl.float32)
    return lowest, zero, zero, zero, zero, nothing, nothing, zero  # m, s, w, t, q, x1, x2, n


@triton.jit
def _top_two(even, odd, LANES: tl.constexpr, PAIRS: tl.constexpr):
    """The two largest of each lane's 2 * PAIRS columns."""
    high, low = tl.maximum(even, odd), tl.minimum(even, odd)
    for i in tl.static_range(0, 3):
        if PAIRS >> i > 1:
            high_a, high_b = tl.split(tl.reshape(high, (LANES, PAIRS >> (i + 1), 2)))
            low_a, low_b = tl.split(tl.reshape(low, (LANES, PAIRS >> (i + 1), 2)))
            high, low = _merge_top_two(high_a, low_a, high_b, low_b)
    return tl.reshape(high, (LANES,)), tl.reshape(low, (LANES,))


@triton.jit
def _merge_top_two(high_a, low_a, high_b, low_b):
    return tl.maximum(high_a, high_b), tl.maximum(tl.minimum(high_a, high_b), tl.maximum(low_a, low_b))


@triton.jit
def _absorb(
    state, even, odd, count, scale, m_even, m_odd, LANES: tl.constexpr, PAIRS: tl.constexpr, MASKED: tl.constexpr,
    W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """Take one tile, [LANES, PAIRS] even and odd columns, into the lanes' state: the body of the main loop."""
    l_m, l_s, l_w, l_t, l_q, l_x1, l_x2, l_n = state
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
        l_t = tl.fma(shift, l_n, l_t) + sum_pairs(d0 + d1, LANES, PAIRS)
    if Q:
        l_q = tl.fma(a * a, l_q, sum_pairs(tl.fma(e0, e0, e1 * e1), LANES, PAIRS))
    if TOP:
        tile_x1, tile_x2 = _top_two(even, odd, LANES, PAIRS)
        l_x1, l_x2 = _merge_top_two(l_x1, l_x2, tile_x1, tile_x2)
    return l_new, l_s, l_w, l_t, l_q, l_x1, l_x2, l_n + count


@triton.jit
def _chunk_state(
    p_row, i_chunk, V, scale, softcap, LANES: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr,
    SOFTCAP: tl.constexpr, W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The lanes' state of chunk `i_chunk` of a row: full tiles without masks, then at most one masked tile."""
    BLOCK: tl.constexpr = LANES * K
    state = _empty_state(LANES)
    first = i_chunk * (TILES * BLOCK)
    last = tl.minimum(first + TILES * BLOCK, V)
    whole = last // BLOCK * BLOCK
    for start in tl.range(first, whole, BLOCK, loop_unroll_factor=UNROLL):
        even, odd = load_pairs(p_row, start, V, LANES, K, WIDE, False)
        if SOFTCAP:
            even, odd = cap(even, softcap), cap(odd, softcap)
        state = _absorb(state, even, odd, K, scale, None, None, LANES, K // 2, False, W, T, Q, TOP)
    if whole < last:
        even, odd = load_pairs(p_row, whole, V, LANES, K, WIDE, True)
        if SOFTCAP:
            even, odd = cap(even, softcap), cap(odd, softcap)
        m_even, m_odd = pairs_inside(whole, V, LANES, K)
        count = tl.minimum(tl.maximum(V - whole - tl.arange(0, LANES) * K, 0), K).to(tl.float32)
        state = _absorb(state, even, odd, count, scale, m_even, m_odd, LANES, K // 2, True, W, T, Q, TOP)
    return state


@triton.jit
def _merge(x, y, W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr):
    """The state of the columns of `x` followed by those of `y`."""
    xm, xs, xw, xt, xq, x1, x2, xn = x
    ym, ys, yw, yt, yq, y1, y2, yn = y
    m = tl.maximum(xm, ym)
    dx, dy = xm - m, ym - m
    ax, ay = tl.exp2(dx), tl.exp2(dy)
    if W:
        xw = tl.fma(ax, tl.fma(dx, xs, xw), ay * tl.fma(dy, ys, yw))
    xs = tl.fma(ax, xs, ay * ys)
    if T:
        xt = tl.fma(dx, xn, xt) + tl.fma(dy, yn, yt)
    if Q:
        xq = tl.fma(ax * ax, xq, ay * ay * yq)
    if TOP:
        x1, x2 = _merge_top_two(x1, x2, y1, y2)
    return m, xs, xw, xt, xq, x1, x2, xn + yn


# ---------------------------------------------------------------- forward: from the lanes to the row's results


@triton.jit
def _row_results(
    state, V, scale, LANES: tl.constexpr, W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr
):
    """m (in units of log 2), log s, log(s/n), w/s, t/n, q/s² and the two largest p of a row, in nats; s."""
    l_m, l_s, l_w, l_t, l_q, l_x1, l_x2, l_n = state
    m = tl.max(l_m, axis=0)
    shift = l_m - m
    a = tl.exp2(shift)
    s = sum_lanes(a * l_s, LANES)
    mean_w, mean_d, mean_q, first, second = 0.0, 0.0, 0.0, 0.0, 0.0
    if W:
        mean_w = sum_lanes(a * tl.fma(shift, l_s, l_w), LANES) / s * LN2
    if T:
        mean_d = sum_lanes(tl.fma(shift, l_n, l_t), LANES) / V * LN2
    if Q:
        mean_q = sum_lanes(a * a * l_q, LANES) / (s * s)
    if TOP:
        x1, x2 = tl.reduce((l_x1, l_x2), 0, _merge_top_two)
        first, second = tl.exp2(tl.fma(x1, scale, -m)) / s, tl.exp2(tl.fma(x2, scale, -m)) / s
    return m, tl.log(s), tl.log(s / V), mean_w, mean_d, mean_q, first, second, s


@triton.jit
def _complement(
    p_row, l_m, l_s, m, s, target, V, scale, softcap, LANES: tl.constexpr, K: tl.constexpr, SOFTCAP: tl.constexpr
):
    """1 - p_y of a target that is nearly certain, as the sum of all others: as a difference it would lose its digits.

    Those of the target's own lane, V / LANES columns, are read again: in the lane's sum its term drowned them. That is
    the one lane whose maximum is m. (Found by its number, it would cost the main loop three hundredths of its
    instructions: then the lanes' numbers are kept throughout.)
    """
    SOME: tl.constexpr = LANES // 4  # one column to a thread
    i_target = target.to(tl.int32)
    o_some = tl.arange(0, SOME)
    # K columns next to each other in each of SOME / K tiles.
    o_column = i_target % (LANES * K) // K * K + o_some // K * (LANES * K) + o_some % K
    b_own = tl.zeros((SOME,), tl.float32)
    for start in range(0, V, SOME * LANES):
        o = start + o_column
        x = tl.load(p_row + o, mask=(o < V) & (o != i_target), other=-INFINITY).to(tl.float32)
        if SOFTCAP:
            x = cap(x, softcap)
        b_own += tl.exp2(tl.fma(x, scale, -m))
    return sum_lanes(tl.where(l_m == m, sum_lanes(b_own, SOME), tl.exp2(l_m - m) * l_s), LANES) / s


@triton.jit
def _exact_row(p_row, target, V, scale, softcap, LANES: tl.constexpr, SOFTCAP: tl.constexpr):
    """`_row_results` of a row that holds -inf, NaN or values near the end of float32's range; m a logit, and also n
    and 1 - p_y.

    The same sums with a guard on everything, in nats. So that the lowest finite float32 does not overflow, the maximum
    is subtracted before anything is multiplied, and t is divided by V as it is added up, by the temperature at the end.
    """
    inv_temperature = scale * LN2
    l_m = tl.full((LANES,), -INFINITY, tl.float32)
    zero = tl.zeros((LANES,), tl.float32)
    l_s, l_others, l_w, l_t, l_q, l_n, l_poison = zero, zero, zero, zero, zero, zero, zero
    l_x2 = l_m
    for start in range(0, V, LANES):
        o = start + tl.arange(0, LANES)
        x = tl.load(p_row + o, mask=o < V, other=-INFINITY).to(tl.float32)
        inside = x != -INFINITY
        l_poison += tl.where(inside, x - x, 0.0)  # NaN for NaN and +inf
        if SOFTCAP:
            x = cap(x, softcap)
        l_new = tl.maximum(l_m, x)
        difference = _difference(x, l_new)
        d = tl.maximum(difference * inv_temperature, LOWEST_FLOAT32)
        e = tl.where(inside, tl.exp2(d * LOG2E), 0.0)
        l_t = tl.fma(_difference(l_m, l_new) / V, l_n, l_t) + difference / V
        shift = tl.maximum(_difference(l_m, l_new) * inv_temperature, LOWEST_FLOAT32)
        a = tl.exp2(shift * LOG2E)
        l_w = tl.fma(a, tl.fma(shift, l_s, l_w), e * d)
        l_s = tl.fma(a, l_s, e)
        l_others = tl.fma(a, l_others, tl.where(o == target, 0.0, e))
        l_q = tl.fma(a * a, l_q, e * e)
        l_x2 = tl.maximum(tl.minimum(l_m, x), l_x2)
        l_n += inside.to(tl.float32)
        l_m = l_new
    poison = sum_lanes(l_poison, LANES)
    m = tl.max(l_m, axis=0) + poison
    shift = tl.maximum(_difference(l_m, m) * inv_temperature, LOWEST_FLOAT32)
    a = tl.exp2(shift * LOG2E)
    n = sum_lanes(l_n, LANES)
    # A row without support has s = 0: its logarithm would be -inf where NaN is due.
    s = sum_lanes(a * l_s, LANES) + poison
    s = tl.where(s > 0, s, float("nan"))
    mean_w = sum_lanes(a * tl.fma(shift, l_s, l_w), LANES) / s
    mean_d = sum_lanes(tl.fma(_difference(l_m, m) / V, l_n, l_t), LANES) * (V / n) * inv_temperature
    mean_q = sum_lanes(a * a * l_q, LANES) / (s * s)
    _, x2 = tl.reduce((l_m, l_x2), 0, _merge_top_two)
    second = tl.where(x2 == -INFINITY, 0.0, tl.exp2((x2 - m) * inv_temperature * LOG2E))
    complement = sum_lanes(a * l_others, LANES) / s
    return m, tl.log(s), tl.log(s / n), mean_w, mean_d, mean_q, 1.0 / s, second / s, n, complement


@triton.jit
def _difference(x, m):
    """x - m, but 0 where x is -inf: such a column, and a lane that has seen no other, counts for nothing."""
    return tl.where(x == -INFINITY, 0.0, x - m)


@triton.jit
def row_values(
    state, p_row, target, V, scale, softcap, LANES: tl.constexpr, K: tl.constexpr, SOFTCAP: tl.constexpr,
    W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """The row's results from its lanes' state, after a second, guarded look at a row that needs it:

    logprob, entropy, self_certainty, logsumexp, sum_sq_probs, first and second p; then what the backward starts from: m
    (in units of log 2, of a guarded row a logit), log s, ±n (negative: guarded), 1 - p_y, the target's logit.
    """
    m, log_s, log_s_n, mean_w, mean_d, mean_q, first, second, s = _row_results(state, V, scale, LANES, W, T, Q, TOP)
    valid = (target >= 0) & (target < V)
    x_y = tl.load(p_row + target, mask=valid, other=float("nan")).to(tl.float32)
    x_capped = x_y
    if SOFTCAP:
        x_capped = cap(x_y, softcap)
    logprob = tl.fma(x_capped, scale, -m) * LN2 - log_s
    complement = 1.0 - tl.exp2(logprob * LOG2E)
    if x_capped * scale == m:
        others = _complement(p_row, state[0], state[1], m, s, target, V, scale, softcap, LANES, K, SOFTCAP)
        # Where it is not nearly certain, other lanes may have the same maximum.
        complement = tl.where(complement < CANCELS, others, complement)
    m_nats = m * LN2
    n = V * 1.0
    # Finite sums subtract to 0; infinities and NaN do not. log s is -inf where nothing but -inf was seen.
    if (mean_w - mean_w) + (mean_d - mean_d) + (mean_q - mean_q) + (log_s - log_s) != 0.0:
        m, log_s, log_s_n, mean_w, mean_d, mean_q, first, second, n, complement = _exact_row(
            p_row, target, V, scale, softcap, LANES, SOFTCAP
        )
        logprob = (x_capped - m) * (scale * LN2) - log_s
        m_nats = m * (scale * LN2)
        n = -tl.maximum(n, 1.0)  # -0 would not look negative
    return (
        logprob, log_s - mean_w, log_s_n - mean_d, m_nats + log_s, mean_q, first, second, m, log_s, n, complement, x_y
    )  # fmt: skip


@triton.jit
def row_state(
    p_row, p_partials, num_chunks, V, scale, softcap, LANES: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr,
    WIDE: tl.constexpr, SOFTCAP: tl.constexpr, W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """The lanes' state of a whole row: of its chunks in order, from the logits, or from partials if there are any."""
    o_lane = tl.arange(0, LANES)
    # Which parts of the state (m, s, w, t, q, x1, x2, n) the requested fields need: a bit each.
    USED: tl.constexpr = 0b11 | W << 2 | T << 3 | Q << 4 | TOP << 5 | TOP << 6 | T << 7
    state = _empty_state(LANES)
    for i_chunk in range(0, num_chunks):
        if p_partials is None:
            chunk = _chunk_state(
                p_row, i_chunk, V, scale, softcap, LANES, K, TILES, WIDE, SOFTCAP, W, T, Q, TOP, UNROLL
            )
        else:
            p = p_partials + i_chunk * (8 * LANES) + o_lane
            chunk = (
                _load_used(p, 0, USED, LANES), _load_used(p, 1, USED, LANES), _load_used(p, 2, USED, LANES),
                _load_used(p, 3, USED, LANES), _load_used(p, 4, USED, LANES), _load_used(p, 5, USED, LANES),
                _load_used(p, 6, USED, LANES), _load_used(p, 7, USED, LANES),
            )  # fmt: skip
        state = _merge(state, chunk, W, T, Q, TOP)
    return state


@triton.jit
def store_chunk_state(
    p_row, p_partials, i_chunk, V, scale, softcap, LANES: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr,
    WIDE: tl.constexpr, SOFTCAP: tl.constexpr, W: tl.constexpr, T: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """One chunk of a row, to partials."""
    USED: tl.constexpr = 0b11 | W << 2 | T << 3 | Q << 4 | TOP << 5 | TOP << 6 | T << 7
    state = _chunk_state(p_row, i_chunk, V, scale, softcap, LANES, K, TILES, WIDE, SOFTCAP, W, T, Q, TOP, 1)
    p = p_partials + i_chunk * (8 * LANES) + tl.arange(0, LANES)
    for i in tl.static_range(8):
        if USED >> i & 1:
            tl.store(p + i * LANES, state[i])


@triton.jit
def _load_used(p, i: tl.constexpr, USED: tl.constexpr, LANES: tl.constexpr):
    if USED >> i & 1:
        return tl.load(p + i * LANES)
    return tl.zeros((LANES,), tl.float32)


@triton.jit
def forward_kernel(
    logits_ptr, offsets_ptr, targets_ptr, temperature_ptr, logprob_ptr, entropy_ptr, self_certainty_ptr, logsumexp_ptr,
    sum_sq_probs_ptr, top_probs_ptr, state_ptr, partials_ptr, stride, N, V, scale, softcap, num_chunks,
    LANES: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr, SOFTCAP: tl.constexpr,
    LOGPROB: tl.constexpr, W: tl.constexpr, T: tl.constexpr, LOGSUMEXP: tl.constexpr, Q: tl.constexpr,
    TOP: tl.constexpr, STAGE: tl.constexpr,
):  # fmt: skip
    """STAGE "row": a program does a whole row. "chunk": one chunk of it, to partials; "fold": a row from partials."""
    if STAGE == "chunk":
        i_row, i_chunk = tl.program_id(0) // num_chunks, tl.program_id(0) % num_chunks
    else:
        i_row, i_chunk = tl.program_id(0), 0
    i_row = i_row.to(tl.int64)
    target = tl.load(targets_ptr + i_row)
    if target != SKIPPED:
        p_row = row_pointer(logits_ptr, offsets_ptr, stride, i_row)
        if temperature_ptr is not None:
            scale = row_scale(temperature_ptr, i_row)
        p_partials = partials_ptr
        if partials_ptr is not None:
            p_partials += i_row * num_chunks * (8 * LANES)
        if STAGE == "chunk":
            store_chunk_state(
                p_row, p_partials, i_chunk, V, scale, softcap, LANES, K, TILES, WIDE, SOFTCAP, W, T, Q, TOP
            )
        else:
            state = row_state(
                p_row, p_partials, num_chunks, V, scale, softcap, LANES, K, TILES, WIDE, SOFTCAP, W, T, Q, TOP, 1
            )
            logprob, entropy, self_certainty, logsumexp, sum_sq_probs, first, second, m, log_s, n, complement, _ = (
                row_values(state, p_row, target, V, scale, softcap, LANES, K, SOFTCAP, W, T, Q, TOP)
            )
            if LOGPROB:
                tl.store(logprob_ptr + i_row, logprob)
            if W:
                tl.store(entropy_ptr + i_row, entropy)
            if T:
                tl.store(self_certainty_ptr + i_row, self_certainty)
            if LOGSUMEXP:
                tl.store(logsumexp_ptr + i_row, logsumexp)
            if Q:
                tl.store(sum_sq_probs_ptr + i_row, sum_sq_probs)
            if TOP:
                tl.store(top_probs_ptr + i_row * 2, first)
                tl.store(top_probs_ptr + i_row * 2 + 1, second)
            tl.store(state_ptr + STATE_M * N + i_row, m)
            tl.store(state_ptr + STATE_LOG_S * N + i_row, log_s)
            tl.store(state_ptr + STATE_N * N + i_row, n)
            tl.store(state_ptr + STATE_ENTROPY * N + i_row, entropy)
            tl.store(state_ptr + STATE_SUM_SQ_PROBS * N + i_row, sum_sq_probs)
            tl.store(state_ptr + STATE_COMPLEMENT * N + i_row, complement)
    elif STAGE != "chunk":  # the results come uninitialised, so that no launch has to clear them
        if LOGPROB:
            tl.store(logprob_ptr + i_row, 0.0)
        if W:
            tl.store(entropy_ptr + i_row, 0.0)
        if T:
            tl.store(self_certainty_ptr + i_row, 0.0)
        if LOGSUMEXP:
            tl.store(logsumexp_ptr + i_row, 0.0)
        if Q:
            tl.store(sum_sq_probs_ptr + i_row, 0.0)
        if TOP:
            tl.store(top_probs_ptr + i_row * 2, 0.0)
            tl.store(top_probs_ptr + i_row * 2 + 1, 0.0)
        for i in tl.static_range(STATE_ROWS):
            tl.store(state_ptr + i * N + i_row, 0.0)
