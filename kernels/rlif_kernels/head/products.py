"""The products of a head, each exact until it is rounded once, by what is fastest for them on the device.

Half-precision factors are multiplied in two ways: into a matrix of their own dtype (`multiply`), or into float32
(`multiply_in_float32`, `add_product`), where products of many tiles add up without a rounding between them.

| device | to half precision | to float32 |
| --- | --- | --- |
| CUDA | torch.mm | torch.mm with out_dtype |
| x86 with AVX-512 | torch.mm; MKL (below) | bfloat16 where the processor multiplies it: MKL; else in blocks |
| other x86 | float32 in blocks | float32 in blocks |
| any other | torch.mm | float32 in blocks |

torch has no `out_dtype` on a CPU (2.13). Its builds for x86 carry MKL, whose gemm_bf16bf16f32 is such a product at the
speed of bfloat16; where a build has none, or where it fails a check, blocks serve. In blocks means that the longest of
the three dimensions is cast to float32 and multiplied piece by piece, a piece and its product taking 2 MiB; the factor
that lacks this dimension is cast as a whole. Without AVX-512 torch multiplies half precision without vectors, 6 to 90
times slower than float32.

Long sums go to MKL, whose float32 is rounded block by block, where torch.mm is slow at them: where thousands of rows
add up to the gradient of a weight it turns the left factor over first, which MKL reads as it is; and where a whole
vocabulary adds up to a few hundred rows of gradients of hidden states it takes 1.8 times as long. Wide products are
made in stripes of columns, whose part of the weight stays in the cache.
"""

import ctypes
import functools
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

# Before 2.12 torch has products of half-precision matrices in float32, but does not add them to a float32 matrix: there
# a block of rows of the product comes first, 128 MiB at H = 4096.
ADDS_TO_FLOAT32 = torch.torch_version.TorchVersion(torch.__version__) >= "2.12"
ADD_BLOCK = 8192
# Of a piece that is cast, with its product; and the fewest rows or columns of one.
CAST_BYTES, CAST_ROWS = 2 << 20, 64
# Terms of a sum from which on MKL is faster than torch.mm, and the bytes of its float32 that wait to be rounded.
LONG_SUM, SUM_BYTES = 2048, 2 << 20
# Elements of the product, between which it is so for a left factor that need not be turned over.
FEW_SUMS, MANY_SUMS = 1 << 18, 1 << 19
# Columns of a stripe of half precision.
STRIPE = 8192
# Elements: 4 MiB of half precision beside the tile, and few launches on a GPU.
NARROW_BLOCK = 1 << 21


def multiply(left: Tensor, right: Tensor, out: Tensor, bias: Tensor | None = None) -> Tensor:
    """``left @ right + bias``, (n, m) of the factors' dtype, rounded once. `bias` is (m,) or None."""
    if bias is None and _suits_mkl(left, right) and (mkl := _mkl_for(left)) is not None:
        return _multiply_by_mkl(mkl, left, right, out)
    if left.dtype == torch.float32 or not _multiplies_in_blocks(left.device.type):
        for stripe in _stripes(left, right):
            if bias is None:
                torch.mm(left, right[:, stripe], out=out[:, stripe])
            else:
                torch.addmm(bias[stripe], left, right[:, stripe], out=out[:, stripe])
        return out
    if _longest(left, right) == "inner":
        total = left.new_zeros(out.shape, dtype=torch.float32)
        if bias is not None:
            total += bias
        return out.copy_(add_product(total, left, right))
    for (rows, columns), left_block, right_block in _blocks(left, right):
        product = left_block @ right_block
        out[rows, columns] = product if bias is None else product.add_(bias[columns])
    return out


def multiply_in_float32(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """``left @ right``, (n, m) float32, of half-precision factors."""
    if _has_out_dtype(left):
        return torch.mm(left, right, out_dtype=torch.float32, out=out)
    if out is None:  # memory that the system hands out anew is 0 already
        out = left.new_zeros((len(left), right.shape[1]), dtype=torch.float32)
    else:
        out.zero_()
    return add_product(out, left, right)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``total + left @ right`` in place; `total` is float32, the factors of any dtype of the ops."""
    if left.dtype == torch.float32:
        return total.addmm_(left, right)
    if _has_out_dtype(left):
        if ADDS_TO_FLOAT32:
            return torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
        for start in range(0, len(left), ADD_BLOCK):
            block = slice(start, start + ADD_BLOCK)
            total[block] += torch.mm(left[block], right, out_dtype=torch.float32)
        return total
    if (mkl := _mkl_for(left)) is not None:
        _add_by_mkl(mkl, total, left, right)
        return total
    for where, left_block, right_block in _blocks(left, right):
        total[where].addmm_(left_block, right_block)
    return total


def adds_at_full_speed(like: Tensor) -> bool:
    """Whether `add_product` of such matrices takes no longer than `multiply`."""
    if like.dtype == torch.float32 or _has_out_dtype(like) or _multiplies_in_blocks(like.device.type):
        return True
    return _mkl_for(like) is not None


def narrow_(tile: Tensor, dtype: torch.dtype) -> Tensor:
    """Round a contiguous float32 matrix to half precision, in the first half of its own memory, which it destroys.

    Block by block: what a block overwrites has been read by then, in an earlier block or in this one.
    """
    wide = tile.view(-1)
    narrow = wide.view(dtype)[: len(wide)]
    for start in range(0, len(wide), NARROW_BLOCK):
        block = slice(start, start + NARROW_BLOCK)
        narrow[block] = wide[block].to(dtype)
    return narrow.view(tile.shape)


def _suits_mkl(left: Tensor, right: Tensor) -> bool:
    """Whether MKL is faster than torch.mm, where there is one of bfloat16."""
    products = len(left) * right.shape[1]
    return len(right) >= LONG_SUM and (left.stride(0) == 1 or FEW_SUMS <= products <= MANY_SUMS)


def _stripes(left: Tensor, right: Tensor) -> list[slice]:
    """The columns of a product in half precision on a CPU, in stripes; elsewhere all at once."""
    columns = right.shape[1]
    if left.dtype == torch.float32 or left.device.type != "cpu":
        return [slice(0, columns)]
    return [slice(start, start + STRIPE) for start in range(0, columns, STRIPE)] or [slice(0, 0)]


def _has_out_dtype(like: Tensor) -> bool:
    return like.device.type == "cuda" and torch.version.hip is None


# ---------------------------------------------------------------- float32 in blocks


@functools.cache
def _multiplies_in_blocks(device: str) -> bool:
    """Whether float32 is faster than half precision: on x86 without AVX-512."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return device == "cpu" and x86 and torch.backends.cpu.get_cpu_capability() != "AVX512"


def _longest(left: Tensor, right: Tensor) -> str:
    sizes = {"inner": len(right), "rows": len(left), "columns": right.shape[1]}
    return max(sizes, key=lambda name: sizes[name])


def _blocks(left: Tensor, right: Tensor) -> Iterator[tuple[tuple[slice, slice], Tensor, Tensor]]:
    """Where in the product each pair of float32 factors belongs; over the inner dimension the pairs add up there."""
    longest, everything = _longest(left, right), slice(None)
    whole_left = left.float() if longest == "columns" else left
    whole_right = right.float() if longest == "rows" else right
    *others, total = sorted((*left.shape, right.shape[1]))
    size = max(CAST_ROWS, CAST_BYTES // (4 * max(1, sum(others))))
    for start in range(0, total, size):
        block = slice(start, start + size)
        if longest == "columns":
            yield (everything, block), whole_left, right[:, block].float()
        elif longest == "rows":
            yield (block, everything), left[block].float(), whole_right
        else:
            yield (everything, everything), left[:, block].float(), right[block].float()


# ---------------------------------------------------------------- MKL

_ROW_MAJOR, _AS_IT_IS, _TRANSPOSED = 101, 111, 112  # of cblas.h


def _mkl_for(factor: Tensor) -> Callable[..., None] | None:
    return _mkl() if factor.dtype == torch.bfloat16 and factor.device.type == "cpu" else None


def multiplies_bfloat16() -> bool:
    """Tell whether this processor has instructions for products of bfloat16; without them torch uses no vectors."""
    supported: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return supported()


@functools.cache
def _mkl() -> Callable[..., None] | None:
    """cblas_gemm_bf16bf16f32 of the MKL in torch, where the processor has instructions for it; None without."""
    if sys.platform != "linux" or torch.backends.cpu.get_cpu_capability() != "AVX512" or not multiplies_bfloat16():
        return None
    try:
        gemm = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).cblas_gemm_bf16bf16f32
    except (OSError, AttributeError):
        return None
    gemm.restype = None
    # MKL's integers are of 32 or 64 bits, by the build: numbers that fit 32 are read right as either.
    integer, number, pointer = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    gemm.argtypes = (
        *(ctypes.c_int,) * 3, *(integer,) * 3, number, pointer, integer, pointer, integer, number, pointer, integer,
    )  # fmt: skip
    # Small integers, whose products are exact: a function of that name with other arguments is not to be trusted.
    left = torch.arange(35, dtype=torch.bfloat16).view(5, 7)
    right = torch.arange(28, dtype=torch.bfloat16).view(4, 7).T
    total = torch.ones(5, 4)
    _add_by_mkl(gemm, total, left, right)
    return gemm if torch.equal(total, 1 + left.float() @ right.float()) else None


def _multiply_by_mkl(gemm: Callable[..., None], left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """``left @ right`` in blocks of rows, each rounded from float32 while it is in the cache."""
    size = max(CAST_ROWS, SUM_BYTES // (4 * max(1, right.shape[1])))
    buffer = right.new_empty((min(size, len(left)), right.shape[1]), dtype=torch.float32)
    for start in range(0, len(left), size):
        block = left[start : start + size]
        product = buffer[: len(block)].zero_()
        _add_by_mkl(gemm, product, block, right)
        out[start : start + size] = product
    return out


def _add_by_mkl(gemm: Callable[..., None], total: Tensor, left: Tensor, right: Tensor) -> None:
    (num_rows, inner), num_columns = left.shape, right.shape[1]
    if 0 in (num_rows, inner, num_columns):
        return
    left, left_order, left_step = _as_blas_has_it(left)
    right, right_order, right_step = _as_blas_has_it(right)
    # Added to what is there, also where that is 0: with 0 for the second factor MKL takes twice as long.
    gemm(
        _ROW_MAJOR, left_order, right_order, num_rows, num_columns, inner,
        1.0, left.data_ptr(), left_step, right.data_ptr(), right_step,
        1.0, total.data_ptr(), max(total.stride(0), num_columns),
    )  # fmt: skip


def _as_blas_has_it(matrix: Tensor) -> tuple[Tensor, int, int]:
    """The matrix, copied if its strides ask for it; the order of its elements; the step from row (column) to row."""
    for order, (height, width), (step, each) in (
        (_AS_IT_IS, matrix.shape, matrix.stride()),
        (_TRANSPOSED, matrix.shape[::-1], matrix.stride()[::-1]),
    ):
        if (each == 1 or width == 1) and (step >= width or height == 1):
            return matrix, order, max(step, width)
    return matrix.contiguous(), _AS_IT_IS, matrix.shape[1]
