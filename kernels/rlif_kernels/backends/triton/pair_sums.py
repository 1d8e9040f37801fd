"""The first two looks at a pair of rows, the student's and the teacher's: the sums, and what a mixture of them needs.

The first look keeps in each lane what `lanes` keeps, of both sides (capitals are the teacher's), with d = z - m in
units of log 2:

    m, s = sum exp2 d,  w = sum exp2(d) d,  a = sum exp2(d) (d - D)         M, S, W, A = sum exp2(D) (D - d)

It has no barrier, no shuffle and no guard. A row with a column of -inf, NaN, or distances that overflow has an `a` or
`A` that is not finite; only that row is read again, by `exact_pair_sums`, and its later looks take guarded loops.

The second look adds up KL(p || m) and KL(q || m) of a Jensen-Shannon divergence, m = (1 - beta) p + beta q.
"""

import triton
import triton.language as tl

from rlif_kernels.backends.triton.blocks import (
    INFINITY,
    LN2,
    cap,
    load_pairs,
    pairs_inside,
    sum_lanes,
    sum_pairs,
)
from rlif_kernels.backends.triton.forward import LOWEST_FLOAT32
from rlif_kernels.backends.triton.lanes import LOWEST

# A power of two, by which nothing is rounded.
SHRINK = tl.constexpr(2.0**-32)


@triton.jit
def capped(x, softcap, SOFTCAP: tl.constexpr):
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
def pair_sums(
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
        x0, x1 = capped(x0, softcap, SOFTCAP), capped(x1, softcap, SOFTCAP)
        y0, y1 = capped(y0, teacher_softcap, TEACHER_SOFTCAP), capped(y1, teacher_softcap, TEACHER_SOFTCAP)
        state = _absorb_pair(
            state, x0, x1, y0, y1, scale, teacher_scale, None, None, LANES, K // 2, False, A, TEACHER_A, W, TEACHER_W
        )
    if whole < V:
        x0, x1 = load_pairs(p_x, whole, V, LANES, K, WIDE, True, LOAD)
        y0, y1 = load_pairs(p_y, whole, V, LANES, K, WIDE, True, LOAD)
        m_even, m_odd = pairs_inside(whole, V, LANES, K)
        x0, x1 = capped(x0, softcap, SOFTCAP), capped(x1, softcap, SOFTCAP)
        y0, y1 = capped(y0, teacher_softcap, TEACHER_SOFTCAP), capped(y1, teacher_softcap, TEACHER_SOFTCAP)
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
def exact_pair_sums(
    p_x, p_y, V, scale, teacher_scale, softcap, teacher_softcap, LANES: tl.constexpr, SOFTCAP: tl.constexpr,
    TEACHER_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """`pair_sums` with a guard on everything, the maxima logits; and whether either side has a column in its support
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
        l_m = tl.maximum(l_m, capped(x, softcap, SOFTCAP))
        l_tm = tl.maximum(l_tm, capped(y, teacher_softcap, TEACHER_SOFTCAP))
    poison = sum_lanes(l_poison, LANES)
    m, tm = tl.max(l_m, axis=0), tl.max(l_tm, axis=0)
    l_s, l_a, l_w, l_ts, l_ta, l_tw = zero, zero, zero, zero, zero, zero
    for start in range(0, V, LANES):
        o = start + tl.arange(0, LANES)
        x = tl.load(p_x + o, mask=o < V, other=-INFINITY).to(tl.float32)
        y = tl.load(p_y + o, mask=o < V, other=-INFINITY).to(tl.float32)
        inside, teacher_inside = x != -INFINITY, y != -INFINITY
        x, y = capped(x, softcap, SOFTCAP), capped(y, teacher_softcap, TEACHER_SOFTCAP)
        d = tl.where(inside, _difference(x, m, scale), 0.0)
        t = tl.where(teacher_inside, _difference(y, tm, teacher_scale), 0.0)
        e, f = tl.where(inside, tl.exp2(d), 0.0), tl.where(teacher_inside, tl.exp2(t), 0.0)
        g = tl.where(inside & teacher_inside, d - t, 0.0)
        g *= SHRINK  # a sum of fewer than 2^32 columns cannot overflow
        l_s += e
        l_a = tl.fma(e, g, l_a)
        l_w = tl.fma(e, d, l_w)
        l_ts += f
        l_ta = tl.fma(-f, g, l_ta)
        l_tw = tl.fma(f, t, l_tw)
    # A row without support has a sum of 0: its logarithm would be -inf where NaN is due.
    s, ts = sum_lanes(l_s, LANES) + poison, sum_lanes(l_ts, LANES) + poison
    s, ts = tl.where(s > 0, s, float("nan")), tl.where(ts > 0, ts, float("nan"))
    a, ta = sum_lanes(l_a, LANES) / s / SHRINK, sum_lanes(l_ta, LANES) / ts / SHRINK
    return (
        m, s, a, sum_lanes(l_w, LANES) / s, tm, ts, ta, sum_lanes(l_tw, LANES) / ts, tl.max(l_only, axis=0),
        tl.max(l_teacher_only, axis=0),
    )  # fmt: skip


@triton.jit
def log2_probability(x, scale, m, log2_s, softcap, SOFTCAP: tl.constexpr, GUARDED: tl.constexpr):
    """Of a guarded row m is a logit, and the lowest float32 stands for the distance of a logit of -inf."""
    x = capped(x, softcap, SOFTCAP)
    if GUARDED:
        return _difference(x, m, scale) - log2_s
    return tl.fma(x, scale, -m) - log2_s


@triton.jit
def log2(x, NVIDIA: tl.constexpr):
    """log2 of a positive normal x. NVIDIA's own instruction is off by 2^-22 at most between 0.5 and 2, elsewhere by two
    units in the last place (CUDA C++ Programming Guide, accuracy of `__log2f`); Triton's log2 takes twenty."""
    if NVIDIA:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.log2(x)


@triton.jit
def log2_of_one(beta, NVIDIA: tl.constexpr):
    """What `log2` gives where p = q. It is subtracted, so that a ratio to the mixture is exactly 0 there."""
    return log2(tl.fma(beta, 1.0, 1.0 - beta), NVIDIA)


@triton.jit
def log2_to_mixture(logp, logq, beta, one, NVIDIA: tl.constexpr):
    """log2(p/m), m = (1 - beta) p + beta q, by as few instructions as will do where it is multiplied by p: the larger
    q/p, the larger the error and the smaller p. Beyond 2^126 p is 0, and any finite number serves."""
    ratio = tl.exp2(tl.minimum(logq - logp, 126.0))
    return one - log2(tl.fma(beta, ratio, 1.0 - beta), NVIDIA)


@triton.jit
def _log2_ratios(logp, logq, beta, one, NVIDIA: tl.constexpr):
    """log2(p/m) and log2(q/m): relative to the larger of the two, so that neither cancels."""
    difference = logq - logp
    teacher_larger = difference > 0
    smaller = tl.exp2(-tl.abs(difference))
    of_larger, of_smaller = tl.where(teacher_larger, beta, 1.0 - beta), tl.where(teacher_larger, 1.0 - beta, beta)
    larger = one - log2(tl.fma(of_smaller, smaller, of_larger), NVIDIA)
    return larger - tl.maximum(difference, 0.0), larger + tl.minimum(difference, 0.0)


@triton.jit
def mixture_sums(
    p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, softcap, teacher_softcap, beta,
    LANES: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, SOFTCAP: tl.constexpr, TEACHER_SOFTCAP: tl.constexpr,
    GUARDED: tl.constexpr, NVIDIA: tl.constexpr, UNROLL: tl.constexpr, LOAD: tl.constexpr,
):  # fmt: skip
    """KL(p || m) and KL(q || m)."""
    BLOCK: tl.constexpr = LANES * K
    one = log2_of_one(beta, NVIDIA)
    l_student, l_teacher = tl.zeros((LANES,), tl.float32), tl.zeros((LANES,), tl.float32)
    whole = V // BLOCK * BLOCK
    for start in tl.range(0, whole, BLOCK, loop_unroll_factor=UNROLL):
        x0, x1 = load_pairs(p_x, start, V, LANES, K, WIDE, False, LOAD)
        y0, y1 = load_pairs(p_y, start, V, LANES, K, WIDE, False, LOAD)
        logp0 = log2_probability(x0, scale, m, log2_s, softcap, SOFTCAP, GUARDED)
        logp1 = log2_probability(x1, scale, m, log2_s, softcap, SOFTCAP, GUARDED)
        logq0 = log2_probability(y0, teacher_scale, tm, teacher_log2_s, teacher_softcap, TEACHER_SOFTCAP, GUARDED)
        logq1 = log2_probability(y1, teacher_scale, tm, teacher_log2_s, teacher_softcap, TEACHER_SOFTCAP, GUARDED)
        student0, teacher0 = _log2_ratios(logp0, logq0, beta, one, NVIDIA)
        student1, teacher1 = _log2_ratios(logp1, logq1, beta, one, NVIDIA)
        l_student += sum_pairs(tl.fma(tl.exp2(logp0), student0, tl.exp2(logp1) * student1), LANES, K // 2)
        l_teacher += sum_pairs(tl.fma(tl.exp2(logq0), teacher0, tl.exp2(logq1) * teacher1), LANES, K // 2)
    for start in range(whole, V, LANES):
        o = start + tl.arange(0, LANES)
        x = tl.load(p_x + o, mask=o < V, other=-INFINITY).to(tl.float32)
        y = tl.load(p_y + o, mask=o < V, other=-INFINITY).to(tl.float32)
        logp = log2_probability(x, scale, m, log2_s, softcap, SOFTCAP, GUARDED)
        logq = log2_probability(y, teacher_scale, tm, teacher_log2_s, teacher_softcap, TEACHER_SOFTCAP, GUARDED)
        student, teacher = _log2_ratios(logp, logq, beta, one, NVIDIA)
        l_student += tl.where(o < V, tl.exp2(logp) * student, 0.0)
        l_teacher += tl.where(o < V, tl.exp2(logq) * teacher, 0.0)
    return sum_lanes(l_student, LANES) * LN2, sum_lanes(l_teacher, LANES) * LN2
