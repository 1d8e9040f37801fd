"""Building blocks of the row kernels: addresses, loads of columns in pairs, sums in a fixed order, the softcap.

Names: i_ program index, o_ offsets, p_ pointer, m_ mask, b_ block in registers, l_ per-lane state.
"""

import triton
import triton.language as tl

from rlif_kernels.backends.triton.launches import DESCRIPTOR as BY_DESCRIPTOR
from rlif_kernels.rows import STATE_ROWS as NUM_STATE_ROWS
from rlif_kernels.rows import RowState
from rlif_kernels.stats import IGNORE_INDEX

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
INFINITY = tl.constexpr(float("inf"))
SKIPPED = tl.constexpr(IGNORE_INDEX)
# How a kernel is told of the softcap: 0 none, SHORT a loop with the short form of tanh where that serves, GUARDED the
# form that serves everywhere.
SHORT = tl.constexpr(1)
GUARDED = tl.constexpr(2)
# How a kernel is told to load by tensor descriptors, in the place of an eviction hint.
DESCRIPTOR = tl.constexpr(BY_DESCRIPTOR)
# tanh(u) = u + u³ (TANH_3 + TANH_5 u² + ...) to 7e-8 where |u| < CAP_LIMIT: least squares at Chebyshev nodes,
# weighted anew until the largest relative errors are equal. One coefficient more would serve up to 1.0.
CAP_LIMIT = tl.constexpr(0.8)
TANH_3 = tl.constexpr(-0.3333286643028259)
TANH_5 = tl.constexpr(0.1332276463508606)
TANH_7 = tl.constexpr(-0.05317626893520355)
TANH_9 = tl.constexpr(0.019190680235624313)
TANH_11 = tl.constexpr(-0.004410834517329931)
# Where the parts of the row state, which the forward leaves for the backward, stand in its tensor.
STATE_ROWS = tl.constexpr(NUM_STATE_ROWS)
STATE_M = tl.constexpr(RowState._fields.index("m"))
STATE_LOG_S = tl.constexpr(RowState._fields.index("log_s"))
STATE_N = tl.constexpr(RowState._fields.index("n"))
STATE_ENTROPY = tl.constexpr(RowState._fields.index("entropy"))
STATE_SUM_SQ_PROBS = tl.constexpr(RowState._fields.index("sum_sq_probs"))
STATE_COMPLEMENT = tl.constexpr(RowState._fields.index("complement"))
STATE_LARGEST = tl.constexpr(RowState._fields.index("largest"))
STATE_VARENTROPY = tl.constexpr(RowState._fields.index("varentropy"))


@triton.jit
def load_pairs(
    p_row, start, V, LANES: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, MASKED: tl.constexpr, LOAD: tl.constexpr
):
    """Load LANES * K columns from `start` as float32 (even columns, odd columns), each [LANES, K / 2].

    Lane i owns the K consecutive columns from ``start + i * K`` and one thread holds all of them. WIDE says that the
    address is a multiple of 16 bytes: then they come as one load. Otherwise they come one by one, each load strided
    over the lanes, because a [LANES, K] block of single elements would be spread over neighbouring threads. MASKED says
    that the block may reach past column V; the columns beyond come as -inf and are not read. LOAD is an eviction hint.
    """
    o_lane = tl.arange(0, LANES)
    if WIDE:
        p_start = tl.multiple_of(p_row + start, 16)
        if p_row.dtype.element_ty == tl.bfloat16:
            o_word = o_lane[:, None] * (K // 2) + tl.arange(0, K // 2)[None, :]
            if MASKED:
                # Element by element in the layout of the words below, so that no lane changes its thread.
                even = _load_column(p_row, start + o_word * 2, V, True, LOAD)
                odd = _load_column(p_row, start + o_word * 2 + 1, V, True, LOAD)
                return even.to(tl.float32), odd.to(tl.float32)
            # Two to a word: a bfloat16 is the upper half of a float32, so that each takes one instruction to unpack.
            p_word = p_start.to(tl.pointer_type(tl.int32), bitcast=True) + o_word
            words = tl.load(p_word, eviction_policy=LOAD)
            return (words << 16).to(tl.float32, bitcast=True), (words & -65536).to(tl.float32, bitcast=True)
        return load_block_pairs(p_start, start, V, LANES, K, MASKED, LOAD)
    o = start + o_lane * K
    even = tl.join(_load_column(p_row, o, V, MASKED, LOAD), _load_column(p_row, o + 2, V, MASKED, LOAD))
    odd = tl.join(_load_column(p_row, o + 1, V, MASKED, LOAD), _load_column(p_row, o + 3, V, MASKED, LOAD))
    if K == 8:
        even_high = tl.join(_load_column(p_row, o + 4, V, MASKED, LOAD), _load_column(p_row, o + 6, V, MASKED, LOAD))
        odd_high = tl.join(_load_column(p_row, o + 5, V, MASKED, LOAD), _load_column(p_row, o + 7, V, MASKED, LOAD))
        even, odd = _join_columns(even, even_high, LANES), _join_columns(odd, odd_high, LANES)
    return even.to(tl.float32), odd.to(tl.float32)


@triton.jit
def load_block_pairs(p_start, start, V, LANES: tl.constexpr, K: tl.constexpr, MASKED: tl.constexpr, LOAD: tl.constexpr):
    """`load_pairs` from an address that is a multiple of 16 bytes, of any dtype."""
    o = tl.arange(0, LANES)[:, None] * K + tl.arange(0, K)[None, :]
    if MASKED:
        b = tl.load(p_start + o, mask=start + o < V, other=float("-inf"), eviction_policy=LOAD)
    else:
        b = tl.load(p_start + o, eviction_policy=LOAD)
    even, odd = tl.split(tl.reshape(b, (LANES, K // 2, 2)))
    return even.to(tl.float32), odd.to(tl.float32)


@triton.jit
def describe_row(p_row, V, LANES: tl.constexpr, K: tl.constexpr):
    """A tensor descriptor of a row that starts on 16 bytes, in blocks of LANES * K columns, bfloat16 two to a word."""
    if p_row.dtype.element_ty == tl.bfloat16:
        p_words = p_row.to(tl.pointer_type(tl.int32), bitcast=True)
        row = tl.make_tensor_descriptor(p_words, shape=[V // 2], strides=[1], block_shape=[LANES * K // 2])
    else:
        row = tl.make_tensor_descriptor(p_row, shape=[V], strides=[1], block_shape=[LANES * K])
    return row


@triton.jit
def load_described_pairs(p_row, row, start, LANES: tl.constexpr, K: tl.constexpr):
    """`load_pairs` of a whole block by the row's descriptor: copied by hardware (TMA) into shared memory, from there as
    a load of 16 bytes would come."""
    if p_row.dtype.element_ty == tl.bfloat16:
        words = tl.reshape(row.load([start // 2]), (LANES, K // 2))
        even, odd = (words << 16).to(tl.float32, bitcast=True), (words & -65536).to(tl.float32, bitcast=True)
    else:
        even, odd = tl.split(tl.reshape(row.load([start]), (LANES, K // 2, 2)))
    return even.to(tl.float32), odd.to(tl.float32)


@triton.jit
def _load_column(p_row, o, V, MASKED: tl.constexpr, LOAD: tl.constexpr):
    if MASKED:
        return tl.load(p_row + o, mask=o < V, other=float("-inf"), eviction_policy=LOAD)
    return tl.load(p_row + o, eviction_policy=LOAD)


@triton.jit
def _join_columns(low, high, LANES: tl.constexpr):
    """Concatenate [LANES, 2] and [LANES, 2] into [LANES, 4]."""
    return tl.reshape(tl.permute(tl.join(low, high), (0, 2, 1)), (LANES, 4))


@triton.jit
def pairs_inside(start, V, LANES: tl.constexpr, K: tl.constexpr):
    """Which of the even and of the odd columns of `load_pairs` lie before column V: two masks [LANES, K / 2]."""
    o_even = start + tl.arange(0, LANES)[:, None] * K + tl.arange(0, K // 2)[None, :] * 2
    return o_even < V, o_even + 1 < V


@triton.jit
def sum_pairs(b, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum [ROWS, COLUMNS] over its columns as a balanced tree: an order that no register layout can change."""
    for i in tl.static_range(0, 10):
        if COLUMNS >> i > 1:
            b = tl.sum(tl.reshape(b, (ROWS, COLUMNS >> (i + 1), 2)), axis=2)
    return tl.reshape(b, (ROWS,))


@triton.jit
def add_products(total, x, y, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Add x y, [ROWS, COLUMNS] with two or four columns, to `total`, [ROWS]: one column after the other, in one fused
    multiply-add each, where `sum_pairs` would take a product and a sum."""
    if COLUMNS > 2:
        x_even, x_odd = tl.split(tl.reshape(x, (ROWS, 2, 2)))
        y_even, y_odd = tl.split(tl.reshape(y, (ROWS, 2, 2)))
        x0, x1 = tl.split(x_even)
        y0, y1 = tl.split(y_even)
        total = tl.fma(x1, y1, tl.fma(x0, y0, total))
    else:
        x_odd, y_odd = x, y
    x0, x1 = tl.split(x_odd)
    y0, y1 = tl.split(y_odd)
    return tl.fma(x1, y1, tl.fma(x0, y0, total))


@triton.jit
def sum_lanes(l_value, LANES: tl.constexpr):
    """Sum [LANES] to a scalar as a balanced tree of halves: an order that no register layout can change."""
    b = l_value
    for i in tl.static_range(0, 10):
        if LANES >> i > 1:
            b = tl.sum(tl.reshape(b, (2, LANES >> (i + 1))), axis=0)
    return tl.sum(b, axis=0)


@triton.jit
def cap_limit(softcap):
    """The logits of which `short_cap` serves those that are smaller in magnitude."""
    return softcap * CAP_LIMIT


@triton.jit
def short_cap(x, softcap, SOFTCAP: tl.constexpr):
    """softcap * tanh(x / softcap) where |x| < cap_limit(softcap), in seven instructions."""
    r = 1.0 / softcap
    r2 = r * r
    if SOFTCAP == SHORT:
        # x² (k / softcap²) in place of (x / softcap)² k: the coefficients take the division out of the loop.
        x2, s1, s2, s3, s4, s5 = x * x, r2, r2 * r2, r2 * r2 * r2, (r2 * r2) * (r2 * r2), (r2 * r2) * (r2 * r2) * r2
    else:  # where softcap^-10 is no float32
        x2, s1, s2, s3, s4, s5 = (x * r) * (x * r), 1.0, 1.0, 1.0, 1.0, 1.0
    p = tl.fma(x2, s5 * TANH_11.value, s4 * TANH_9.value)
    p = tl.fma(x2, p, s3 * TANH_7.value)
    p = tl.fma(x2, p, s2 * TANH_5.value)
    p = tl.fma(x2, p, s1 * TANH_3.value)
    return x * tl.fma(x2, p, 1.0)


@triton.jit
def cap(x, softcap, SOFTCAP: tl.constexpr):
    """softcap * tanh(x / softcap) to 2e-7, but infinities as they are: the row must know of them.

    Small logits get the bits of `short_cap`. Of others the exponential form does not cancel.
    """
    e = tl.exp2(tl.abs(x) * (-2.8853900817779268 * (1.0 / softcap)))  # exp(-2|x / softcap|)
    # 1 / (1 + e) by way of rsqrt and one Newton step: half the instructions of a division, whose range is not needed.
    r = tl.rsqrt(1.0 + e)
    r = r * r
    r = r * tl.fma(-r, 1.0 + e, 2.0)
    far = (1.0 - e) * r * softcap
    small = tl.abs(x) < cap_limit(softcap)
    capped = tl.where(small, short_cap(x, softcap, SOFTCAP), tl.where(x < 0, -far, far))
    return tl.where(tl.abs(x) == INFINITY, x, capped)


@triton.jit
def cap_derivative(x_capped, softcap):
    """1 - tanh², of finite logits."""
    ratio = x_capped * (1.0 / softcap)
    return tl.fma(-ratio, ratio, 1.0)


@triton.jit
def row_pointer(logits_ptr, offsets_ptr, stride, i_row):
    # Rows whose leading strides do not collapse into one come with a table of offsets. All arithmetic is 64-bit.
    if offsets_ptr is not None:
        return logits_ptr + tl.load(offsets_ptr + i_row)
    return logits_ptr + i_row * stride


@triton.jit
def row_scale(temperature_ptr, i_row):
    temperature = tl.load(temperature_ptr + i_row)
    return tl.where(temperature > 0, LOG2E / temperature, float("nan"))
