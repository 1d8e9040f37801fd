"""The kernel of divergences: a pair of rows, the student's and the teacher's, in two looks or three by one program.

The first look keeps in each lane what `lanes` keeps, of both sides (capitals are the teacher's), with d = z - m in
units of log 2:

    m, s = sum exp2 d,  w = sum exp2(d) d,  a = sum exp2(d) (d - D)         M, S, W, A = sum exp2(D) (D - d)

It has no barrier, no shuffle and no guard. A row with a column of -inf, NaN, or distances that overflow has an `a` or
`A` that is not finite; only that row is read again, by `_exact_sums`, and its later looks take guarded loops. A second
look adds up a Jensen-Shannon divergence, and the last writes the gradient. `rlif_kernels.pairs` has the formulas.
"""

import triton
import triton.language as tl

from rlif_kernels.backends.triton.backward import any_cap_derivative, store_zeros
from rlif_kernels.backends.triton.blocks import (
    INFINITY,
    LN2,
    LOG2E,
    SKIPPED,
    cap,
    load_pairs,
    pairs_inside,
    row_pointer,
    row_scale,
    sum_lanes,
    sum_pairs,
)
from rlif_kernels.backends.triton.forward import LOWEST_FLOAT32
from rlif_kernels.backends.triton.lanes import LOWEST
from rlif_kernels.pairs import KINDS

FORWARD_KL = tl.constexpr(KINDS.index("forward_kl"))
REVERSE_KL = tl.constexpr(KINDS.index("reverse_kl"))
JSD = tl.constexpr(KINDS.index("jsd"))


@triton.jit
def _capped(x, softcap, SOFTCAP: tl.constexpr):
    if SOFTCAP:
        x = cap(x, softcap, SOFTCAP)
    return x


@triton.jit
def _absorb_pair(
    state, x0, x1, y0, y1, scale, teacher_scale, m_even, m_odd, LANES: tl.constexpr, PAIRS: tl.constexpr,
    MASKED: tl.constexpr, A: tl.constexpr, TEACHER_A: tl.constexpr, W: tl.constexpr, TEACHER_W: tl.constexpr,
):  # fmt: skip
    """Take one tile of both sides into the state of the lanes: the body of the main loop."""
    m, s, a, w, tm, ts, ta, tw = state
    new_m = tl.maximum(m, tl.max(tl.maximum(x0, x1), axis=1) * scale)
    new_tm = tl.maximum(tm, tl.max(tl.maximum(y0, y1), axis=1) * teacher_scale)
    d0, d1 = tl.fma(x0, scale, -new_m[:, None]), tl.fma(x1, scale, -new_m[:, None])
    t0, t1 = tl.fma(y0, teacher_scale, -new_tm[:, None]), tl.fma(y1, teacher_scale, -new_tm[:, None])
    e0, e1, f0, f1 = tl.exp2(d0), tl.exp2(d1), tl.exp2(t0), tl.exp2(t1)
    if MASKED:  # columns beyond the row came as -inf: their exponentials are 0, their differences must not count
        d0, d1 = tl.where(m_even, d0, 0.0), tl.where(m_odd, d1, 0.0)
        t0, t1 = tl.where(m_even, t0, 0.0), tl.where(m_odd, t1, 0.0)
    shift, teacher_shift = m - new_m, tm - new_tm
    r, tr = tl.exp2(shift), tl.exp2(teacher_shift)
    g0, g1 = d0 - t0, d1 - t1
    if A:
        a = tl.fma(r, tl.fma(shift - teacher_shift, s, a), sum_pairs(tl.fma(e0, g0, e1 * g1), LANES, PAIRS))
    if TEACHER_A:
        ta = tl.fma(tr, tl.fma(teacher_shift - shift, ts, ta), -sum_pairs(tl.fma(f0, g0, f1 * g1), LANES, PAIRS))
    if W:
        w = tl.fma(r, tl.fma(shift, s, w), sum_pairs(tl.fma(e0, d0, e1 * d1), LANES, PAIRS))
    if TEACHER_W:
        tw = tl.fma(tr, tl.fma(teacher_shift, ts, tw), sum_pairs(tl.fma(f0, t0, f1 * t1), LANES, PAIRS))
    s = tl.fma(r, s, sum_pairs(e0 + e1, LANES, PAIRS))
    ts = tl.fma(tr, ts, sum_pairs(f0 + f1, LANES, PAIRS))
    return new_m, s, a, w, new_tm, ts, ta, tw


@triton.jit
def _row_sums(
    p_x, p_y, V, scale, teacher_scale, softcap, teacher_softcap, LANES: tl.constexpr, K: tl.constexpr,
    WIDE: tl.constexpr, SOFTCAP: tl.constexpr, TEACHER_SOFTCAP: tl.constexpr, A: tl.constexpr, TEACHER_A: tl.constexpr,
    W: tl.constexpr, TEACHER_W: tl.constexpr, UNROLL: tl.constexpr, LOAD: tl.constexpr,
):  # fmt: skip
    """m, s, a/s, w/s of the student, and of the teacher: in units of log 2, relative to the largest z of each."""
    BLOCK: tl.constexpr = LANES * K
    lowest, zero = tl.full((LANES,), LOWEST, tl.float32), tl.zeros((LANES,), tl.float32)
    state = (lowest, zero, zero, zero, lowest, zero, zero, zero)
    whole = V // BLOCK * BLOCK
    for start in tl.range(0, whole, BLOCK, loop_unroll_factor=UNROLL):
        x0, x1 = load_pairs(p_x, start, V, LANES, K, WIDE, False, LOAD)
        y0, y1 = load_pairs(p_y, start, V, LANES, K, WIDE, False, LOAD)
        x0, x1 = _capped(x0, softcap, SOFTCAP), _capped(x1, softcap, SOFTCAP)
        y0, y1 = _capped(y0, teacher_softcap, TEACHER_SOFTCAP), _capped(y1, teacher_softcap, TEACHER_SOFTCAP)
        state = _absorb_pair(
            state, x0, x1, y0, y1, scale, teacher_scale, None, None, LANES, K // 2, False, A, TEACHER_A, W, TEACHER_W
        )
    if whole < V:
        x0, x1 = load_pairs(p_x, whole, V, LANES, K, WIDE, True, LOAD)
        y0, y1 = load_pairs(p_y, whole, V, LANES, K, WIDE, True, LOAD)
        m_even, m_odd = pairs_inside(whole, V, LANES, K)
        x0, x1 = _capped(x0, softcap, SOFTCAP), _capped(x1, softcap, SOFTCAP)
        y0, y1 = _capped(y0, teacher_softcap, TEACHER_SOFTCAP), _capped(y1, teacher_softcap, TEACHER_SOFTCAP)
        state = _absorb_pair(
            state, x0, x1, y0, y1, scale, teacher_scale, m_even, m_odd, LANES, K // 2, True, A, TEACHER_A, W, TEACHER_W
        )
    l_m, l_s, l_a, l_w, l_tm, l_ts, l_ta, l_tw = state
    m, tm = tl.max(l_m, axis=0), tl.max(l_tm, axis=0)
    shift, teacher_shift = l_m - m, l_tm - tm
    r, tr = tl.exp2(shift), tl.exp2(teacher_shift)
    s, ts = sum_lanes(r * l_s, LANES), sum_lanes(tr * l_ts, LANES)
    a, w, ta, tw = 0.0, 0.0, 0.0, 0.0
    if A:
        a = sum_lanes(r * tl.fma(shift - teacher_shift, l_s, l_a), LANES) / s
    if TEACHER_A:
        ta = sum_lanes(tr * tl.fma(teacher_shift - shift, l_ts, l_ta), LANES) / ts
    if W:
        w = sum_lanes(r * tl.fma(shift, l_s, l_w), LANES) / s
    if TEACHER_W:
        tw = sum_lanes(tr * tl.fma(teacher_shift, l_ts, l_tw), LANES) / ts
    return m, s, a, w, tm, ts, ta, tw


@triton.jit
def _difference(x, m, inv_temperature):
    """(x - m) / temperature, which must not overflow."""
    return tl.maximum((x - m) * inv_temperature, LOWEST_FLOAT32)


@triton.jit
def _exact_sums(
    p_x, p_y, V, scale, teacher_scale, softcap, teacher_softcap, LANES: tl.constexpr, SOFTCAP: tl.constexpr,
    TEACHER_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """`_row_sums` with a guard on everything, the maxima logits; and whether either side has a column in its support
    that the other lacks."""
    zero = tl.zeros((LANES,), tl.float32)
    l_m = tl.full((LANES,), -INFINITY, tl.float32)
    l_tm, l_poison, l_only, l_teacher_only = l_m, zero, zero, zero
    for start in range(0, V, LANES):
        o = start + tl.arange(0, LANES)
        x = tl.load(p_x + o, mask=o < V, other=-INFINITY).to(tl.float32)
        y = tl.load(p_y + o, mask=o < V, other=-INFINITY).to(tl.float32)
        inside, teacher_inside = x != -INFINITY, y != -INFINITY
        l_poison += tl.where(inside, x - x, 0.0) + tl.where(teacher_inside, y - y, 0.0)  # NaN for NaN and +inf
        l_only = tl.maximum(l_only, tl.where(inside & (y == -INFINITY), 1.0, 0.0))
        l_teacher_only = tl.maximum(l_teacher_only, tl.where(teacher_inside & (x == -INFINITY), 1.0, 0.0))
        l_m = tl.maximum(l_m, _capped(x, softcap, SOFTCAP))
        l_tm = tl.maximum(l_tm, _capped(y, teacher_softcap, TEACHER_SOFTCAP))
    poison = sum_lanes(l_poison, LANES)
    m, tm = tl.max(l_m, axis=0), tl.max(l_tm, axis=0)
    l_s, l_a, l_w, l_ts, l_ta, l_tw = zero, zero, zero, zero, zero, zero
    for start in range(0, V, LANES):
        o = start + tl.arange(0, LANES)
        x = tl.load(p_x + o, mask=o < V, other=-INFINITY).to(tl.float32)
        y = tl.load(p_y + o, mask=o < V, other=-INFINITY).to(tl.float32)
        inside, teacher_inside = x != -INFINITY, y != -INFINITY
        x, y = _capped(x, softcap, SOFTCAP), _capped(y, teacher_softcap, TEACHER_SOFTCAP)
        d = tl.where(inside, _difference(x, m, scale), 0.0)
        t = tl.where(teacher_inside, _difference(y, tm, teacher_scale), 0.0)
        e, f = tl.where(inside, tl.exp2(d), 0.0), tl.where(teacher_inside, tl.exp2(t), 0.0)
        g = tl.where(inside & teacher_inside, d - t, 0.0)
        l_s += e
        l_a = tl.fma(e, g, l_a)
        l_w = tl.fma(e, d, l_w)
        l_ts += f
        l_ta = tl.fma(-f, g, l_ta)
        l_tw = tl.fma(f, t, l_tw)
    # A row without support has a sum of 0: its logarithm would be -inf where NaN is due.
    s, ts = sum_lanes(l_s, LANES) + poison, sum_lanes(l_ts, LANES) + poison
    s, ts = tl.where(s > 0, s, float("nan")), tl.where(ts > 0, ts, float("nan"))
    return (
        m, s, sum_lanes(l_a, LANES) / s, sum_lanes(l_w, LANES) / s, tm, ts, sum_lanes(l_ta, LANES) / ts,
        sum_lanes(l_tw, LANES) / ts, tl.max(l_only, axis=0), tl.max(l_teacher_only, axis=0),
    )  # fmt: skip


@triton.jit
def _log2_probability(x, scale, m, log2_s, softcap, SOFTCAP: tl.constexpr, GUARDED: tl.constexpr):
    """Of a guarded row m is a logit, and the lowest float32 stands for the distance of a logit of -inf."""
    x = _capped(x, softcap, SOFTCAP)
    if GUARDED:
        return _difference(x, m, scale) - log2_s
    return tl.fma(x, scale, -m) - log2_s


@triton.jit
def _log2_ratios(logp, logq, beta, rest):
    """log2(p/m) and log2(q/m), m = (1 - beta) p + beta q: relative to the larger of the two, exactly 0 where p = q."""
    difference = logq - logp
    teacher_larger = difference > 0
    smaller = tl.exp2(-tl.abs(difference))
    larger = -tl.log2(tl.fma(tl.where(teacher_larger, rest, beta), smaller, tl.where(teacher_larger, beta, rest)))
    return tl.where(teacher_larger, larger - difference, larger), tl.where(teacher_larger, larger, larger + difference)


@triton.jit
def _mixture(
    p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, softcap, teacher_softcap, beta,
    LANES: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, SOFTCAP: tl.constexpr, TEACHER_SOFTCAP: tl.constexpr,
    GUARDED: tl.constexpr, LOAD: tl.constexpr,
):  # fmt: skip
    """KL(p || m) and KL(q || m)."""
    BLOCK: tl.constexpr = LANES * K
    rest = 1.0 - beta
    l_student, l_teacher = tl.zeros((LANES,), tl.float32), tl.zeros((LANES,), tl.float32)
    whole = V // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        x0, x1 = load_pairs(p_x, start, V, LANES, K, WIDE, False, LOAD)
        y0, y1 = load_pairs(p_y, start, V, LANES, K, WIDE, False, LOAD)
        logp0 = _log2_probability(x0, scale, m, log2_s, softcap, SOFTCAP, GUARDED)
        logp1 = _log2_probability(x1, scale, m, log2_s, softcap, SOFTCAP, GUARDED)
        logq0 = _log2_probability(y0, teacher_scale, tm, teacher_log2_s, teacher_softcap, TEACHER_SOFTCAP, GUARDED)
        logq1 = _log2_probability(y1, teacher_scale, tm, teacher_log2_s, teacher_softcap, TEACHER_SOFTCAP, GUARDED)
        student0, teacher0 = _log2_ratios(logp0, logq0, beta, rest)
        student1, teacher1 = _log2_ratios(logp1, logq1, beta, rest)
        l_student += sum_pairs(tl.fma(tl.exp2(logp0), student0, tl.exp2(logp1) * student1), LANES, K // 2)
        l_teacher += sum_pairs(tl.fma(tl.exp2(logq0), teacher0, tl.exp2(logq1) * teacher1), LANES, K // 2)
    for start in range(whole, V, LANES):
        o = start + tl.arange(0, LANES)
        x = tl.load(p_x + o, mask=o < V, other=-INFINITY).to(tl.float32)
        y = tl.load(p_y + o, mask=o < V, other=-INFINITY).to(tl.float32)
        logp = _log2_probability(x, scale, m, log2_s, softcap, SOFTCAP, GUARDED)
        logq = _log2_probability(y, teacher_scale, tm, teacher_log2_s, teacher_softcap, TEACHER_SOFTCAP, GUARDED)
        student, teacher = _log2_ratios(logp, logq, beta, rest)
        l_student += tl.where(o < V, tl.exp2(logp) * student, 0.0)
        l_teacher += tl.where(o < V, tl.exp2(logq) * teacher, 0.0)
    return sum_lanes(l_student, LANES) * LN2, sum_lanes(l_teacher, LANES) * LN2


@triton.jit
def _pair_gradient(
    x, y, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, factor, offset, softcap, teacher_softcap, beta,
    SOFTCAP: tl.constexpr, TEACHER_SOFTCAP: tl.constexpr, KIND: tl.constexpr, GUARDED: tl.constexpr,
):  # fmt: skip
    """The gradient of a column's logit: the body of the last look."""
    logp = _log2_probability(x, scale, m, log2_s, softcap, SOFTCAP, GUARDED)
    logq = _log2_probability(y, teacher_scale, tm, teacher_log2_s, teacher_softcap, TEACHER_SOFTCAP, GUARDED)
    p = tl.exp2(logp)
    # p first: a factor times the lowest float32 would overflow, and be NaN times p = 0.
    if KIND == FORWARD_KL:
        g = (p - tl.exp2(logq)) * factor
    elif KIND == REVERSE_KL:
        g = tl.fma(p * (logp - logq), factor, -p * offset)
    else:
        of_student, _ = _log2_ratios(logp, logq, beta, 1.0 - beta)
        g = tl.fma(p * of_student, factor, -p * offset)
    if SOFTCAP:
        g *= any_cap_derivative(cap(x, softcap, SOFTCAP), softcap)
    if GUARDED:
        g = tl.where(x == -INFINITY, 0.0, g)
    return g


@triton.jit
def _store_pair_gradient(
    p_grad, p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, factor, offset, softcap, teacher_softcap,
    beta, BLOCK: tl.constexpr, WIDE: tl.constexpr, SOFTCAP: tl.constexpr, TEACHER_SOFTCAP: tl.constexpr,
    KIND: tl.constexpr, GUARDED: tl.constexpr, LOAD: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    o = tl.arange(0, BLOCK)
    PART: tl.constexpr = BLOCK // 8  # what needs a mask goes in smaller blocks, as in `backward`
    o_part = tl.arange(0, PART)
    whole = V // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        if WIDE:
            p_in, p_teacher = tl.multiple_of(p_x + start, 16) + o, tl.multiple_of(p_y + start, 16) + o
            p_out = tl.multiple_of(p_grad + start, 16) + o
        else:
            p_in, p_teacher, p_out = p_x + start + o, p_y + start + o, p_grad + start + o
        x = tl.load(p_in, eviction_policy=LOAD).to(tl.float32)
        y = tl.load(p_teacher, eviction_policy=LOAD).to(tl.float32)
        g = _pair_gradient(
            x, y, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, factor, offset, softcap, teacher_softcap, beta,
            SOFTCAP, TEACHER_SOFTCAP, KIND, GUARDED,
        )  # fmt: skip
        tl.store(p_out, g.to(p_grad.dtype.element_ty), eviction_policy=STORE)
    for start in range(whole, V, PART):
        m_row = start + o_part < V
        x = tl.load(p_x + start + o_part, mask=m_row, other=0.0).to(tl.float32)
        y = tl.load(p_y + start + o_part, mask=m_row, other=0.0).to(tl.float32)
        g = _pair_gradient(
            x, y, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, factor, offset, softcap, teacher_softcap, beta,
            SOFTCAP, TEACHER_SOFTCAP, KIND, GUARDED,
        )  # fmt: skip
        tl.store(p_grad + start + o_part, g.to(p_grad.dtype.element_ty), mask=m_row)


@triton.jit
def pair_kernel(
    grad_ptr, logits_ptr, teacher_ptr, offsets_ptr, teacher_offsets_ptr, grad_offsets_ptr, targets_ptr, temperature_ptr,
    teacher_temperature_ptr, weight_ptr, value_ptr, entropy_ptr, teacher_entropy_ptr, cross_entropy_ptr,
    teacher_cross_entropy_ptr, stride, teacher_stride, grad_stride, V, width, scale, teacher_scale, softcap,
    teacher_softcap, beta,
    LANES: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr, WIDE_GRAD: tl.constexpr,
    PADDED: tl.constexpr, SOFTCAP: tl.constexpr, TEACHER_SOFTCAP: tl.constexpr, KIND: tl.constexpr,
    UNROLL: tl.constexpr, LOAD: tl.constexpr, SECOND_LOAD: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """A program does a pair of rows. Without `grad_ptr` there is no gradient; PADDED: beyond the V columns there are
    others up to `width`, of gradient 0. An output whose pointer is None is not computed."""
    W: tl.constexpr = entropy_ptr is not None or cross_entropy_ptr is not None
    TEACHER_W: tl.constexpr = teacher_entropy_ptr is not None or teacher_cross_entropy_ptr is not None
    # One of the two is always there: it tells which rows need guards.
    A: tl.constexpr = KIND != FORWARD_KL or cross_entropy_ptr is not None
    TEACHER_A: tl.constexpr = KIND == FORWARD_KL or teacher_cross_entropy_ptr is not None
    GRAD: tl.constexpr = grad_ptr is not None
    i_row = tl.program_id(0).to(tl.int64)
    if GRAD:
        p_grad = row_pointer(grad_ptr, grad_offsets_ptr, grad_stride, i_row)
        if PADDED:
            store_zeros(p_grad, V, width, BLOCK // 8)
    if tl.load(targets_ptr + i_row) == SKIPPED:
        if GRAD:
            store_zeros(p_grad, 0, V, BLOCK // 8)
        tl.store(value_ptr + i_row, 0.0)
        if entropy_ptr is not None:
            tl.store(entropy_ptr + i_row, 0.0)
        if teacher_entropy_ptr is not None:
            tl.store(teacher_entropy_ptr + i_row, 0.0)
        if cross_entropy_ptr is not None:
            tl.store(cross_entropy_ptr + i_row, 0.0)
        if teacher_cross_entropy_ptr is not None:
            tl.store(teacher_cross_entropy_ptr + i_row, 0.0)
    else:
        p_x = row_pointer(logits_ptr, offsets_ptr, stride, i_row)
        p_y = row_pointer(teacher_ptr, teacher_offsets_ptr, teacher_stride, i_row)
        if temperature_ptr is not None:
            scale = row_scale(temperature_ptr, i_row)
        if teacher_temperature_ptr is not None:
            teacher_scale = row_scale(teacher_temperature_ptr, i_row)
        m, s, a, w, tm, ts, ta, tw = _row_sums(
            p_x, p_y, V, scale, teacher_scale, softcap, teacher_softcap, LANES, K, WIDE, SOFTCAP, TEACHER_SOFTCAP, A,
            TEACHER_A, W, TEACHER_W, UNROLL, LOAD,
        )  # fmt: skip
        only, teacher_only, guarded = 0.0, 0.0, 0.0
        # Finite sums subtract to 0; infinities and NaN do not.
        if (a - a) + (ta - ta) + (w - w) + (tw - tw) != 0.0:
            guarded = 1.0
            m, s, a, w, tm, ts, ta, tw, only, teacher_only = _exact_sums(
                p_x, p_y, V, scale, teacher_scale, softcap, teacher_softcap, LANES, SOFTCAP, TEACHER_SOFTCAP
            )
        poison = (s - s) + (ts - ts)
        log_s, teacher_log_s = tl.log(s) + poison, tl.log(ts) + poison
        log2_s, teacher_log2_s = log_s * LOG2E, teacher_log_s * LOG2E
        infinite = (only > 0) & (poison == 0)
        teacher_infinite = (teacher_only > 0) & (poison == 0)
        if entropy_ptr is not None:
            tl.store(entropy_ptr + i_row, tl.fma(-w, LN2, log_s))
        if teacher_entropy_ptr is not None:
            tl.store(teacher_entropy_ptr + i_row, tl.fma(-tw, LN2, teacher_log_s))
        if cross_entropy_ptr is not None:
            cross_entropy = tl.fma(a - w, LN2, teacher_log_s)
            tl.store(cross_entropy_ptr + i_row, tl.where(infinite, INFINITY, cross_entropy))
        if teacher_cross_entropy_ptr is not None:
            cross_entropy = tl.fma(ta - tw, LN2, log_s)
            tl.store(teacher_cross_entropy_ptr + i_row, tl.where(teacher_infinite, INFINITY, cross_entropy))
        factor, mean = 0.0, 0.0
        if GRAD:
            factor = tl.load(weight_ptr + i_row) * (scale * LN2)
        if KIND == FORWARD_KL:
            value = tl.fma(ta, LN2, log_s - teacher_log_s)
            value = tl.where(value < 0, 0.0, value)
            value = tl.where(teacher_infinite, INFINITY, value)
            factor += poison
        elif KIND == REVERSE_KL:
            value = tl.fma(a, LN2, teacher_log_s - log_s)
            value = tl.where(value < 0, 0.0, value)
            mean = tl.where(infinite, float("nan"), value)
            value = tl.where(infinite, INFINITY, value)
        else:
            if guarded > 0:
                mean, of_teacher = _mixture(
                    p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, softcap, teacher_softcap, beta,
                    LANES, K, WIDE, SOFTCAP, TEACHER_SOFTCAP, True, LOAD,
                )  # fmt: skip
            else:
                mean, of_teacher = _mixture(
                    p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, softcap, teacher_softcap, beta,
                    LANES, K, WIDE, SOFTCAP, TEACHER_SOFTCAP, False, LOAD,
                )  # fmt: skip
            value = tl.fma(beta, of_teacher, (1.0 - beta) * mean)
            value = tl.where(value < 0, 0.0, value)
            factor *= 1.0 - beta
        tl.store(value_ptr + i_row, value)
        if GRAD:
            offset = factor * mean
            if KIND != FORWARD_KL:
                factor *= LN2
            # In place every thread has read what it needs of the row before: the sums are reductions over all of it.
            if guarded > 0:
                _store_pair_gradient(
                    p_grad, p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, factor, offset, softcap,
                    teacher_softcap, beta, BLOCK, WIDE and WIDE_GRAD, SOFTCAP, TEACHER_SOFTCAP, KIND, True, SECOND_LOAD,
                    STORE,
                )  # fmt: skip
            else:
                _store_pair_gradient(
                    p_grad, p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, factor, offset, softcap,
                    teacher_softcap, beta, BLOCK, WIDE and WIDE_GRAD, SOFTCAP, TEACHER_SOFTCAP, KIND, False,
                    SECOND_LOAD, STORE,
                )  # fmt: skip
