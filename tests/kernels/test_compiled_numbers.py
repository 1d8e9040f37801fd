"""torch.compile with numbers that vary between calls, as a schedule's do: the whole graph, but not one for each."""

import inspect
import typing

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from comparison import DEVICE
from rlif_kernels import grpo_loss, linear_grpo_loss, linear_token_stats, policy_loss, token_stats

# Where each option begins, and a step that keeps it in its range. A new option of an op belongs here.
SCHEDULES = {
    "temperature": (0.7, 0.05),
    "softcap": (8.0, 0.5),
    "epsilon_low": (0.1, 0.02),
    "epsilon_high": (0.2, 0.02),
    "delta": (2.0, 0.1),
    "beta": (0.04, 0.01),
    "entropy_coef": (0.02, -0.003),
    "self_certainty_coef": (-0.01, -0.002),
    "loss_scale": (0.25, 0.25),
    "num_items_in_batch": (20, 3),
    "max_completion_length": (9, 1),
}


def loss_of_stats(logits, targets, advantages, old_logprob, ref_logprob, backend, **options):
    """`policy_loss`, which is no op of its own."""
    stats = token_stats(logits, targets, backend=backend)
    return policy_loss(stats, advantages, old_logprob, ref_logprob, mask=targets >= 0, **options)


OPS = {function.__name__: function for function in (token_stats, linear_token_stats, grpo_loss, linear_grpo_loss)}
# More than torch compiles a function for (torch._dynamo.config.recompile_limit is 8), if each value took a graph.
NUM_CALLS = 11


def numbers_of(function, kind=float):
    """The names of the options that a number of this kind is for."""
    annotations = {name: option.annotation for name, option in inspect.signature(function).parameters.items()}
    return [name for name, type_ in annotations.items() if kind in (type_, *typing.get_args(type_))]


def inputs(op):
    """The tensor to differentiate, and the arguments by name: few rows, which the interpreter takes one by one."""
    hidden, weight = torch.randn(2, 2, 8, device=DEVICE), torch.randn(50, 8, device=DEVICE)
    arguments = {"targets": torch.randint(50, (2, 2), device=DEVICE)}
    if "loss" in op:
        arguments["advantages"] = torch.tensor([1.0, -0.5], device=DEVICE)
        arguments |= {name: -3 - torch.rand(2, 2, device=DEVICE) for name in ("old_logprob", "ref_logprob")}
    if "linear" in op:
        return hidden, arguments | {"weight": weight}
    return hidden @ weight.T, arguments


def compare(op, schedules, backend, dynamic=None, **fixed):
    """Call the op, compiled and not, with numbers of the schedules: the same results. Return how often it compiled."""
    leaf, arguments = inputs(op)

    def step(leaf, **options):
        result = OPS.get(op, loss_of_stats)(2 * leaf, **arguments, **options, backend=backend)
        return result.loss if "loss" in op else result.logprob.sum() + result.entropy.sum()

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend=counter)
    for call in range(NUM_CALLS):
        options = {name: start + call * change for name, (start, change) in schedules.items()} | fixed
        values, gradients = [], []
        for function in (step, compiled):
            x = leaf.clone().requires_grad_()
            values.append(function(x, **options))
            gradients += torch.autograd.grad(values[-1], x)
        assert torch.equal(*values)
        assert torch.equal(*gradients)
    return counter.frame_count


# A graph knows no more of a backend than its name: each op is tried with one and each backend with two, and all of them
# before a release. Dynamic shapes are torch's own business.
USUAL = {("token_stats", "cpu"), ("linear_token_stats", "torch"), ("grpo_loss", "torch"), ("linear_grpo_loss", "cpu")}
INTERPRETED = {"token_stats", "linear_grpo_loss"}


def cells():
    """Op, backend and whether shapes are dynamic, of which torch decides where it is None."""
    for op in OPS:
        for backend in ("torch", "cpu"):
            yield pytest.param(op, backend, None, marks=[] if (op, backend) in USUAL else pytest.mark.exhaustive)
            is_slow = (op, backend) == ("linear_grpo_loss", "torch")
            yield pytest.param(op, backend, True, marks=pytest.mark.slow if is_slow else pytest.mark.exhaustive)
        mark = pytest.mark.slow_interpreted if op in INTERPRETED else pytest.mark.not_interpreted
        yield pytest.param(op, "triton", None, marks=mark)


@pytest.mark.parametrize(("op", "backend", "dynamic"), list(cells()), indirect=["backend"])
def test_all_float_options_may_vary_at_once(op, dynamic, backend):
    names = numbers_of(OPS[op])
    assert set(names) <= set(SCHEDULES)
    # Once as constants, once as variables; and once more for the number 1, say, of which torch makes a constant.
    assert compare(op, {name: SCHEDULES[name] for name in names}, backend, dynamic) <= 3


def test_all_float_options_of_the_loss_from_statistics_may_vary_at_once():
    names = numbers_of(policy_loss)
    assert compare("policy_loss", {name: SCHEDULES[name] for name in names}, "torch") <= 3


# The options of `LossVariant`, as those above.
VARIANTS = {
    "sapo": {"sapo_temperature_pos": (1.1, 0.1), "sapo_temperature_neg": (1.2, 0.1)},
    "vespo": {"vespo_k_pos": (2.1, 0.1), "vespo_lambda_pos": (3.1, 0.1), "vespo_k_neg": (2.9, -0.1)},
    "cispo": {"epsilon_high": (0.9, 0.02)},
    # Clip-Cov takes all that it may, and draws none.
    "dapo": {"top_entropy_quantile": (0.3, 0.04), "clip_cov_ratio": (0.9, 0.005), "clip_cov_lb": (0.1, 0.02)},
    "grpo": {"kl_cov_ratio": (0.3, 0.04), "kl_cov_coef": (0.9, 0.02)},
}


@pytest.mark.parametrize(
    "loss_type", [*list(VARIANTS)[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in list(VARIANTS)[1:])]
)
def test_all_options_of_a_variant_may_vary_at_once(loss_type):
    fixed = {"clip_cov_ub": 50.0} if loss_type == "dapo" else {}
    assert compare("grpo_loss", VARIANTS[loss_type], "torch", loss_type=loss_type, **fixed) <= 3


# All at once, above, are each a variable; alone, one of the rows' options and one of the loss's.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["temperature", "beta"])
def test_one_float_option_may_vary(name):
    assert compare("grpo_loss", {name: SCHEDULES[name]}, "torch") <= 3


@pytest.mark.parametrize("name", ["num_items_in_batch", "max_completion_length"])
def test_an_integer_option_of_the_loss_may_vary(name):
    loss_type = "dapo" if name == "num_items_in_batch" else "dr_grpo"
    assert compare("grpo_loss", {name: SCHEDULES[name]}, "torch", loss_type=loss_type) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_every_loss_takes_a_varying_scale(loss_type):
    assert compare("grpo_loss", {"loss_scale": SCHEDULES["loss_scale"]}, "torch", loss_type=loss_type) <= 3


def test_a_coefficient_may_end_at_0():
    # A term that is not there is another graph: constants 1 and 0, a variable, and a variable that is not 0.
    assert compare("linear_grpo_loss", {"entropy_coef": (1.0, -0.1)}, "torch") <= 4


def test_a_number_out_of_range_is_refused_in_compiled_code_too():
    leaf, arguments = inputs("grpo_loss")
    torch.compiler.reset()
    compiled = torch.compile(lambda beta: grpo_loss(leaf, **arguments, beta=beta).loss, backend="aot_eager")
    for beta in (0.1, 0.2):
        compiled(beta)
    with pytest.raises(ValueError, match=r"beta is -0\.1; expected a finite number, 0 or more"):
        compiled(-0.1)
