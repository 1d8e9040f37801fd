"""What the order of a row's columns says: argmax, the target's rank, and the k largest with log p, entropy and mass."""

import math

import pytest
import torch
from torch import func
from torch.utils.checkpoint import checkpoint

from comparison import DEVICE, assert_gradients_match, assert_values_match, mostly_interpreted, random_targets
from rlif_kernels import captured_mass, linear_token_stats, reference, sample_tokens, token_stats
from rlif_kernels.stats import TOP_FIELDS

RANKS = ("argmax", "target_rank")
OF_TOP = ("top_logprobs", "entropy_topk", "mass_topk")


def weights_of(stats):
    return {name: torch.randn(getattr(stats, name).shape, device=DEVICE) for name in ("logprob", *OF_TOP)}


def weighted(stats, weights):
    """A mixture of the fields with gradients; a log-probability of -inf would make it so, and is left out."""
    values = {name: getattr(stats, name) for name in weights}
    return sum((weight * values[name]).masked_fill(values[name].isinf(), 0).sum() for name, weight in weights.items())


def check(logits, targets, backend, top, **options):
    """Values and gradients against the float64 reference."""
    outputs = ("logprob", *RANKS, *TOP_FIELDS)
    ours, exact = logits.detach().requires_grad_(), logits.detach().double().requires_grad_()
    stats = token_stats(ours, targets, outputs=outputs, top_logprobs=top, backend=backend, **options)
    expected = reference.token_stats(exact, targets, outputs=outputs, top_logprobs=top, **options)
    assert_values_match(stats, expected)
    weights = weights_of(stats)
    for result in (stats, expected):
        weighted(result, weights).backward()
    # The contract's size of an upstream gradient: of k numbers a row their sum; that of the entropy has log p as a
    # factor, which is at most as large as its own weights let it be.
    sizes = {name: weight.abs() for name, weight in weights.items()}
    for name in ("logprob", "top_logprobs"):
        sizes[name] = sizes[name].reshape(*logits.shape[:-1], -1).sum(-1)
    assert_gradients_match(ours.grad, exact.grad, sizes, options.get("temperature", 1.0))
    return stats


# Fewer columns than k, one lane, more than a block of the C kernels, than a tile and a chunk of the Triton kernels.
SIZES = mostly_interpreted(1, 7, 300, 2049, 4097, 33000, fast=(7, 2049), slow=(300, 33000))


@pytest.mark.parametrize("num_columns", SIZES)
@pytest.mark.parametrize("top", mostly_interpreted(1, 5, 20, 64, fast=(5,), slow=(64,)))
def test_the_k_largest_match_the_reference(num_columns, top, backend):
    logits = 3 * torch.randn(3, num_columns, device=DEVICE)
    check(logits, random_targets(logits), backend, top)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_p_of_the_k_largest_is_exact_where_logits_are_large(temperature, backend):
    # In units of log 2 the largest of these is rounded by up to 5e-4, and so is what the sums are relative to.
    logits = (3 * torch.randn(3, 300, device=DEVICE) + 1e4).round(decimals=2)
    check(logits, random_targets(logits), backend, 5, temperature=temperature)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_of_equal_logits_the_first_comes_first_and_none_outranks_another(dtype, backend):
    # Steps of 1/2 over a range of 2 make long runs of equal logits in each dtype, at the k-th place too.
    logits = ((4 * torch.rand(4, 700, device=DEVICE)).round() / 2).to(dtype)
    logits[1] = 0.0
    logits[2, ::2] = -0.0  # equals 0
    logits[2, 1::2] = 0.0
    stats = check(logits, random_targets(logits), backend, 9)
    assert stats.top_ids[1:3].tolist() == [list(range(9))] * 2
    assert stats.target_rank[1:3].tolist() == [0, 0]


@pytest.mark.parametrize(
    "options",
    mostly_interpreted(
        {"temperature": 0.4}, {"vocab_size": 2000}, {"softcap": 5.0, "temperature": 1.3}, {"softcap": 1e-3},
        fast=({"softcap": 5.0, "temperature": 1.3},), slow=({"vocab_size": 2000},),
    ),
    ids=str,
)  # fmt: skip
def test_the_order_is_that_of_the_logits_whatever_the_options_round(options, backend):
    # A softcap of 5 takes logits of 15 and more to the same number, and one of 0.001 nearly all.
    logits = 12 * torch.randn(2, 2, 2100, device=DEVICE)
    stats = check(logits, random_targets(logits, options.get("vocab_size")), backend, 12, **options)
    x = logits[..., : options.get("vocab_size")]
    assert torch.equal(stats.top_ids, x.sort(dim=-1, descending=True, stable=True).indices[..., :12])
    assert torch.equal(stats.argmax, stats.top_ids[..., 0])


def test_each_row_may_have_its_own_temperature_and_several_targets(backend):
    logits = 3 * torch.randn(2, 3, 400, device=DEVICE)
    logits[1, 1, 5:] = -torch.inf
    targets = torch.stack([random_targets(logits) for _ in range(3)], -1)
    targets[0, 0, 1] = targets[1, 2] = -100
    targets[1, 1] = torch.tensor([0, 9, 0], device=DEVICE)
    stats = check(logits, targets, backend, 4, temperature=torch.rand(2, 3, device=DEVICE) + 0.5)
    assert stats.target_rank.shape == (2, 3, 3)
    assert stats.target_rank[1, 1, 1] == 5  # of probability 0, behind all of the support


def test_fewer_columns_than_k_leave_places_without_an_id_or_a_gradient(backend):
    logits = torch.full((2, 50), -torch.inf, device=DEVICE)
    logits[0, 7] = 1.0
    logits[1, [3, 40, 20]] = torch.tensor([0.5, 2.0, -3.0e38], device=DEVICE)
    stats = check(logits, torch.tensor([7, 3], device=DEVICE), backend, 4)
    assert stats.top_ids.tolist() == [[7, -1, -1, -1], [40, 3, 20, -1]]
    assert stats.top_logprobs[0].tolist() == [0.0, -math.inf, -math.inf, -math.inf]
    assert (stats.entropy_topk[0], stats.mass_topk[0]) == (0, 1)
    alone = logits.clone().requires_grad_()
    stats = token_stats(alone, torch.tensor([7, 3], device=DEVICE), top_logprobs=60, backend=backend)
    stats.top_logprobs.where(stats.top_ids >= 0, 0).sum().backward()
    assert alone.grad.isfinite().all()
    assert not alone.grad[logits == -torch.inf].any()


def test_rows_that_are_masked_or_no_distribution_say_so(backend):
    logits = torch.randn(4, 60, device=DEVICE)
    logits[0, 3], logits[1] = torch.nan, -torch.inf
    targets = torch.tensor([3, 3, -100, 5], device=DEVICE)
    leaf = logits.clone().requires_grad_()
    stats = token_stats(leaf, targets, outputs=(*RANKS, *TOP_FIELDS), top_logprobs=2, backend=backend)
    for name in (*RANKS, "top_ids"):
        assert (getattr(stats, name)[:2] == -1).all(), name
    for name in OF_TOP:
        assert getattr(stats, name)[:2].isnan().all(), name
    assert all((value[2] == 0).all() for value in stats if value is not None)
    (stats.top_logprobs.sum(-1) + stats.entropy_topk)[2:].sum().backward()
    assert not leaf.grad[2].any()
    assert leaf.grad[3].isfinite().all()


def test_a_likeliest_column_that_is_not_the_target_has_the_gradient_of_a_certain_one(backend):
    logits = torch.zeros(1, 300, device=DEVICE)
    logits[0, 17] = 14.0  # p = 1 - 2.5e-4
    logits.requires_grad_()
    stats = token_stats(logits, torch.tensor([5], device=DEVICE), top_logprobs=2, backend=backend)
    stats.top_logprobs[0, 0].backward()
    exact = logits.detach().double().requires_grad_()
    exact.log_softmax(-1)[0, 17].backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("inplace_backward", [False, True])
def test_the_mass_is_that_of_the_same_targets_and_so_is_its_gradient(inplace_backward, backend):
    leaf = (2 * torch.randn(4, 200, device=DEVICE)).requires_grad_()
    targets = random_targets(leaf)
    stats = token_stats(
        leaf * 1, targets, outputs=("mass_topk",), top_logprobs=6, inplace_backward=inplace_backward, backend=backend
    )
    stats.mass_topk.sum().backward()
    other = leaf.detach().clone().requires_grad_()
    same = token_stats(other, stats.top_ids, outputs=("logprob",), backend=backend)
    captured_mass(same.logprob, stats.top_ids).sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad, rtol=0, atol=2e-6)


@pytest.mark.parametrize("keep_logits", mostly_interpreted(False, True, fast=(False,)))
def test_through_a_head_they_match_the_reference(keep_logits, backend):
    tensors = [torch.randn(shape, device=DEVICE) for shape in ((3, 4, 16), (101, 16), (101,))]
    ours, exact = (
        [x.detach().to(dtype, copy=True).requires_grad_() for x in tensors] for dtype in (torch.float32, torch.float64)
    )
    targets = random_targets(torch.nn.functional.linear(*tensors), 95)
    targets[0, 1] = -100
    outputs = ("logprob", *RANKS, *TOP_FIELDS)
    options = {"vocab_size": 95, "softcap": 20.0, "temperature": 0.8, "outputs": outputs, "top_logprobs": 6}
    stats = linear_token_stats(
        *ours[:2], targets, bias=ours[2], keep_logits=keep_logits, tile_bytes=3000, backend=backend, **options
    )
    expected = reference.linear_token_stats(*exact[:2], targets, bias=exact[2], **options)
    for name in (*RANKS, "top_ids"):
        assert torch.equal(getattr(stats, name), getattr(expected, name)), name
    weights = weights_of(stats)
    for name in weights:  # products of 16 terms in float32 beside products in float64, as in the tests of one target
        torch.testing.assert_close(getattr(stats, name).double(), getattr(expected, name), rtol=1e-5, atol=2e-5)
    for result in (stats, expected):
        weighted(result, weights).backward()
    for leaf, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), other.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.slow_interpreted
def test_tangents_match_the_reference(backend):
    logits, tangent = 2 * torch.randn(3, 4, 60, device=DEVICE), torch.randn(3, 4, 60, device=DEVICE)
    hidden, weight = torch.randn(12, 8, device=DEVICE), torch.randn(60, 8, device=DEVICE)
    targets = random_targets(logits)
    targets[0, 0] = -100
    options = {"outputs": ("logprob", *OF_TOP), "softcap": 20.0, "temperature": 0.8, "top_logprobs": 5}

    def of(function, *first, **more):
        def fields(x):
            stats = function(x, *first, **options, **more)
            return tuple(getattr(stats, name) for name in ("logprob", *OF_TOP))

        return fields

    for ours, theirs, x, v, bound in (
        (of(token_stats, targets, backend=backend), of(reference.token_stats, targets), logits, tangent, 4e-6),
        (
            of(linear_token_stats, weight, targets.view(-1), backend=backend, tile_bytes=1500),
            of(reference.linear_token_stats, weight.double(), targets.view(-1)),
            hidden, torch.randn_like(hidden), 2e-5,  # products in float32 beside products in float64
        ),
    ):  # fmt: skip
        _, actual = func.jvp(ours, (x,), (v,))
        _, expected = func.jvp(theirs, (x.double(),), (v.double(),))
        for value, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(value.double(), other, rtol=bound, atol=bound)


def test_sampling_measures_them_of_the_drawn_token(backend):
    logits = 3 * torch.randn(2, 3, 900, device=DEVICE)
    uniform = 1 - torch.rand(2, 3, device=DEVICE, dtype=torch.float64)
    outputs = ("target_rank", "argmax", "entropy_topk")
    token_ids, stats = sample_tokens(
        logits, uniform, temperature=1.3, outputs=outputs, top_logprobs=5, backend=backend
    )  # fmt: skip
    expected = token_stats(logits, token_ids, temperature=1.3, outputs=outputs, top_logprobs=5, backend=backend)
    assert stats.logprob is None
    for name in ("target_rank", "argmax", "top_ids", "top_logprobs", "entropy_topk"):
        assert torch.equal(getattr(stats, name), getattr(expected, name)), name
    _, only = sample_tokens(logits, uniform, top_logprobs=5, backend=backend)
    assert [name for name, value in only._asdict().items() if value is not None] == ["top_ids", "top_logprobs"]


def test_a_checkpoint_and_a_compiled_graph_have_the_same_gradient():
    logits, targets = (2 * torch.randn(3, 40, device=DEVICE)).requires_grad_(), torch.tensor([1, 2, 3], device=DEVICE)

    def loss(x):
        stats = token_stats(2 * x, targets, outputs=("logprob", "target_rank", "entropy_topk"), top_logprobs=4)
        return (stats.logprob * stats.target_rank + stats.entropy_topk - stats.top_logprobs.sum(-1)).sum()

    (expected,) = torch.autograd.grad(loss(logits), logits)
    (again,) = torch.autograd.grad(checkpoint(loss, logits, use_reentrant=False), logits)
    assert torch.equal(again, expected)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (actual,) = torch.autograd.grad(compiled(logits), logits)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)


def test_they_are_requested_by_number_or_by_name_and_other_numbers_are_named():
    logits, targets = torch.randn(2, 40, device=DEVICE), torch.tensor([1, 2], device=DEVICE)
    stats = token_stats(logits, targets, top_logprobs=3)
    assert (stats.top_ids.shape, stats.top_logprobs.shape) == ((2, 3), (2, 3))
    assert stats.entropy is not None
    assert stats.mass_topk is None
    stats = token_stats(logits, targets, outputs=("mass_topk",))
    torch.testing.assert_close(stats.mass_topk, logits.softmax(-1).topk(20).values.sum(-1))
    assert stats.top_logprobs is None
    for function in (token_stats, reference.token_stats):
        for wrong in (0, 65):
            with pytest.raises(ValueError, match=f"top_logprobs is {wrong}; expected 1 to 64, or None"):
                function(logits, targets, top_logprobs=wrong)
        with pytest.raises(TypeError, match=r"top_logprobs is 2\.5; expected an integer or None"):
            function(logits, targets, top_logprobs=2.5)
