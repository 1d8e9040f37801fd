"""Building blocks of the row kernels: addresses, loads of columns in pairs, sums in a fixed order, the softcap.

Names: i_ program index, o_ offsets, p_ pointer, m_ mask, b_ block in registers, l_ per-lane state.
"""

import triton
import triton.language as tl

from rlif_kernels.rows import STATE_ROWS as NUM_STATE_ROWS
from rlif_kernels.rows import RowState
from rlif_kernels.stats import IGNORE_INDEX

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
INFINITY = tl.constexpr(float("inf"))
SKIPPED = tl.constexpr(IGNORE_INDEX)
# Where the parts of the row state, which the forward leaves for the backward, stand in its tensor.
STATE_ROWS = tl.constexpr(NUM_STATE_ROWS)
STATE_M = tl.constexpr(RowState._fields.index("m"))
STATE_LOG_S = tl.constexpr(RowState._fields.index("log_s"))
STATE_N = tl.constexpr(RowState._fields.index("n"))
STATE_ENTROPY = tl.constexpr(RowState._fields.index("entropy"))
STATE_SUM_SQ_PROBS = tl.constexpr(RowState._fields.index("sum_sq_probs"))
STATE_COMPLEMENT = tl.constexpr(RowState._fields.index("complement"))


@triton.jit
def load_pairs(p_row, start, V, LANES: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, MASKED: tl.constexpr):
    """Load LANES * K columns from `start` as float32 (even columns, odd columns), each [LANES, K / 2].

    Lane i owns the K consecutive columns from ``start + i * K`` and one thread holds all of them. WIDE says that the
    address is a multiple of 16 bytes: then they come as one load. Otherwise they come one by one, each load strided
    over the lanes, because a [LANES, K] block of single elements would be spread over neighbouring threads. MASKED says
    that the block may reach past column V; the columns beyond come as -inf and are not read.
    """
    o_lane = tl.arange(0, LANES)
    if WIDE:
        p_start = tl.multiple_of(p_row + start, 16)
        if p_row.dtype.element_ty == tl.bfloat16:
            o_word = o_lane[:, None] * (K // 2) + tl.arange(0, K // 2)[None, :]
            if MASKED:
                # Element by element in the layout of the words below, so that no lane changes its thread.
                even = _load_column(p_row, start + o_word * 2, V, True)
                odd = _load_column(p_row, start + o_word * 2 + 1, V, True)
                return even.to(tl.float32), odd.to(tl.float32)
            # Two to a word: a bfloat16 is the upper half of a float32, so that each takes one instruction to unpack.
            words = tl.load(p_start.to(tl.pointer_type(tl.int32), bitcast=True) + o_word)
            return (words << 16).to(tl.float32, bitcast=True), (words & -65536).to(tl.float32, bitcast=True)
        o = o_lane[:, None] * K + tl.arange(0, K)[None, :]
        if MASKED:
            b = tl.load(p_start + o, mask=start + o < V, other=float("-inf"))
        else:
            b = tl.load(p_start + o)
        even, odd = tl.split(tl.reshape(b, (LANES, K // 2, 2)))
        return even.to(tl.float32), odd.to(tl.float32)
    o = start + o_lane * K
    even = tl.join(_load_column(p_row, o, V, MASKED), _load_column(p_row, o + 2, V, MASKED))
    odd = tl.join(_load_column(p_row, o + 1, V, MASKED), _load_column(p_row, o + 3, V, MASKED))
    if K == 8:
        even_high = tl.join(_load_column(p_row, o + 4, V, MASKED), _load_column(p_row, o + 6, V, MASKED))
        odd_high = tl.join(_load_column(p_row, o + 5, V, MASKED), _load_column(p_row, o + 7, V, MASKED))
        even, odd = _join_columns(even, even_high, LANES), _join_columns(odd, odd_high, LANES)
    return even.to(tl.float32), odd.to(tl.float32)


@triton.jit
def _load_column(p_row, o, V, MASKED: tl.constexpr):
    if MASKED:
        return tl.load(p_row + o, mask=o < V, other=float("-inf"))
    return tl.load(p_row + o)


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
def sum_lanes(l_value, LANES: tl.constexpr):
    """Sum [LANES] to a scalar as a balanced tree of halves: an order that no register layout can change."""
    b = l_value
    for i in tl.static_range(0, 10):
        if LANES >> i > 1:
            b = tl.sum(tl.reshape(b, (2, LANES >> (i + 1))), axis=0)
    return tl.sum(b, axis=0)


@triton.jit
def tanh(x):
    """tanh to about 2e-7 relative: an odd polynomial near 0, where the exponential form cancels.

    The coefficients are a weighted least-squares fit at Chebyshev nodes of tanh(x)/x in x² over |x| < 0.625.
    """
    x2 = x * x
    near = tl.fma(x2, -0.005652355030179024, 0.020583488047122955)
    near = tl.fma(x2, near, -0.053718484938144684)
    near = tl.fma(x2, near, 0.13331091403961182)
    near = tl.fma(x2, near, -0.3333325982093811)
    near = tl.fma(x2, near, 1.0) * x
    e = tl.exp2(tl.abs(x) * -2.8853900817779268)  # exp(-2|x|)
    # 1 / (1 + e) by way of rsqrt and one Newton step: half the instructions of a division, whose range is not needed.
    r = tl.rsqrt(1.0 + e)
    r = r * r
    r = r * tl.fma(-r, 1.0 + e, 2.0)
    far = (1.0 - e) * r
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0, -far, far))


@triton.jit
def cap(x, softcap):
    """softcap * tanh(x / softcap), which leaves infinities as they are: the row must know of them."""
    return tl.where(tl.abs(x) == INFINITY, x, softcap * tanh(x * (1.0 / softcap)))


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
