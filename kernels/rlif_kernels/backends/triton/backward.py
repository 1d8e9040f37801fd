"""The backward kernel of `token_stats`: one read of the logits, one write of their gradient, one exp2 an element.

The upstream gradients of all fields fold into the coefficients of one polynomial per row (`functional` has the table, H
is the entropy, q = sum p², v the varentropy):

    dx_j = p_j (c_p + c_plogp log p_j + c_pp p_j + c_uu u_j (u_j + 2)) - c_1 + c_y 1[j=y],     u_j = log p_j + H

    c_rest  = g_self_certainty + g_logsumexp - g_entropy H - 2 g_sum_sq_probs q - g_varentropy v
    c_plogp = -g_entropy        c_pp = 2 g_sum_sq_probs        c_1 = g_self_certainty / n        c_y = g_logprob
    c_uu    = g_varentropy      c_p  = c_rest - c_y

each divided by the temperature, and times 1 - tanh² where there is a softcap. There the main loop has the short form
of tanh, in a row without a logit that it does not serve: the forward has stored the largest.
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
    STATE_SUM_SQ_PROBS,
    STATE_VARENTROPY,
    cap,
    cap_derivative,
    cap_limit,
    row_pointer,
    row_scale,
    short_cap,
)

LOWEST_U = tl.constexpr(-1e15)


@triton.jit
def _gradient(
    x, scale, m, log2_s, c_p, terms, softcap, SOFTCAP: tl.constexpr, SMALL: tl.constexpr, E: tl.constexpr,
    U: tl.constexpr, Q: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """dx_j = p_j (c_p + c_plogp log2 p_j + c_pp p_j + c_uu u_j (u_j + 2)) - c_1, without the target's term: the body of
    the main loop.

    SMALL says that the short form of tanh serves.
    """
    c_plogp, c_pp, c_uu, entropy, c_1 = terms
    x_capped = x
    if SOFTCAP:
        if SMALL:
            x_capped = short_cap(x, softcap, SOFTCAP)
        else:
            x_capped = cap(x, softcap, SOFTCAP)
    # Two roundings relative to m, rather than one relative to m + log s: see the module's note on shifted logits.
    log2_p = tl.fma(x_capped, scale, -m) - log2_s
    p = tl.exp2(log2_p)
    gradient = tl.fma(p, c_p, -c_1) if U else p * c_p
    if E:
        # p log p first: the coefficient times a huge log p would overflow, and be NaN times p = 0.
        gradient = tl.fma(c_plogp, p * log2_p, gradient)
    if Q:
        gradient = tl.fma(c_pp, p * p, gradient)
    if S:
        gradient = tl.fma(p, _spread_term(log2_p, c_uu, entropy), gradient)
    if SOFTCAP:
        if SMALL:
            gradient *= cap_derivative(x_capped, softcap)
        else:
            gradient *= any_cap_derivative(x_capped, softcap)
    return gradient


@triton.jit
def _spread_term(log2_p, c_uu, entropy):
    """c_uu u (u + 2). So far down that p is 0, u is cut off: infinity times 0 would be NaN."""
    u = tl.maximum(tl.fma(log2_p, LN2, entropy), LOWEST_U)
    return u * tl.fma(c_uu, u, 2.0 * c_uu)


@triton.jit
def any_cap_derivative(x_capped, softcap):
    return tl.where(tl.abs(x_capped) == INFINITY, 1.0, cap_derivative(x_capped, softcap))


@triton.jit
def _exact_gradient(
    x, inv_temperature, m, log_s, c_p, terms, softcap, SOFTCAP: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """`_gradient` with a guard on everything, m a logit: for the rows that `_exact_row` did."""
    c_plogp, c_pp, c_uu, entropy, c_1 = terms
    inside = x != -INFINITY
    x_capped = x
    if SOFTCAP:
        x_capped = cap(x, softcap, SOFTCAP)
    log2_p = tl.where(inside, (x_capped - m) * inv_temperature - log_s, 0.0) * LOG2E
    p = tl.exp2(log2_p)
    # log p may be as low as the lowest float32; its product with p is 0 there, not NaN.
    gradient = p * (c_p + c_pp * p) + tl.where(p > 0, p * log2_p, 0.0) * c_plogp - c_1
    if S:
        gradient += p * _spread_term(log2_p, c_uu, entropy)
    gradient = tl.where(p == p, gradient, float("nan"))
    if SOFTCAP:
        gradient *= any_cap_derivative(x_capped, softcap)
    return tl.where(inside, gradient, 0.0)


@triton.jit
def store_zeros(p_grad, first, last, SMALL: tl.constexpr):
    """The gradient of a masked row, or of the columns that pad it: columns [first, last)."""
    o = tl.arange(0, SMALL)
    zero = tl.zeros((SMALL,), p_grad.dtype.element_ty)
    for start in range(first, last, SMALL):
        tl.store(p_grad + start + o, zero, mask=start + o < last)


@triton.jit
def _store_blocks(
    p_grad, p_row, first, last, V, scale, m, log2_s, c_p, terms, softcap,
    BLOCK: tl.constexpr, WIDE: tl.constexpr, SOFTCAP: tl.constexpr, SMALL: tl.constexpr, E: tl.constexpr,
    U: tl.constexpr, Q: tl.constexpr, S: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """`_gradient` of the columns [first, last): the main loop, and what is left of it."""
    o = tl.arange(0, BLOCK)
    # Whatever needs a mask goes in smaller blocks: its predicates would take the registers of the main loop.
    PART: tl.constexpr = BLOCK // 8
    o_part = tl.arange(0, PART)
    whole = last // BLOCK * BLOCK
    for start in tl.range(first, whole, BLOCK, num_stages=STAGES):
        if WIDE:
            p_in = tl.multiple_of(p_row + start, 16) + o
            p_out = tl.multiple_of(p_grad + start, 16) + o
        else:
            p_in = p_row + start + o
            p_out = p_grad + start + o
        x = tl.load(p_in, eviction_policy=LOAD).to(tl.float32)
        g = _gradient(x, scale, m, log2_s, c_p, terms, softcap, SOFTCAP, SMALL, E, U, Q, S)
        tl.store(p_out, g.to(p_grad.dtype.element_ty), eviction_policy=STORE)
    for start in range(whole, last, PART):
        m_row = start + o_part < V
        x = tl.load(p_row + start + o_part, mask=m_row, other=0.0).to(tl.float32)
        g = _gradient(x, scale, m, log2_s, c_p, terms, softcap, SOFTCAP, SMALL, E, U, Q, S)
        tl.store(p_grad + start + o_part, g.to(p_grad.dtype.element_ty), mask=m_row)


@triton.jit
def store_gradient(
    p_grad, p_row, first, last, target, x_y, V, scale, m, log_s, n, complement, largest, c_rest, c_y, terms, softcap,
    BLOCK: tl.constexpr, WIDE: tl.constexpr, SOFTCAP: tl.constexpr, Y: tl.constexpr, E: tl.constexpr, U: tl.constexpr,
    Q: tl.constexpr, S: tl.constexpr, STAGES: tl.constexpr, LOAD: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """The gradient of the columns [first, last) of a row, in terms of the polynomial above; c_plogp goes with log2 p.

    In place the loop overwrites the target's logit: where there is a term of the target's own (Y), every thread has
    `x_y` before any thread stores.
    """
    inv_temperature = scale * LN2
    log2_s = log_s * LOG2E
    c_p = c_rest - c_y
    PART: tl.constexpr = BLOCK // 8
    o_part = tl.arange(0, PART)
    if Y:
        tl.debug_barrier()
    if n < 0:
        for start in range(first, last, PART):
            m_row = start + o_part < V
            x = tl.load(p_row + start + o_part, mask=m_row, other=-INFINITY).to(tl.float32)
            g = _exact_gradient(x, inv_temperature, m, log_s, c_p, terms, softcap, SOFTCAP, S)
            tl.store(p_grad + start + o_part, g.to(p_grad.dtype.element_ty), mask=m_row)
    elif SOFTCAP != SHORT:
        _store_blocks(
            p_grad, p_row, first, last, V, scale, m, log2_s, c_p, terms, softcap, BLOCK, WIDE, SOFTCAP, False, E,
            U, Q, S, STAGES, LOAD, STORE,
        )  # fmt: skip
    elif largest < cap_limit(softcap):
        _store_blocks(
            p_grad, p_row, first, last, V, scale, m, log2_s, c_p, terms, softcap, BLOCK, WIDE, SOFTCAP, True, E,
            U, Q, S, STAGES, LOAD, STORE,
        )  # fmt: skip
    else:
        _store_blocks(
            p_grad, p_row, first, last, V, scale, m, log2_s, c_p, terms, softcap, BLOCK, WIDE, SOFTCAP, False, E,
            U, Q, S, STAGES, LOAD, STORE,
        )  # fmt: skip
    if Y:
        # The target's own term, outside the loop: there a comparison and a selection would cost each element. It is
        # c_y (1 - p_y), with what the loop has of c_y left out, because the difference of the two would cancel.
        if (target >= first) & (target < last):
            if n < 0:
                g = _exact_gradient(x_y, inv_temperature, m, log_s, c_rest, terms, softcap, SOFTCAP, S)
            else:
                g = _gradient(x_y, scale, m, log2_s, c_rest, terms, softcap, SOFTCAP, False, E, U, Q, S)
            c_y *= complement
            if SOFTCAP:
                c_y *= any_cap_derivative(cap(x_y, softcap, SOFTCAP), softcap)
            g += tl.where(x_y == -INFINITY, 0.0, c_y)
            tl.debug_barrier()
            tl.store(p_grad + target, g.to(p_grad.dtype.element_ty))


@triton.jit
def backward_kernel(
    grad_ptr, logits_ptr, offsets_ptr, targets_ptr, temperature_ptr, g_logprob_ptr, g_entropy_ptr,
    g_self_certainty_ptr, g_logsumexp_ptr, g_sum_sq_probs_ptr, g_varentropy_ptr, state_ptr, grad_offsets_ptr, stride,
    grad_stride, N, V, width, scale, softcap, num_chunks,
    BLOCK: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr, PADDED: tl.constexpr, SOFTCAP: tl.constexpr,
    STAGES: tl.constexpr, LOAD: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """One program does one chunk of one row. Elementwise, so the split changes no bit. PADDED: beyond the V columns
    there are others up to `width`, whose gradient is 0.
    """
    i_row = (tl.program_id(0) // num_chunks).to(tl.int64)
    i_chunk = tl.program_id(0) % num_chunks
    p_row = row_pointer(logits_ptr, offsets_ptr, stride, i_row)
    p_grad = row_pointer(grad_ptr, grad_offsets_ptr, grad_stride, i_row)
    target = tl.load(targets_ptr + i_row)
    first = i_chunk * (TILES * BLOCK)
    last = tl.minimum(first + TILES * BLOCK, V)
    if PADDED:
        if i_chunk == num_chunks - 1:
            store_zeros(p_grad, V, width, BLOCK // 8)
    if target == SKIPPED:
        store_zeros(p_grad, first, last, BLOCK // 8)
    else:
        if temperature_ptr is not None:
            scale = row_scale(temperature_ptr, i_row)
        inv_temperature = scale * LN2
        m = tl.load(state_ptr + STATE_M * N + i_row)
        log_s = tl.load(state_ptr + STATE_LOG_S * N + i_row)
        n = tl.load(state_ptr + STATE_N * N + i_row)
        # The upstream gradients folded into the coefficients of one polynomial in p and log p, temperature included.
        valid = (target >= 0) & (target < V)
        c_y, c_plogp, c_pp, c_uu, entropy, c_1, x_y = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        complement = tl.load(state_ptr + STATE_COMPLEMENT * N + i_row)
        largest = 0.0
        if SOFTCAP == SHORT:
            largest = tl.load(state_ptr + STATE_LARGEST * N + i_row)
        c_rest = tl.where(valid, 0.0, float("nan"))
        if g_logprob_ptr is not None:
            c_y = tl.load(g_logprob_ptr + i_row) * inv_temperature
            x_y = tl.load(p_row + target, mask=valid, other=float("nan")).to(tl.float32)
        if g_entropy_ptr is not None:
            g_entropy = tl.load(g_entropy_ptr + i_row)
            c_rest -= g_entropy * tl.load(state_ptr + STATE_ENTROPY * N + i_row)
            c_plogp = -g_entropy * LN2 * inv_temperature
        if g_self_certainty_ptr is not None:
            g_self_certainty = tl.load(g_self_certainty_ptr + i_row)
            c_rest += g_self_certainty
            c_1 = g_self_certainty / tl.abs(n) * inv_temperature
        if g_logsumexp_ptr is not None:
            c_rest += tl.load(g_logsumexp_ptr + i_row)
        if g_sum_sq_probs_ptr is not None:
            g_sum_sq_probs = 2.0 * tl.load(g_sum_sq_probs_ptr + i_row)
            c_rest -= g_sum_sq_probs * tl.load(state_ptr + STATE_SUM_SQ_PROBS * N + i_row)
            c_pp = g_sum_sq_probs * inv_temperature
        if g_varentropy_ptr is not None:
            g_varentropy = tl.load(g_varentropy_ptr + i_row)
            c_rest -= g_varentropy * tl.load(state_ptr + STATE_VARENTROPY * N + i_row)
            c_uu = g_varentropy * inv_temperature
            entropy = tl.load(state_ptr + STATE_ENTROPY * N + i_row)
        c_rest *= inv_temperature
        Y: tl.constexpr = g_logprob_ptr is not None
        E: tl.constexpr = g_entropy_ptr is not None
        U: tl.constexpr = g_self_certainty_ptr is not None
        Q: tl.constexpr = g_sum_sq_probs_ptr is not None
        S: tl.constexpr = g_varentropy_ptr is not None
        store_gradient(
            p_grad, p_row, first, last, target, x_y, V, scale, m, log_s, n, complement, largest, c_rest, c_y,
            (c_plogp, c_pp, c_uu, entropy, c_1), softcap, BLOCK, WIDE, SOFTCAP, Y, E, U, Q, S, STAGES, LOAD, STORE,
        )  # fmt: skip
