"""The kernels of `grpo_loss`: one that does it all, or the loss alone between a forward and a backward.

`grpo_kernel` reads a row, knows its loss, and writes its gradient on a second look. That is two transfers instead of
three if the second look finds the row in the cache: so the first look asks for the row to be kept, and the second, like
the stores, not to be. No more programs are launched than are resident at a time, and each walks over its share of the
rows; so no more rows are under way than the cache holds. `plan.loss` says when these are too many, or all too few.

The bits do not depend on how many threads share a row, nor on which of the two ways is taken: LANES fixes them, and the
order of every sum.
"""

import triton
import triton.language as tl

from rlif_kernels.backends.triton.backward import store_gradient, store_zeros
from rlif_kernels.backends.triton.blocks import LN2, LOG2E, SKIPPED, row_pointer, row_scale
from rlif_kernels.backends.triton.forward import row_values
from rlif_kernels.backends.triton.lanes import row_state


@triton.jit
def _expm1_less_x(x):
    """exp(x) - 1 - x, without the cancellation near 0: there the series, to 1e-7 relative for |x| < 0.5."""
    series = tl.fma(x, 1.0 / 40320.0, 1.0 / 5040.0)
    series = tl.fma(x, series, 1.0 / 720.0)
    series = tl.fma(x, series, 1.0 / 120.0)
    series = tl.fma(x, series, 1.0 / 24.0)
    series = tl.fma(x, series, 1.0 / 6.0)
    series = tl.fma(x, series, 0.5)
    return tl.where(tl.abs(x) < 0.5, x * x * series, tl.exp2(x * LOG2E) - 1.0 - x)


@triton.jit
def _token_loss(
    logprob, old_logprob, ref_logprob, advantage, weight, low, high, delta, beta, OLD: tl.constexpr, REF: tl.constexpr,
    CORRECTED: tl.constexpr,
):  # fmt: skip
    """The policy's term of the loss, its derivative by the log-probability, k3 and the clip flag: `policy_loss`.
    CORRECTED: the ratio multiplies k3, and so does its derivative."""
    ratio = 1.0 + (logprob - logprob)  # NaN where the log-probability is NaN
    if OLD:
        ratio = tl.exp2((logprob - old_logprob) * LOG2E)
    capped = tl.minimum(ratio, delta) * advantage
    in_range = tl.minimum(tl.maximum(ratio, low), high) * advantage
    flows = tl.where(capped <= in_range, ratio <= delta, (ratio >= low) & (ratio <= high))
    loss = tl.where(ratio == ratio, -tl.minimum(capped, in_range), float("nan"))
    slope = tl.where(flows | (ratio != ratio), -advantage * ratio, 0.0)
    clipped = ((ratio < low) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
    kl = 0.0
    if REF:
        difference = ref_logprob - logprob
        kl = _expm1_less_x(difference)
        fall = kl + difference  # exp(d) - 1
        if CORRECTED:
            kl *= ratio
            fall = difference * ratio
        loss = tl.fma(beta, kl, loss)
        slope = tl.fma(-beta, fall, slope)
    return loss * weight, slope * weight, kl, clipped


@triton.jit
def _grpo_row(
    i_row, grad_ptr, logits_ptr, offsets_ptr, grad_offsets_ptr, targets_ptr, temperature_ptr, advantage_ptr, weight_ptr,
    mean_weight_ptr, old_logprob_ptr, ref_logprob_ptr, loss_ptr, logprob_ptr, entropy_ptr, self_certainty_ptr, kl_ptr,
    clipped_ptr, stride, grad_stride, V, width, scale, softcap, num_chunks, low, high, delta, beta, entropy_coef,
    self_certainty_coef,
    LANES: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
    WIDE_GRAD: tl.constexpr, PADDED: tl.constexpr, SOFTCAP: tl.constexpr, SUMS: tl.constexpr, E: tl.constexpr,
    U: tl.constexpr, CORRECTED: tl.constexpr, UNROLL: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr,
    SECOND_LOAD: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """One row: statistics, loss, gradient."""
    target = tl.load(targets_ptr + i_row)
    p_row = row_pointer(logits_ptr, offsets_ptr, stride, i_row)
    p_grad = row_pointer(grad_ptr, grad_offsets_ptr, grad_stride, i_row)
    if PADDED:
        store_zeros(p_grad, V, width, BLOCK // 8)
    if target == SKIPPED:
        store_zeros(p_grad, 0, V, BLOCK // 8)
        tl.store(loss_ptr + i_row, 0.0)
        tl.store(logprob_ptr + i_row, 0.0)
        if entropy_ptr is not None:
            tl.store(entropy_ptr + i_row, 0.0)
        if self_certainty_ptr is not None:
            tl.store(self_certainty_ptr + i_row, 0.0)
        if ref_logprob_ptr is not None:
            tl.store(kl_ptr + i_row, 0.0)
        tl.store(clipped_ptr + i_row, tl.cast(0, tl.int8))
    else:
        if temperature_ptr is not None:
            scale = row_scale(temperature_ptr, i_row)
        state = row_state(
            p_row, None, num_chunks, V, scale, softcap, None, LANES, K, TILES, WIDE, SOFTCAP, SUMS, UNROLL, STAGES,
            LOAD,
        )  # fmt: skip
        logprob, entropy, self_certainty, _, _, _, _, _, m, log_s, n, complement, largest, x_y = row_values(
            state, p_row, target, V, scale, softcap, LANES, K, SOFTCAP, SUMS
        )
        advantage = tl.load(advantage_ptr + i_row)
        weight = tl.load(weight_ptr + i_row)
        old_logprob, ref_logprob = logprob, logprob
        if old_logprob_ptr is not None:
            old_logprob = tl.load(old_logprob_ptr + i_row)
        if ref_logprob_ptr is not None:
            ref_logprob = tl.load(ref_logprob_ptr + i_row)
        loss, g_y, kl, clipped = _token_loss(
            logprob, old_logprob, ref_logprob, advantage, weight, low, high, delta, beta, old_logprob_ptr is not None,
            ref_logprob_ptr is not None, CORRECTED,
        )  # fmt: skip
        # From here as in `backward_kernel`: the upstream gradients become the coefficients of one polynomial.
        inv_temperature = scale * LN2
        c_rest = tl.where((target >= 0) & (target < V), 0.0, float("nan"))
        c_plogp, c_1 = 0.0, 0.0
        if E or U:
            mean_weight = tl.load(mean_weight_ptr + i_row)
            if E:
                g_entropy = -entropy_coef * mean_weight
                loss = tl.fma(g_entropy, entropy, loss)
                c_rest -= g_entropy * entropy
                c_plogp = -g_entropy * LN2 * inv_temperature
            if U:
                g_self_certainty = -self_certainty_coef * mean_weight
                loss = tl.fma(g_self_certainty, self_certainty, loss)
                c_rest += g_self_certainty
                c_1 = g_self_certainty / tl.abs(n) * inv_temperature
        tl.store(loss_ptr + i_row, loss)
        tl.store(logprob_ptr + i_row, logprob)
        if entropy_ptr is not None:
            tl.store(entropy_ptr + i_row, entropy)
        if self_certainty_ptr is not None:
            tl.store(self_certainty_ptr + i_row, self_certainty)
        if ref_logprob_ptr is not None:
            tl.store(kl_ptr + i_row, kl)
        tl.store(clipped_ptr + i_row, clipped.to(tl.int8))
        store_gradient(
            p_grad, p_row, 0, V, target, x_y, V, scale, m, log_s, n, complement, largest, c_rest * inv_temperature,
            g_y * inv_temperature, (c_plogp, 0.0, 0.0, 0.0, c_1), softcap, BLOCK, WIDE and WIDE_GRAD, SOFTCAP, True, E,
            U, False, False, None, SECOND_LOAD, STORE,
        )  # fmt: skip


@triton.jit
def grpo_kernel(
    grad_ptr, logits_ptr, offsets_ptr, grad_offsets_ptr, targets_ptr, temperature_ptr, advantage_ptr, weight_ptr,
    mean_weight_ptr, old_logprob_ptr, ref_logprob_ptr, loss_ptr, logprob_ptr, entropy_ptr, self_certainty_ptr, kl_ptr,
    clipped_ptr, stride, grad_stride, N, V, width, scale, softcap, num_chunks, low, high, delta, beta, entropy_coef,
    self_certainty_coef,
    LANES: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
    WIDE_GRAD: tl.constexpr, PADDED: tl.constexpr, SOFTCAP: tl.constexpr, SUMS: tl.constexpr, E: tl.constexpr,
    U: tl.constexpr, CORRECTED: tl.constexpr, UNROLL: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr,
    SECOND_LOAD: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """Statistics, loss and gradient of every `num_programs`-th row. E and U: entropy and self-certainty are part of the
    loss. PADDED: beyond the V columns there are others up to `width`, of gradient 0.
    """
    for i_row in range(tl.program_id(0), N, tl.num_programs(0)):
        _grpo_row(
            tl.cast(i_row, tl.int64), grad_ptr, logits_ptr, offsets_ptr, grad_offsets_ptr, targets_ptr, temperature_ptr,
            advantage_ptr, weight_ptr, mean_weight_ptr, old_logprob_ptr, ref_logprob_ptr, loss_ptr, logprob_ptr,
            entropy_ptr, self_certainty_ptr, kl_ptr, clipped_ptr, stride, grad_stride, V, width, scale, softcap,
            num_chunks, low, high, delta, beta, entropy_coef, self_certainty_coef, LANES, K, TILES, BLOCK, WIDE,
            WIDE_GRAD, PADDED, SOFTCAP, SUMS, E, U, CORRECTED, UNROLL, STAGES, LOAD, SECOND_LOAD, STORE,
        )  # fmt: skip


@triton.jit
def terms_kernel(
    targets_ptr, logprob_ptr, entropy_ptr, self_certainty_ptr, advantage_ptr, weight_ptr, mean_weight_ptr,
    old_logprob_ptr, ref_logprob_ptr, loss_ptr, kl_ptr, clipped_ptr, g_logprob_ptr, g_entropy_ptr, g_self_certainty_ptr,
    N, low, high, delta, beta, entropy_coef, self_certainty_coef, E: tl.constexpr, U: tl.constexpr,
    CORRECTED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The loss of ROWS rows from their statistics, and its derivative by each: what `grpo_kernel` does between its two
    looks, by the same operations."""
    o = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m_rows = o < N
    active = tl.load(targets_ptr + o, mask=m_rows, other=SKIPPED) != SKIPPED
    logprob = tl.load(logprob_ptr + o, mask=active, other=0.0)
    advantage = tl.load(advantage_ptr + o, mask=active, other=0.0)
    weight = tl.load(weight_ptr + o, mask=active, other=0.0)
    old_logprob, ref_logprob = logprob, logprob
    if old_logprob_ptr is not None:
        old_logprob = tl.load(old_logprob_ptr + o, mask=active, other=0.0)
    if ref_logprob_ptr is not None:
        ref_logprob = tl.load(ref_logprob_ptr + o, mask=active, other=0.0)
    loss, g_y, kl, clipped = _token_loss(
        logprob, old_logprob, ref_logprob, advantage, weight, low, high, delta, beta, old_logprob_ptr is not None,
        ref_logprob_ptr is not None, CORRECTED,
    )  # fmt: skip
    if E or U:
        mean_weight = tl.load(mean_weight_ptr + o, mask=active, other=0.0)
        if E:
            g_entropy = -entropy_coef * mean_weight
            loss = tl.fma(g_entropy, tl.load(entropy_ptr + o, mask=active, other=0.0), loss)
            tl.store(g_entropy_ptr + o, g_entropy, mask=m_rows)
        if U:
            g_self_certainty = -self_certainty_coef * mean_weight
            loss = tl.fma(g_self_certainty, tl.load(self_certainty_ptr + o, mask=active, other=0.0), loss)
            tl.store(g_self_certainty_ptr + o, g_self_certainty, mask=m_rows)
    tl.store(loss_ptr + o, tl.where(active, loss, 0.0), mask=m_rows)
    if ref_logprob_ptr is not None:
        tl.store(kl_ptr + o, kl, mask=m_rows)
    tl.store(clipped_ptr + o, clipped.to(tl.int8), mask=m_rows)
    tl.store(g_logprob_ptr + o, g_y, mask=m_rows)


@triton.jit
def scale_kernel(tensor_ptr, factor_ptr, n, BLOCK: tl.constexpr):
    """Multiply in place, unless the factor is 1: then nothing is read."""
    factor = tl.load(factor_ptr).to(tl.float32)
    if factor != 1.0:
        o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(tensor_ptr + o, mask=o < n)
        tl.store(tensor_ptr + o, (x.to(tl.float32) * factor).to(x.dtype), mask=o < n)
