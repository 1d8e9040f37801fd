"""The kernel of divergences: a pair of rows, the student's and the teacher's, in two looks or three by one program.

The first look has the sums and a second one those of a mixture, which `pair_sums` tells of; the last writes the
gradient. `rlif_kernels.pairs` has the formulas.
"""

import triton
import triton.language as tl

from rlif_kernels.backends.triton.backward import any_cap_derivative, store_zeros
from rlif_kernels.backends.triton.blocks import INFINITY, LN2, LOG2E, SKIPPED, cap, row_pointer, row_scale
from rlif_kernels.backends.triton.pair_sums import (
    exact_pair_sums,
    log2_of_one,
    log2_probability,
    log2_to_mixture,
    mixture_sums,
    pair_sums,
)
from rlif_kernels.pairs import KINDS

FORWARD_KL = tl.constexpr(KINDS.index("forward_kl"))
REVERSE_KL = tl.constexpr(KINDS.index("reverse_kl"))
JSD = tl.constexpr(KINDS.index("jsd"))


@triton.jit
def _pair_gradient(
    x, y, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, factor, offset, softcap, teacher_softcap, beta, one,
    SOFTCAP: tl.constexpr, TEACHER_SOFTCAP: tl.constexpr, KIND: tl.constexpr, GUARDED: tl.constexpr,
    NVIDIA: tl.constexpr,
):  # fmt: skip
    """The gradient of a column's logit: the body of the last look."""
    logp = log2_probability(x, scale, m, log2_s, softcap, SOFTCAP, GUARDED)
    logq = log2_probability(y, teacher_scale, tm, teacher_log2_s, teacher_softcap, TEACHER_SOFTCAP, GUARDED)
    p = tl.exp2(logp)
    # Of a KL p first: a factor times the lowest float32 would overflow, and be NaN times p = 0.
    if KIND == FORWARD_KL:
        g = (p - tl.exp2(logq)) * factor
    elif KIND == REVERSE_KL:
        g = tl.fma(p * (logp - logq), factor, -p * offset)
    else:
        of_student = log2_to_mixture(logp, logq, beta, one, NVIDIA)
        g = p * tl.fma(of_student, factor, -offset)
    if SOFTCAP:
        g *= any_cap_derivative(cap(x, softcap, SOFTCAP), softcap)
    if GUARDED:
        g = tl.where(x == -INFINITY, 0.0, g)
    return g


@triton.jit
def _store_pair_gradient(
    p_grad, p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, factor, offset, softcap, teacher_softcap,
    beta, one, BLOCK: tl.constexpr, WIDE: tl.constexpr, SOFTCAP: tl.constexpr, TEACHER_SOFTCAP: tl.constexpr,
    KIND: tl.constexpr, GUARDED: tl.constexpr, NVIDIA: tl.constexpr, LOAD: tl.constexpr, STORE: tl.constexpr,
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
            one, SOFTCAP, TEACHER_SOFTCAP, KIND, GUARDED, NVIDIA,
        )  # fmt: skip
        tl.store(p_out, g.to(p_grad.dtype.element_ty), eviction_policy=STORE)
    for start in range(whole, V, PART):
        m_row = start + o_part < V
        x = tl.load(p_x + start + o_part, mask=m_row, other=0.0).to(tl.float32)
        y = tl.load(p_y + start + o_part, mask=m_row, other=0.0).to(tl.float32)
        g = _pair_gradient(
            x, y, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, factor, offset, softcap, teacher_softcap, beta,
            one, SOFTCAP, TEACHER_SOFTCAP, KIND, GUARDED, NVIDIA,
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
    NVIDIA: tl.constexpr, UNROLL: tl.constexpr, LOAD: tl.constexpr, SECOND_LOAD: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """A program does a pair of rows. Without `grad_ptr` there is no gradient; PADDED: beyond the V columns there are
    others up to `width`, of gradient 0. An output whose pointer is None is not computed. NVIDIA: one of theirs."""
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
        m, s, a, w, tm, ts, ta, tw = pair_sums(
            p_x, p_y, V, scale, teacher_scale, softcap, teacher_softcap, LANES, K, WIDE, SOFTCAP, TEACHER_SOFTCAP, A,
            TEACHER_A, W, TEACHER_W, UNROLL, LOAD,
        )  # fmt: skip
        only, teacher_only, guarded = 0.0, 0.0, 0.0
        # Finite sums subtract to 0; infinities and NaN do not.
        if (a - a) + (ta - ta) + (w - w) + (tw - tw) != 0.0:
            guarded = 1.0
            m, s, a, w, tm, ts, ta, tw, only, teacher_only = exact_pair_sums(
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
        factor, mean, one = 0.0, 0.0, 0.0
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
                mean, of_teacher = mixture_sums(
                    p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, softcap, teacher_softcap, beta,
                    LANES, K, WIDE, SOFTCAP, TEACHER_SOFTCAP, True, NVIDIA, 1, LOAD,
                )  # fmt: skip
            else:
                mean, of_teacher = mixture_sums(
                    p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, softcap, teacher_softcap, beta,
                    LANES, K, WIDE, SOFTCAP, TEACHER_SOFTCAP, False, NVIDIA, UNROLL, LOAD,
                )  # fmt: skip
            value = tl.fma(beta, of_teacher, (1.0 - beta) * mean)
            value = tl.where(value < 0, 0.0, value)
            factor *= 1.0 - beta
            one = log2_of_one(beta, NVIDIA)
        tl.store(value_ptr + i_row, value)
        if GRAD:
            offset = factor * mean
            if KIND != FORWARD_KL:
                factor *= LN2
            # In place every thread has read what it needs of the row before: the sums are reductions over all of it.
            if guarded > 0:
                _store_pair_gradient(
                    p_grad, p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, factor, offset, softcap,
                    teacher_softcap, beta, one, BLOCK, WIDE and WIDE_GRAD, SOFTCAP, TEACHER_SOFTCAP, KIND, True, NVIDIA,
                    SECOND_LOAD, STORE,
                )  # fmt: skip
            else:
                _store_pair_gradient(
                    p_grad, p_x, p_y, V, scale, teacher_scale, m, log2_s, tm, teacher_log2_s, factor, offset, softcap,
                    teacher_softcap, beta, one, BLOCK, WIDE and WIDE_GRAD, SOFTCAP, TEACHER_SOFTCAP, KIND, False,
                    NVIDIA, SECOND_LOAD, STORE,
                )  # fmt: skip
