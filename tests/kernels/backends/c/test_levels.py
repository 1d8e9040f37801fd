"""The C kernels keep the contract at every instruction set that this processor can run, not at its own alone."""

import platform
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from comparison import check_against_reference, is_undefined, present, random_targets
from divergences import check_divergence, pair_of_logits
from rlif_kernels import divergence, grpo_loss, sample_tokens, token_stats
from rlif_kernels.backends.c import build
from rlif_kernels.pairs import PAIR_OUTPUTS
from rlif_kernels.stats import FIELDS

HALF = [torch.bfloat16, torch.float16]
DTYPES = [torch.float32, *HALF]
# A group of sums is 64, 128 or 256 columns, by the level; a chunk 4096. Primes fall on no edge.
SIZES = [1, 5, 63, 64, 65, 257, 4095, 4096, 4097, 50257]


@pytest.fixture(params=["this processor's own", *build.runnable_levels()], autouse=True)
def level(request, monkeypatch):
    if build.library() is None:
        pytest.skip("no C compiler")
    if request.param in build.LEVELS:
        monkeypatch.setenv("RLIF_CPU_LEVEL", request.param)
    build.found.cache_clear()
    assert build.library() is not None, build.found().reason
    yield request.param
    monkeypatch.undo()
    build.found.cache_clear()


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_level_is_the_one_asked_for(level):
    instructions = {"x86-64-v2": "SSE2", "x86-64-v3": "AVX2", "x86-64-v4": "AVX-512"}
    expected = instructions.get(level) or ("NEON" if platform.machine() == "aarch64" else "")
    assert build.found().reason.startswith(expected)


@pytest.mark.parametrize("num_columns", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_size_matches_the_reference(num_columns, dtype):
    logits = (3 * torch.randn(6, num_columns)).to(dtype)
    check_against_reference(logits, random_targets(logits), "cpu")


@pytest.mark.parametrize("num_columns", [1, 63, 65, 4097, 9001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_divergences_of_any_size_match_the_reference(num_columns, dtype):
    x, y = pair_of_logits(4, num_columns, dtype=dtype)
    check_divergence(x, y, "cpu")
    if num_columns == 1:
        return  # a row without support has no gradient to compare
    x[0, ::3] = y[0, ::3] = x[1, 0] = y[2, num_columns // 2 :] = y[3, 0] = -torch.inf
    check_divergence(x, y, "cpu", softcap=20.0, temperature=0.7)


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_any_scale_and_shift_match_the_reference(scale, shift):
    logits = scale * torch.randn(6, 9001) + shift
    check_against_reference(logits, random_targets(logits), "cpu", temperature=0.7)


def test_the_largest_vocabulary_matches_the_reference():
    logits = torch.cat([scale * torch.randn(3, 262144) for scale in (0.01, 3, 50)])
    check_against_reference(logits, random_targets(logits), "cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_columns_of_minus_infinity_match_the_reference(dtype, softcap):
    logits = (3 * torch.randn(8, 9001)).to(dtype)
    logits[:, ::3] = -torch.inf
    logits[0, :4096] = logits[1, 4096:] = -torch.inf  # a chunk of nothing else; all but a chunk
    logits[2, 5:] = -torch.inf
    logits[3] = -torch.inf
    logits[3, 77] = 2.0
    targets = random_targets(logits)
    targets[4:6] = 9000 // 3 * 3  # outside the support
    check_against_reference(logits, targets, "cpu", softcap=softcap)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 4096, 9000])
def test_nan_and_infinity_stay_in_their_row(dtype, bad, place):
    logits = (3 * torch.randn(4, 9001)).to(dtype)
    logits[1, place] = bad
    stats, gradient = check_against_reference(logits, random_targets(logits), "cpu")
    assert all(is_undefined(value[1]) for value in present(stats))
    assert gradient[1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_in_an_upstream_gradient_stays_nan_whatever_its_bits(dtype):
    logits = torch.randn(3, 500).to(dtype).requires_grad_()
    upstream = torch.tensor([0x3F800000, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    token_stats(logits, torch.tensor([1, 2, 3]), outputs=("entropy",), backend="cpu").entropy.backward(upstream)
    assert logits.grad[1:].isnan().all()
    assert logits.grad[0].isfinite().all()


@pytest.mark.parametrize("dtype", HALF)
def test_every_16_bit_number_is_read_as_what_it_is(dtype):
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    logits = numbers[numbers.isfinite(), None].repeat(1, 37)
    targets = torch.full(logits.shape[:1], 36)
    narrow = token_stats(logits, targets, outputs=FIELDS, backend="cpu")
    wide = token_stats(logits.float(), targets, outputs=FIELDS, backend="cpu")
    assert all(torch.equal(a, b) for a, b in zip(narrow, wide, strict=True))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("size", [1e-7, 1e-3, 1.0, 1e5])
def test_a_16_bit_gradient_is_that_of_float32_rounded_to_nearest(dtype, size):
    logits = (3 * torch.randn(64, 1001)).to(dtype)
    targets = random_targets(logits)
    upstream = size * torch.randn(64)
    gradients = []
    for leaf in (logits.clone(), logits.float()):
        stats = token_stats(leaf.requires_grad_(), targets, backend="cpu")
        ((stats.logprob + stats.entropy) * upstream).sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(gradients[0], gradients[1].to(dtype))


@pytest.mark.parametrize("target", [0, 1, 300, 4095, 4100, 8191])
@pytest.mark.parametrize("lead", [20.7232658, 9.0])
def test_the_gradient_of_a_nearly_certain_token_is_right_wherever_its_competitor_lies(target, lead):
    # p = 1 - 1e-9 for the larger lead; the competitor in the same lane, vector, group, chunk, or in none of these.
    places = [d for d in (*range(1, 70), 128, 256, 512, 1024, 4095, 4096, 8190) if 0 <= target + d < 8192]
    places = [target + d for d in places] or [target - d for d in (1, 4, 16, 64, 256, 4096)]
    logits = torch.full((len(places), 8192), -100.0)
    logits[:, target] = lead
    logits[range(len(places)), places] = 0.0
    logits.requires_grad_()
    token_stats(logits, torch.full((len(places),), target), backend="cpu").logprob.sum().backward()
    due = 1 / (1 + torch.tensor(lead, dtype=torch.float32).double().exp())
    torch.testing.assert_close(logits.grad[:, target].double(), due.expand(len(places)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_the_number_of_threads_changes_no_bit(dtype, rows, threads):
    logits = (3 * torch.randn(rows, 70001)).to(dtype)
    logits[0, 5000] = -torch.inf
    logits[0, -5001] = -torch.inf  # where the row turned around has the other: no NaN, which equals nothing
    targets = random_targets(logits)
    uniform = torch.rand(rows, dtype=torch.float64)
    old = torch.randn(rows)

    def bits():
        leaf = logits.clone().requires_grad_()
        stats = token_stats(leaf, targets, outputs=FIELDS, backend="cpu")
        (stats.logprob + stats.entropy + stats.self_certainty + stats.sum_sq_probs).sum().backward()
        other = logits.clone().requires_grad_()
        loss = grpo_loss(other, targets, torch.ones(rows), old, entropy_coef=0.1, backend="cpu")
        loss.loss.backward()
        drawn = sample_tokens(logits, uniform, outputs=("entropy",), backend="cpu")
        pair = logits.clone().requires_grad_()
        apart = divergence(pair, logits.flip(-1), kind="jsd", outputs=PAIR_OUTPUTS, backend="cpu")
        apart.loss.backward()
        own = [leaf.grad, loss.loss, loss.logprob, other.grad, drawn.token_ids, drawn.stats.entropy, pair.grad]
        return [*stats, *own, *apart]

    torch.set_num_threads(1)
    expected = bits()
    for count in (2, 3):
        torch.set_num_threads(count)
        assert all(torch.equal(a, b) for a, b in zip(bits(), expected, strict=True))


def test_calls_at_the_same_time_have_the_bits_of_calls_in_turn(threads):
    torch.set_num_threads(2)
    problems = [3 * torch.randn(9, 20011) for _ in range(4)]
    targets = torch.randint(20011, (9,))
    expected = [token_stats(logits, targets, backend="cpu") for logits in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            results = list(pool.map(lambda logits: token_stats(logits, targets, backend="cpu"), problems))
            for actual, values in zip(results, expected, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(actual[:3], values[:3], strict=True))
