"""Our functions stand where verl's stood: same signatures, shapes and dtypes, same values and gradients."""

import inspect

import pytest
import torch

pytest.importorskip("verl.utils", reason="verl is not installed")

from verl.utils import torch_functional as theirs
from verl.utils.experimental.torch_functional import FusedLinearForPPO
from verl.utils.kernel.linear_cross_entropy import LinearCrossEntropy

from rlif.integrations.verl import functions as ours
from rlif_kernels import compat, reference

N, V, H = 37, 503, 24

# float32 rounds to 6e-8 of the value, and these are of size 10; verl's own formula loses as much again.
FP32 = {"atol": 1e-5, "rtol": 0.0}


def example(shape: tuple[int, ...] = (N,), dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    logits = (4 * torch.randn(*shape, V)).to(dtype)
    return logits, torch.randint(V, shape)


def value_and_gradient(function, logits: torch.Tensor, *rest) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    value = function(logits, *rest)
    upstream = torch.linspace(-1, 1, value.numel()).view_as(value).to(value.dtype)
    (gradient,) = torch.autograd.grad(value, logits, upstream)
    return value.detach(), gradient


LOGIT_FUNCTIONS = [
    ("logprobs_from_logits", True),
    ("entropy_from_logits", False),
    ("entropy_from_logits_with_chunking", False),
    ("calculate_sum_pi_squared_from_logits", False),
]


@pytest.mark.parametrize(("name", "labelled"), LOGIT_FUNCTIONS)
def test_functions_of_logits_have_verls_values_and_gradients(name: str, labelled: bool) -> None:
    logits, labels = example()
    rest = (labels,) if labelled else ()
    value, gradient = value_and_gradient(getattr(ours, name), logits, *rest)
    expected, expected_gradient = value_and_gradient(getattr(theirs, name), logits, *rest)
    assert value.dtype == expected.dtype
    torch.testing.assert_close(value, expected, **FP32)
    torch.testing.assert_close(gradient, expected_gradient, **FP32)


def test_the_function_of_the_kernels_by_verls_name_is_verls() -> None:
    logits, labels = example()
    value, gradient = value_and_gradient(compat.logprobs_from_logits, logits, labels)
    expected, expected_gradient = value_and_gradient(theirs.logprobs_from_logits, logits, labels)
    assert inspect.signature(compat.logprobs_from_logits).parameters.keys() == {"logits", "labels", "inplace_backward"}
    torch.testing.assert_close(value, expected, **FP32)
    torch.testing.assert_close(gradient, expected_gradient, **FP32)


@pytest.mark.parametrize("name", ["logprobs_from_logits", "entropy_from_logits"])
def test_shapes_are_those_of_the_logits_without_their_last_dimension(name: str) -> None:
    logits, labels = example((3, 5))
    rest = (labels,) if name == "logprobs_from_logits" else ()
    torch.testing.assert_close(getattr(ours, name)(logits, *rest), getattr(theirs, name)(logits, *rest), **FP32)


@pytest.mark.parametrize(("name", "labelled"), LOGIT_FUNCTIONS)
def test_bfloat16_comes_out_as_verls_dtype_and_no_further_from_the_truth(name: str, labelled: bool) -> None:
    logits, labels = example(dtype=torch.bfloat16)
    rest = (labels,) if labelled else ()
    field = {"logprobs": "logprob", "entropy": "entropy", "calculate": "sum_sq_probs"}[name.split("_")[0]]
    truth = getattr(reference.token_stats(logits.double(), labels, outputs=(field,)), field)
    value, expected = getattr(ours, name)(logits, *rest), getattr(theirs, name)(logits, *rest)
    assert value.dtype == expected.dtype
    # Where verl computes in float32 too, ours is held to the kernels' own bound: 4e-6 of values up to 3.
    assert (value - truth).abs().max() <= max(float((expected - truth).abs().max()), 1.2e-5)


def parameters(function) -> list[tuple[str, object]]:
    return [(each.name, each.default) for each in inspect.signature(function).parameters.values()]


def test_parameters_and_their_defaults_are_verls() -> None:
    for name, _ in LOGIT_FUNCTIONS:
        assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name))
    assert parameters(ours.fused_linear_for_ppo_forward) == parameters(FusedLinearForPPO.forward)
    assert parameters(ours.linear_cross_entropy) == parameters(LinearCrossEntropy.forward)[1:]  # after autograd's ctx


def test_the_gradient_takes_the_logits_place_only_where_an_operation_computed_them() -> None:
    leaf, labels = example()
    leaf.requires_grad_()
    computed = leaf * 1
    ours.logprobs_from_logits(computed, labels).sum().backward()
    torch.testing.assert_close(computed.detach(), leaf.grad)

    before = leaf.detach().clone()
    ours.logprobs_from_logits(leaf, labels).sum().backward()
    torch.testing.assert_close(leaf.detach(), before, atol=0, rtol=0)

    kept = leaf * 1
    ours.logprobs_from_logits(kept, labels, inplace_backward=False).sum().backward()
    torch.testing.assert_close(kept.detach(), before, atol=0, rtol=0)


def test_an_entropy_and_log_probabilities_of_the_same_logits_learn_together() -> None:
    logits, labels = example()

    def both(functions, logits: torch.Tensor) -> torch.Tensor:
        logits = logits / 0.7
        entropy = functions.entropy_from_logits(logits)
        return entropy + functions.logprobs_from_logits(logits, labels, inplace_backward=False)

    _, gradient = value_and_gradient(lambda each: both(ours, each), logits)
    _, expected = value_and_gradient(lambda each: both(theirs, each), logits)
    torch.testing.assert_close(gradient, expected, **FP32)


def test_verl_may_compile_the_entropy() -> None:
    logits, _ = example()
    compiled = torch.compile(ours.entropy_from_logits, dynamic=True, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits), theirs.entropy_from_logits(logits), **FP32)


@pytest.mark.parametrize("leading", [(N,), (2, 19)])
def test_the_fused_head_has_verls_values_and_gradients(leading: tuple[int, ...]) -> None:
    hidden, weight, labels = torch.randn(*leading, H), torch.randn(V, H), torch.randint(V, leading)
    upstream = torch.linspace(-1, 1, labels.numel()).view(leading)

    def run(forward) -> list[torch.Tensor]:
        inputs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        logprob, entropy = forward(FusedLinearForPPO(chunk_size=7), *inputs, labels, temperature=0.8)
        gradients = torch.autograd.grad((upstream * (logprob + 2 * entropy)).sum(), inputs)
        return [logprob.detach(), entropy.detach(), *gradients]

    for value, expected in zip(run(ours.fused_linear_for_ppo_forward), run(FusedLinearForPPO.forward), strict=True):
        assert value.dtype == expected.dtype
        # Logits are sums of 24 products of size 10, gradients sums over 37 rows or 503 columns of them.
        torch.testing.assert_close(value, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_the_fused_head_keeps_verls_dtypes_in_bfloat16() -> None:
    hidden, weight = torch.randn(N, H).bfloat16(), torch.randn(V, H).bfloat16()
    labels = torch.randint(V, (N,))
    values = ours.fused_linear_for_ppo_forward(FusedLinearForPPO(), hidden, weight, labels)
    expected = FusedLinearForPPO()(hidden, weight, labels)
    truth = FusedLinearForPPO()(hidden.double(), weight.double(), labels)
    for value, their_value, true_value in zip(values, expected, truth, strict=True):
        assert value.dtype == their_value.dtype
        assert (value - true_value).abs().max() <= (their_value - true_value).abs().max()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_the_kernel_of_a_whole_head_is_its_definition(reduction: str) -> None:
    """verl's own runs on GPUs alone: this is what its docstring and its shapes say."""
    hidden, weight, labels = torch.randn(2, 19, H), torch.randn(V, H), torch.randint(V, (2, 19))
    logprob, entropy = ours.linear_cross_entropy(hidden, weight, labels, 0.8, reduction)
    log_probs = torch.log_softmax(hidden.double() @ weight.double().T / 0.8, -1).flatten(0, 1)
    chosen = log_probs.gather(-1, labels.view(-1, 1))[:, 0]
    expected = {"none": chosen, "sum": chosen.sum(), "mean": chosen.mean()}[reduction]
    assert logprob.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprob.double(), expected, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(entropy.double(), -(log_probs.exp() * log_probs).sum(-1), atol=1e-5, rtol=1e-6)


def test_the_logits_of_a_bfloat16_head_are_not_rounded() -> None:
    hidden, weight = torch.randn(N, H).bfloat16(), torch.randn(V, H).bfloat16()
    labels = torch.randint(V, (N,))
    logprob, _ = ours.linear_cross_entropy(hidden, weight, labels, 1.0)
    exact = torch.log_softmax(hidden.double() @ weight.double().T, -1).gather(-1, labels[:, None])[:, 0]
    torch.testing.assert_close(logprob.double(), exact, atol=1e-5, rtol=1e-6)  # rounded, they are off by 0.05


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reduction is 'median'; expected"):
        ours.linear_cross_entropy(torch.randn(N, H), torch.randn(V, H), torch.randint(V, (N,)), 1.0, "median")
