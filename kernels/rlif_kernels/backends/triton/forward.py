"""The forward kernel of `token_stats`: every statistic of a row from one read of its logits.

`lanes` reads the row; here its lanes are summed, always by the same balanced tree, and become the row's results. So a
row has the same bits alone, in any batch, at any address, and split over programs. Contraction of floating-point
operations is switched off for that reason; each fused multiply-add is written out.

The main loop has no guards. A row with -inf, NaN or values that overflow ends it with sums that are not finite, or with
s = 0; only such a row is read again, by `_exact_row`, and its n is stored negative to tell the backward. Nothing counts
on a maximum with NaN to be NaN: on most GPUs it is the number.
"""

import triton
import triton.language as tl

from rlif_kernels.backends.triton.blocks import (
    INFINITY,
    LN2,
    LOG2E,
    SHORT,
    SKIPPED,
    STATE_COMPLEMENT,
    STATE_ENTROPY,
    STATE_LARGEST,
    STATE_LOG_S,
    STATE_M,
    STATE_N,
    STATE_ROWS,
    STATE_SUM_SQ_PROBS,
    STATE_VARENTROPY,
    cap,
    row_pointer,
    row_scale,
    sum_lanes,
)
from rlif_kernels.backends.triton.lanes import (
    NUM_PARTS,
    SUM_Q,
    SUM_T,
    SUM_TOP,
    SUM_V,
    SUM_W,
    lane_columns,
    merge_top_two,
    row_state,
    store_part,
)
from rlif_kernels.backends.triton.order import store_order, store_rank

LOWEST_FLOAT32 = tl.constexpr(-3.4028234663852886e38)
# Of a maximum that moves so far nothing is left of what was added up before, and its square times that is still finite.
LOWEST_SHIFT = tl.constexpr(-1e15)
# Where 1 - p_y as a difference has lost four of its 24 bits, it is added up from the others instead.
CANCELS = tl.constexpr(0.0625)


@triton.jit
def _row_results(state, V, scale, LANES: tl.constexpr, K: tl.constexpr, SUMS: tl.constexpr):
    """m (in units of log 2), log s, log(s/n), w/s, t/n, q/s², the two largest p and the variance of log p of a row, in
    nats; s."""
    l_m, l_s, l_w, l_t, l_q, l_x1, l_x2, _, l_v, _ = state
    m = tl.max(l_m, axis=0)
    shift = l_m - m
    a = tl.exp2(shift)
    s = sum_lanes(a * l_s, LANES)
    mean_w, mean_d, mean_q, first, second, variance = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if SUM_W & SUMS:
        mean_w = sum_lanes(a * tl.fma(shift, l_s, l_w), LANES) / s * LN2
    if SUM_V & SUMS:
        variance = sum_lanes(_lane_spread(l_s, l_w, l_v, a, shift, mean_w * LOG2E), LANES) / s * (LN2 * LN2)
    if SUM_T & SUMS:
        l_n = lane_columns(0, V, 0, LANES, LANES, K)
        mean_d = sum_lanes(tl.fma(shift, l_n, l_t), LANES) / V * LN2
    if SUM_Q & SUMS:
        mean_q = sum_lanes(a * a * l_q, LANES) / (s * s)
    if SUM_TOP & SUMS:
        x1, x2 = tl.reduce((l_x1, l_x2), 0, merge_top_two)
        first, second = tl.exp2(tl.fma(x1, scale, -m)) / s, tl.exp2(tl.fma(x2, scale, -m)) / s
    return m, tl.log(s), tl.log(s / V), mean_w, mean_d, mean_q, first, second, variance, s


@triton.jit
def _lane_spread(l_s, l_w, l_v, a, shift, mean):
    """What each lane adds to the sum of e (d - mean)²: its own spread about its mean, and that of its mean.

    Of the lane's own moments little cancels: it has few columns, and its own maximum among them.
    """
    l_mean = l_w / l_s
    l_distance = shift + l_mean - mean
    # A lane that has seen nothing, or next to nothing, adds nothing: its distance may be as good as infinite.
    l_spread = tl.fma(l_distance * l_distance, l_s, tl.maximum(tl.fma(-l_mean, l_w, l_v), 0.0))
    return tl.where(a * l_s > 0, a * l_spread, 0.0)


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
            x = cap(x, softcap, SOFTCAP)
        b_own += tl.exp2(tl.fma(x, scale, -m))
    return sum_lanes(tl.where(l_m == m, sum_lanes(b_own, SOME), tl.exp2(l_m - m) * l_s), LANES) / s


@triton.jit
def _exact_row(p_row, target, V, scale, softcap, LANES: tl.constexpr, SOFTCAP: tl.constexpr, SUMS: tl.constexpr):
    """`_row_results` of a row that holds -inf, NaN or values near the end of float32's range; m a logit, and also n
    and 1 - p_y.
    The same sums with a guard on everything, in nats. So that the lowest finite float32 does not overflow, the maximum
    is subtracted before anything is multiplied, and t is divided by V as it is added up, by the temperature at the end.
    """
    inv_temperature = scale * LN2
    l_m = tl.full((LANES,), -INFINITY, tl.float32)
    zero = tl.zeros((LANES,), tl.float32)
    l_s, l_others, l_w, l_v, l_t, l_q, l_n, l_poison = zero, zero, zero, zero, zero, zero, zero, zero
    l_x2 = l_m
    for start in range(0, V, LANES):
        o = start + tl.arange(0, LANES)
        x = tl.load(p_row + o, mask=o < V, other=-INFINITY).to(tl.float32)
        inside = x != -INFINITY
        l_poison += tl.where(inside, x - x, 0.0)  # NaN for NaN and +inf
        if SOFTCAP:
            x = cap(x, softcap, SOFTCAP)
        l_new = tl.maximum(l_m, x)
        difference = _difference(x, l_new)
        d = tl.maximum(difference * inv_temperature, LOWEST_FLOAT32)
        e = tl.where(inside, tl.exp2(d * LOG2E), 0.0)
        l_t = tl.fma(_difference(l_m, l_new) / V, l_n, l_t) + difference / V
        shift = tl.maximum(_difference(l_m, l_new) * inv_temperature, LOWEST_SHIFT)
        a = tl.exp2(shift * LOG2E)
        moved = tl.fma(shift, l_s, l_w)
        if SUM_V & SUMS:
            l_v = tl.fma(a, tl.fma(shift, l_w + moved, l_v), e * d * d)
        l_w = tl.fma(a, moved, e * d)
        l_s = tl.fma(a, l_s, e)
        l_others = tl.fma(a, l_others, tl.where(o == target, 0.0, e))
        l_q = tl.fma(a * a, l_q, e * e)
        l_x2 = tl.maximum(tl.minimum(l_m, x), l_x2)
        l_n += inside.to(tl.float32)
        l_m = l_new
    poison = sum_lanes(l_poison, LANES)
    m = tl.max(l_m, axis=0) + poison
    shift = tl.maximum(_difference(l_m, m) * inv_temperature, LOWEST_SHIFT)
    a = tl.exp2(shift * LOG2E)
    n = sum_lanes(l_n, LANES)
    # A row without support has s = 0: its logarithm would be -inf where NaN is due.
    s = sum_lanes(a * l_s, LANES) + poison
    s = tl.where(s > 0, s, float("nan"))
    mean_w = sum_lanes(a * tl.fma(shift, l_s, l_w), LANES) / s
    variance = 0.0
    if SUM_V & SUMS:
        variance = sum_lanes(_lane_spread(l_s, l_w, l_v, a, shift, mean_w), LANES) / s
    mean_d = sum_lanes(tl.fma(_difference(l_m, m) / V, l_n, l_t), LANES) * (V / n) * inv_temperature
    mean_q = sum_lanes(a * a * l_q, LANES) / (s * s)
    _, x2 = tl.reduce((l_m, l_x2), 0, merge_top_two)
    second = tl.where(x2 == -INFINITY, 0.0, tl.exp2((x2 - m) * inv_temperature * LOG2E))
    complement = sum_lanes(a * l_others, LANES) / s
    return m, tl.log(s), tl.log(s / n), mean_w, mean_d, mean_q, 1.0 / s, second / s, variance, n, complement


@triton.jit
def _difference(x, m):
    """x - m, but 0 where x is -inf: such a column, and a lane that has seen no other, counts for nothing."""
    return tl.where(x == -INFINITY, 0.0, x - m)


@triton.jit
def row_values(
    state, p_row, target, V, scale, softcap, LANES: tl.constexpr, K: tl.constexpr, SOFTCAP: tl.constexpr,
    SUMS: tl.constexpr,
):  # fmt: skip
    """The row's results from its lanes' state, after a second, guarded look at a row that needs it:

    logprob, entropy, self_certainty, logsumexp, sum_sq_probs, first and second p, varentropy; then what the backward
    starts from: m (in units of log 2, of a guarded row a logit), log s, ±n (negative: guarded), 1 - p_y, with a softcap
    the largest |logit|, the target's logit.
    """
    m, log_s, log_s_n, mean_w, mean_d, mean_q, first, second, variance, s = _row_results(
        state, V, scale, LANES, K, SUMS
    )
    valid = (target >= 0) & (target < V)
    x_y = tl.load(p_row + target, mask=valid, other=float("nan")).to(tl.float32)
    x_capped = x_y
    if SOFTCAP:
        x_capped = cap(x_y, softcap, SOFTCAP)
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
        m, log_s, log_s_n, mean_w, mean_d, mean_q, first, second, variance, n, complement = _exact_row(
            p_row, target, V, scale, softcap, LANES, SOFTCAP, SUMS
        )
        logprob = (x_capped - m) * (scale * LN2) - log_s
        m_nats = m * (scale * LN2)
        n = -tl.maximum(n, 1.0)  # -0 would not look negative
    largest = 0.0
    if SOFTCAP == SHORT:
        largest = tl.max(state[7], axis=0)
    return (
        logprob, log_s - mean_w, log_s_n - mean_d, m_nats + log_s, mean_q, first, second, variance, m, log_s, n,
        complement, largest, x_y,
    )  # fmt: skip


@triton.jit
def _finish_row(
    state, i_row, p_row, target, logprob_ptr, entropy_ptr, self_certainty_ptr, logsumexp_ptr, sum_sq_probs_ptr,
    top_probs_ptr, varentropy_ptr, argmax_ptr, target_rank_ptr, top_ids_ptr, state_ptr, N, V, scale, softcap,
    LANES: tl.constexpr, K: tl.constexpr, SOFTCAP: tl.constexpr, SUMS: tl.constexpr, TOP: tl.constexpr,
    SLOTS: tl.constexpr,
):  # fmt: skip
    """Store the row's results, from the state of its lanes."""
    (
        logprob, entropy, self_certainty, logsumexp, sum_sq_probs, first, second, varentropy, m, log_s, n, complement,
        largest, _,
    ) = row_values(state, p_row, target, V, scale, softcap, LANES, K, SOFTCAP, SUMS)  # fmt: skip
    if logprob_ptr is not None:
        tl.store(logprob_ptr + i_row, logprob)
    if entropy_ptr is not None:
        tl.store(entropy_ptr + i_row, entropy)
    if self_certainty_ptr is not None:
        tl.store(self_certainty_ptr + i_row, self_certainty)
    if logsumexp_ptr is not None:
        tl.store(logsumexp_ptr + i_row, logsumexp)
    if sum_sq_probs_ptr is not None:
        tl.store(sum_sq_probs_ptr + i_row, sum_sq_probs)
    if top_probs_ptr is not None:
        tl.store(top_probs_ptr + i_row * 2, first)
        tl.store(top_probs_ptr + i_row * 2 + 1, second)
    if varentropy_ptr is not None:
        tl.store(varentropy_ptr + i_row, varentropy)
    if target_rank_ptr is not None:
        store_rank(target_rank_ptr, state[9], log_s, i_row)
    if TOP > 0:
        store_order(
            p_row, state[0], log_s, argmax_ptr, top_ids_ptr, i_row, V, scale, softcap, LANES, K, SOFTCAP, TOP, SLOTS
        )  # fmt: skip
    tl.store(state_ptr + STATE_M * N + i_row, m)
    tl.store(state_ptr + STATE_LOG_S * N + i_row, log_s)
    tl.store(state_ptr + STATE_N * N + i_row, n)
    tl.store(state_ptr + STATE_ENTROPY * N + i_row, entropy)
    tl.store(state_ptr + STATE_SUM_SQ_PROBS * N + i_row, sum_sq_probs)
    tl.store(state_ptr + STATE_COMPLEMENT * N + i_row, complement)
    tl.store(state_ptr + STATE_LARGEST * N + i_row, largest)
    tl.store(state_ptr + STATE_VARENTROPY * N + i_row, varentropy)


@triton.jit
def _store_nothing(
    i_row, logprob_ptr, entropy_ptr, self_certainty_ptr, logsumexp_ptr, sum_sq_probs_ptr, top_probs_ptr, varentropy_ptr,
    argmax_ptr, target_rank_ptr, top_ids_ptr, state_ptr, N, TOP: tl.constexpr,
):  # fmt: skip
    """Store a masked row's zeros: the results come uninitialised, so that no launch has to clear them."""
    if logprob_ptr is not None:
        tl.store(logprob_ptr + i_row, 0.0)
    if entropy_ptr is not None:
        tl.store(entropy_ptr + i_row, 0.0)
    if self_certainty_ptr is not None:
        tl.store(self_certainty_ptr + i_row, 0.0)
    if logsumexp_ptr is not None:
        tl.store(logsumexp_ptr + i_row, 0.0)
    if sum_sq_probs_ptr is not None:
        tl.store(sum_sq_probs_ptr + i_row, 0.0)
    if top_probs_ptr is not None:
        tl.store(top_probs_ptr + i_row * 2, 0.0)
        tl.store(top_probs_ptr + i_row * 2 + 1, 0.0)
    if varentropy_ptr is not None:
        tl.store(varentropy_ptr + i_row, 0.0)
    if argmax_ptr is not None:
        tl.store(argmax_ptr + i_row, 0)
    if target_rank_ptr is not None:
        tl.store(target_rank_ptr + i_row, 0)
    if top_ids_ptr is not None:
        for i in range(0, TOP):
            tl.store(top_ids_ptr + i_row * TOP + i, 0)
    for i in tl.static_range(STATE_ROWS):
        tl.store(state_ptr + i * N + i_row, 0.0)


@triton.jit
def forward_kernel(
    logits_ptr, offsets_ptr, targets_ptr, temperature_ptr, logprob_ptr, entropy_ptr, self_certainty_ptr, logsumexp_ptr,
    sum_sq_probs_ptr, top_probs_ptr, varentropy_ptr, argmax_ptr, target_rank_ptr, top_ids_ptr, rank_above_ptr,
    state_ptr, parts_ptr, counters_ptr, stride, N, V, scale, softcap, num_chunks,
    LANES: tl.constexpr, SLICE: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr,
    SOFTCAP: tl.constexpr, SUMS: tl.constexpr, TOP: tl.constexpr, SLOTS: tl.constexpr, UNROLL: tl.constexpr,
    STAGES: tl.constexpr, LOAD: tl.constexpr,
):  # fmt: skip
    """A program does a whole row, or with `parts_ptr` one part of it: SLICE lanes of one chunk.

    Each program counts up its row's counter when its part is stored. Who comes last finds all parts there, and has the
    row's results from them: in their order, whatever order they came in.
    """
    num_parts = num_chunks * (LANES // SLICE)
    if parts_ptr is None:
        i_row, i_part = tl.program_id(0), 0
    else:
        i_row, i_part = tl.program_id(0) // num_parts, tl.program_id(0) % num_parts
    i_row = i_row.to(tl.int64)
    target = tl.load(targets_ptr + i_row)
    if target != SKIPPED:
        p_row = row_pointer(logits_ptr, offsets_ptr, stride, i_row)
        if temperature_ptr is not None:
            scale = row_scale(temperature_ptr, i_row)
        above = None
        if rank_above_ptr is not None:
            above = tl.load(rank_above_ptr + i_row)
        if parts_ptr is None:
            state = row_state(
                p_row, None, num_chunks, V, scale, softcap, above, LANES, K, TILES, WIDE, SOFTCAP, SUMS, UNROLL, STAGES,
                LOAD,
            )  # fmt: skip
            _finish_row(
                state, i_row, p_row, target, logprob_ptr, entropy_ptr, self_certainty_ptr, logsumexp_ptr,
                sum_sq_probs_ptr, top_probs_ptr, varentropy_ptr, argmax_ptr, target_rank_ptr, top_ids_ptr, state_ptr, N,
                V, scale, softcap, LANES, K, SOFTCAP, SUMS, TOP, SLOTS,
            )  # fmt: skip
        else:
            p_parts = parts_ptr + i_row * num_chunks * (NUM_PARTS * LANES)
            store_part(
                p_row, p_parts, i_part // (LANES // SLICE), i_part % (LANES // SLICE) * SLICE, V, scale, softcap, above,
                LANES, SLICE, K, TILES, WIDE, SOFTCAP, SUMS, UNROLL, STAGES, LOAD,
            )  # fmt: skip
            # All threads have stored before one of them counts, which releases what they stored; and none loads
            # before the count is known, which acquires what the others have.
            tl.debug_barrier()
            before = tl.atomic_add(counters_ptr + i_row, 1, sem="acq_rel", scope="gpu")
            if before == num_parts - 1:
                tl.debug_barrier()
                state = row_state(
                    p_row, p_parts, num_chunks, V, scale, softcap, above, LANES, K, TILES, WIDE, SOFTCAP, SUMS, 1, None,
                    LOAD,
                )  # fmt: skip
                _finish_row(
                    state, i_row, p_row, target, logprob_ptr, entropy_ptr, self_certainty_ptr, logsumexp_ptr,
                    sum_sq_probs_ptr, top_probs_ptr, varentropy_ptr, argmax_ptr, target_rank_ptr, top_ids_ptr,
                    state_ptr, N, V, scale, softcap, LANES, K, SOFTCAP, SUMS, TOP, SLOTS,
                )  # fmt: skip
    elif i_part == 0:
        _store_nothing(
            i_row, logprob_ptr, entropy_ptr, self_certainty_ptr, logsumexp_ptr, sum_sq_probs_ptr, top_probs_ptr,
            varentropy_ptr, argmax_ptr, target_rank_ptr, top_ids_ptr, state_ptr, N, TOP,
        )  # fmt: skip
