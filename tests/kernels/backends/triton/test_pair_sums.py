"""The logarithm that divergences take on NVIDIA GPUs is off by what its makers say, and the contract holds with it."""

import pytest
import triton
import triton.language as tl

from comparison import DEVICE
from divergences import check_divergence, pair_of_logits
from rlif_kernels import divergence
from rlif_kernels.backends.triton import pair_sums


@triton.jit
def rough_log2(x, NVIDIA: tl.constexpr):  # noqa: N803
    """log2 with the largest error of NVIDIA's: 2^-22, and outside of 0.5 to 2 twice 2^-23 of it; up or down by the last
    bit of x."""
    exact = tl.log2(x)
    error = tl.where((x >= 0.5) & (x <= 2), 2.0**-22, tl.abs(exact) * 2.0**-22)
    return tl.where((x.to(tl.int32, bitcast=True) & 1) == 0, exact + error, exact - error)


@pytest.fixture
def _rough(monkeypatch):
    monkeypatch.setattr(pair_sums, "log2", rough_log2)


pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="kernels are compiled: the device has its own logarithm")


@pytest.mark.usefixtures("_rough")
@pytest.mark.parametrize("apart", [0.001, 2.0])
def test_the_contract_holds_with_its_largest_error(apart):
    check_divergence(*pair_of_logits(3, 300, scale=4.0, apart=apart), "triton")


@pytest.mark.usefixtures("_rough")
def test_equal_distributions_have_value_and_gradient_exactly_0_whatever_the_logarithm_of_1():
    x, _ = pair_of_logits(2, 300)
    leaf = x.clone().requires_grad_()
    result = divergence(leaf, x, kind="jsd", beta=0.3, backend="triton")
    result.loss.backward()
    assert (result.value == 0).all()
    assert (leaf.grad == 0).all()
