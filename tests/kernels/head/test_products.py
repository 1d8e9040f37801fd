"""The products of half-precision matrices are exact until one rounding, by each way that a device may take."""

import pytest
import torch

from rlif_kernels.head import products

SIZES = [(3, 2050, 5), (1030, 7, 4), (3, 7, 1030), (1, 1, 1), (5, 1, 3), (1, 9, 1), (0, 3, 2), (2, 3, 0)]


@pytest.fixture(params=["as it is", "without MKL", "without AVX-512"])
def way(request, monkeypatch):
    """Of multiplying: this machine's own, and those of others, whose code runs here too."""
    if request.param != "as it is":
        monkeypatch.setattr(products, "_mkl", lambda: None)
    if request.param == "without AVX-512":
        monkeypatch.setattr(products, "_multiplies_in_blocks", lambda device: device == "cpu")
    return request.param


def factors(sizes, dtype, between):
    """Integers, whose products and sums are exact in float32 in any order; as views of every kind of strides.

    `between` is what lies between the elements of a view, and has to be none of the product's business.
    """
    num_rows, inner, num_columns = sizes

    def views(height, width):
        values = torch.randint(-8, 9, (height, width))
        yield values.to(dtype)
        yield values.T.contiguous().to(dtype).T
        wide = torch.full((height, 2 * width + 1), between, dtype=dtype)
        wide[:, :width] = values
        yield wide[:, :width]
        wide[:, : 2 * width : 2] = values
        yield wide[:, : 2 * width : 2]
        yield values[:1].to(dtype).expand(height, width)

    for left in views(num_rows, inner):
        for right in views(inner, num_columns):
            yield left, right


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_to_float32_are_exact_whatever_the_strides(sizes, dtype, way):
    for left, right in factors(sizes, dtype, between=torch.nan):
        exact = (left.double() @ right.double()).float()
        total = torch.full((len(left), right.shape[1] + 2), torch.nan)[:, 1:-1]
        assert torch.equal(products.multiply_in_float32(left, right, out=total), exact)
        assert torch.equal(products.add_product(total, left, right), 2 * exact)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_to_half_precision_are_rounded_once(sizes, dtype, way):
    # oneDNN, which torch.mm calls, multiplies up to a block of what follows a row by 0: NaN would be NaN (torch 2.13).
    for left, right in factors(sizes, dtype, between=100.0):
        bias = torch.randint(-8, 9, right.shape[1:]).to(dtype)
        exact = left.double() @ right.double()
        out = torch.empty(len(left), right.shape[1], dtype=dtype)
        assert torch.equal(products.multiply(left, right, out=out), exact.to(dtype))
        assert torch.equal(products.multiply(left, right, out=out, bias=bias), (exact + bias).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_long_sums_and_stripes_of_columns_are_rounded_once(dtype, way, monkeypatch):
    for name, value in {"LONG_SUM": 4, "FEW_SUMS": 1, "MANY_SUMS": 100, "STRIPE": 3}.items():
        monkeypatch.setattr(products, name, value)
    test_products_to_half_precision_are_rounded_once((5, 9, 7), dtype, way)


def test_the_sum_of_real_products_is_as_exact_as_float32(way):
    left, right = torch.randn(40, 3000).bfloat16(), torch.randn(3000, 30).bfloat16()
    exact = left.double() @ right.double()
    error = products.multiply_in_float32(left, right, out=torch.empty(40, 30)) - exact
    # 3000 terms of size 1 whose sum is about 55: float32's own products are off by 1.6e-5 at most.
    assert error.abs().max() < 1e-4


def test_a_tile_is_narrowed_in_its_own_memory(monkeypatch):
    monkeypatch.setattr(products, "NARROW_BLOCK", 7)
    tile = torch.randn(5, 12)
    expected = tile.bfloat16()
    narrow = products.narrow_(tile, torch.bfloat16)
    assert torch.equal(narrow, expected)
    assert narrow.data_ptr() == tile.data_ptr()
    assert narrow.is_contiguous()


def test_a_function_that_is_not_the_product_is_not_trusted(monkeypatch):
    if products._mkl() is None:
        pytest.skip("torch carries no MKL that multiplies bfloat16 here")
    monkeypatch.setattr(products, "_add_by_mkl", lambda gemm, total, left, right: total.add_(1))
    assert products._mkl.__wrapped__() is None
