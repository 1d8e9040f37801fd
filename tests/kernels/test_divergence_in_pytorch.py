"""Divergences among PyTorch's other machinery, and what they refuse."""

import math

import pytest
import torch
from torch import func
from torch.utils.checkpoint import checkpoint

from comparison import DEVICE, mostly_interpreted
from divergences import (
    assert_divergences_match,
    pair_of_logits,
)
from rlif_kernels import divergence, reference
from rlif_kernels.pairs import KINDS, PAIR_OUTPUTS

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def grad_of(logits, teacher_logits, **options):
    leaf = logits.detach().requires_grad_()
    divergence(leaf, teacher_logits, **options).loss.backward()
    return leaf.grad


def test_opcheck_passes(backend):
    x, y = pair_of_logits(4, 60)
    rows, weight = torch.zeros(4, dtype=torch.long, device=DEVICE), torch.rand(4, device=DEVICE)
    rows[1] = -100
    numbers = [0.7, 1.0, 0.0, 9.0, 0.5]
    for learns in (True, False):
        torch.library.opcheck(
            torch.ops.rlif.divergence,
            (x, y, rows, weight, [None, None], None, numbers, "jsd", 55, "value,entropy", backend, "", learns),
        )


def test_torch_compile_traces_the_whole_graph(backend):
    def loss(x, y, beta):
        result = divergence(2 * x, y, kind="jsd", beta=beta, temperature=0.9, backend=backend)
        return result.loss + result.value.mean()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for num_rows, beta in ((3, 0.5), (5, 0.5), (5, 0.4), (5, 0.3)):
        x, y = pair_of_logits(num_rows, 67)
        x.requires_grad_()
        (expected,) = torch.autograd.grad(loss(x, y, beta), x)
        (actual,) = torch.autograd.grad(compiled(x, y, beta), x)
        assert torch.equal(actual, expected)


def test_activation_checkpointing_recomputes_to_the_same_gradient(backend):
    x, y = pair_of_logits(4, 67)
    x.requires_grad_()

    def loss(x):
        return divergence(3 * x, y, kind="reverse_kl", backend=backend).loss

    (expected,) = torch.autograd.grad(loss(x), x)
    (actual,) = torch.autograd.grad(checkpoint(loss, x, use_reentrant=False), x)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("kind", mostly_interpreted(*KINDS, fast=("reverse_kl",)))
@pytest.mark.parametrize("dtype", mostly_interpreted(*DTYPES, fast=(torch.bfloat16,)))
def test_inplace_backward_writes_the_same_gradient_into_the_logits_storage(dtype, kind, backend):
    num_columns = 5003 if backend != "triton" else 700  # the interpreter takes seconds for each tile
    x, y = pair_of_logits(4, num_columns, dtype=dtype)
    x[1, 3] = -torch.inf
    for options in ({}, {"softcap": 20.0, "vocab_size": num_columns - 100}):
        expected = grad_of(x, y, kind=kind, backend=backend, **options)
        leaf = x.clone().requires_grad_()
        computed = leaf * 1
        seen = []
        computed.register_hook(seen.append)
        divergence(computed, y, kind=kind, inplace_backward=True, backend=backend, **options).loss.backward()
        assert seen[0].data_ptr() == computed.data_ptr()
        assert torch.equal(leaf.grad, expected)


def test_a_graph_that_is_kept_gives_the_same_gradient_twice(backend):
    x, y = pair_of_logits(3, 50)
    leaf = x.clone().requires_grad_()
    loss = divergence(leaf, y, kind="jsd", backend=backend).loss
    (first,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(2 * loss, leaf)
    assert torch.equal(2 * first, second)


def test_a_second_derivative_is_refused(backend):
    x, y = pair_of_logits(3, 50)
    loss = divergence(x.requires_grad_(), y, kind="jsd", backend=backend).loss
    with pytest.raises(RuntimeError, match="divergence has no second derivative"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_transforms_give_gradient_and_tangent_and_refuse_vmap(backend):
    x, y = pair_of_logits(3, 50)
    tangent = torch.randn_like(x)

    def loss(x):
        return divergence(x, y, kind="jsd", beta=0.2, softcap=9.0, backend=backend).loss

    def exact(x):
        return reference.divergence(x, y.double(), kind="jsd", beta=0.2, softcap=9.0).loss

    assert torch.equal(func.grad(loss)(x), grad_of(x, y, kind="jsd", beta=0.2, softcap=9.0, backend=backend))
    _, ours = func.jvp(loss, (x,), (tangent,))
    _, theirs = func.jvp(exact, (x.double(),), (tangent.double(),))
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match=r"^divergence has no rule for torch\.func\.vmap"):
        func.vmap(loss)(x[None])
    with pytest.raises(RuntimeError, match="divergence has no second derivative"):
        func.jvp(func.grad(loss), (x,), (tangent,))


def test_outputs_that_nobody_asked_for_are_none(backend):
    x, y = pair_of_logits(3, 50)
    result = divergence(x, y, kind="jsd", outputs=("entropy", "cross_entropy"), backend=backend)
    assert [name for name in PAIR_OUTPUTS if getattr(result, name) is not None] == ["entropy", "cross_entropy"]
    assert_divergences_match(
        result, reference.divergence(x.double(), y.double(), kind="jsd", outputs=("entropy", "cross_entropy"))
    )


BAD = {
    "another kind": ({"kind": "kl"}, ValueError, "kind is 'kl'; expected one of"),
    "beta beyond 1": ({"kind": "jsd", "beta": 1.5}, ValueError, "beta is 1.5; expected 0, 1 or a number between"),
    "a NaN beta": ({"kind": "jsd", "beta": math.nan}, ValueError, "beta is nan; expected 0, 1 or a number between"),
    "beta as text": ({"kind": "jsd", "beta": "0"}, TypeError, "beta is '0'; expected a number from 0 to 1"),
    "weights of another shape": (
        {"kind": "jsd", "token_weight": torch.ones(2)}, ValueError, r"token_weight has shape \(2,\); expected \(2, 3\)",
    ),
    "weights of integers": (
        {"kind": "jsd", "token_weight": torch.ones(2, 3, dtype=torch.long)}, TypeError, "token_weight has dtype",
    ),
    "a teacher's temperature of 0": (
        {"kind": "jsd", "teacher_temperature": 0.0}, ValueError, "teacher_temperature is 0.0; expected a positive",
    ),
    "a teacher's softcap of 0": ({"kind": "jsd", "teacher_softcap": 0.0}, ValueError, "teacher_softcap is 0.0"),
    "an unknown output": ({"kind": "jsd", "outputs": ("logprob",)}, ValueError, r"outputs is \('logprob',\); expected"),
    "too many columns": ({"kind": "jsd", "vocab_size": 9}, ValueError, "vocab_size is 9; expected 1 to 8"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_one_error_that_says_what_was_expected(case):
    options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        divergence(torch.zeros(2, 3, 8), torch.zeros(2, 3, 8), **options)


def test_a_bad_teacher_is_named():
    x = torch.zeros(2, 3, 8)
    for teacher, error, message in (
        (torch.zeros(2, 4, 8), ValueError, r"teacher_logits has shape \(2, 4, 8\); expected \(2, 3\)"),
        (x.double(), TypeError, "teacher_logits has dtype torch.float64"),
        (torch.zeros(2, 3, 16)[..., ::2], ValueError, "teacher_logits has stride 2"),
        ([0.0], TypeError, "teacher_logits is a list; expected a torch.Tensor"),
    ):
        with pytest.raises(error, match=message):
            divergence(x, teacher, kind="jsd")


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU answers with NaN instead, to avoid a synchronisation")
def test_a_row_with_a_temperature_that_does_not_divide_is_named(backend):
    x, y = pair_of_logits(2, 3, 8)
    bad = torch.ones(2, 3)
    bad[1, 2] = -1
    for name in ("temperature", "teacher_temperature"):
        options = {"temperature": 1.0, name: bad}
        if backend != "triton":  # told of that backend, a bad temperature is NaN from the first
            with pytest.raises(ValueError, match=rf"^{name}\[1, 2\] is -1.0; expected a positive number"):
                divergence(x, y, kind="jsd", backend=backend, **options)
