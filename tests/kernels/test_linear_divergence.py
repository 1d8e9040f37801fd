"""Divergences from hidden states and two heads: values, three gradients, and no more memory than a tile."""

import pytest
import torch
from torch import func

from comparison import DEVICE, mostly_interpreted
from divergences import assert_divergences_match, doubled
from rlif_kernels import linear_divergence, reference
from rlif_kernels.head import products
from rlif_kernels.pairs import KINDS, PAIR_OUTPUTS

NUM_COLUMNS, WIDTH, TEACHER_WIDTH = 101, 16, 24


def heads(dtype=torch.float32, teacher_columns=NUM_COLUMNS):
    """hidden, weight, bias of the student; then of a teacher with a width of its own."""

    def head(num_columns, width):
        hidden, weight, bias = (
            torch.randn(*shape, device=DEVICE) for shape in ((3, 4, width), (num_columns, width), (num_columns,))
        )
        return [hidden.to(dtype), (weight / 2).to(dtype), bias.to(dtype)]

    return head(NUM_COLUMNS, WIDTH), head(teacher_columns, TEACHER_WIDTH)


def call(function, student, teacher, **options):
    hidden, weight, bias = student
    teacher_hidden, teacher_weight, teacher_bias = teacher
    return function(hidden, weight, teacher_hidden, teacher_weight, bias=bias, teacher_bias=teacher_bias, **options)


def exact(tensors):
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def check(student, teacher, backend, rtol=1e-4, **options):
    """Compare values and the three gradients with the reference's of the same tensors."""
    mine, theirs = [x.detach().clone().requires_grad_() for x in student], exact(student)
    given = {"outputs": PAIR_OUTPUTS, **options}
    ours = call(linear_divergence, mine, teacher, backend=backend, **given)
    rows = {name: value for name, value in given.items() if name not in ("tile_bytes", "logits_dtype")}
    expected = call(reference.linear_divergence, theirs, [x.double() for x in teacher], **doubled(rows))
    ours.loss.backward()
    expected.loss.backward()
    for leaf, other in zip(mine, theirs, strict=True):
        size = other.grad.abs().max().item()
        torch.testing.assert_close(leaf.grad.double(), other.grad, rtol=rtol, atol=max(1e-6, rtol * size))
    return ours, expected


@pytest.mark.parametrize("tile_bytes", mostly_interpreted(1 << 29, 3000, 1, fast=(3000,)))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_matches_the_reference_in_tiles_of_any_size(kind, tile_bytes, backend):
    student, teacher = heads(teacher_columns=97)
    mask = torch.rand(3, 4, device=DEVICE) > 0.3
    options = {"temperature": 0.8, "teacher_temperature": 1.2, "softcap": 10.0, "vocab_size": 95, "mask": mask}
    weight = torch.randn(3, 4, device=DEVICE)
    ours, expected = check(student, teacher, backend, kind=kind, tile_bytes=tile_bytes, token_weight=weight, **options)
    # The logits of either side are float32, rounded as a linear layer rounds them.
    for name in PAIR_OUTPUTS:
        torch.testing.assert_close(
            getattr(ours, name).double(), getattr(expected, name), rtol=2e-5, atol=2e-5, check_dtype=False
        )


def test_a_models_own_head_is_multiplied_once_for_both_sides(backend, monkeypatch):
    student, teacher = heads()
    teacher = [teacher[0][..., :WIDTH], student[1], student[2]]
    count = []

    def counted(*arguments, **options):
        count.append(arguments[0].shape)
        return multiply(*arguments, **options)

    multiply = products.multiply
    monkeypatch.setattr("rlif_kernels.head.head.multiply", counted)
    with torch.no_grad():
        together = call(linear_divergence, student, teacher, kind="jsd", backend=backend)
        assert count == [(24, WIDTH)]
        apart = call(linear_divergence, student, [x.clone() for x in teacher], kind="jsd", backend=backend)
        assert count[1:] == [(12, WIDTH), (12, WIDTH)]
    torch.testing.assert_close(together.value, apart.value, rtol=1e-5, atol=1e-6)
    check(student, teacher, backend, kind="jsd", tile_bytes=3000)


def test_a_student_that_is_its_own_teacher_has_no_divergence_and_no_gradient(backend):
    hidden, weight, bias = (x.requires_grad_() for x in heads()[0])
    for kind in KINDS:
        result = call(
            linear_divergence,
            (hidden, weight, bias),
            (hidden, weight, bias),
            kind=kind,
            tile_bytes=3000,
            backend=backend,
        )
        gradients = torch.autograd.grad(result.loss, (hidden, weight, bias))
        assert result.loss == 0
        assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", mostly_interpreted(torch.bfloat16, torch.float16, fast=(torch.bfloat16,)))
def test_half_precision_heads_are_within_their_rounding(dtype, backend):
    student, teacher = heads(dtype)
    for options in ({}, {"logits_dtype": torch.float32}, {"logits_dtype": torch.float32, "tile_bytes": 3000}):
        ours, expected = check(student, teacher, backend, kind="reverse_kl", rtol=0.04, **options)
        # A rounded logit is 2^-9 of itself off, here by up to 0.03; unrounded ones are exact to float32.
        bound = 1e-5 if options else 0.1
        torch.testing.assert_close(ours.value.double(), expected.value, rtol=bound, atol=bound, check_dtype=False)


def test_a_gradient_that_nobody_needs_costs_no_product(backend, monkeypatch):
    (hidden, weight, _), teacher = heads()
    count = []
    multiply = products.multiply
    for place in ("rlif_kernels.head.head.multiply", "rlif_kernels.head.gradients.multiply"):
        monkeypatch.setattr(place, lambda *a, **o: (count.append(1), multiply(*a, **o))[1])
    for needs_hidden, expected in ((False, 2), (True, 3)):
        count.clear()
        hidden.requires_grad_(needs_hidden)
        loss = linear_divergence(hidden, weight, *teacher[:2], kind="jsd", backend=backend).loss
        if loss.requires_grad:
            loss.backward()
        assert len(count) == expected


def test_rows_that_are_all_masked_have_gradients_of_0(backend):
    student, teacher = heads()
    leaves = [x.requires_grad_() for x in student]
    result = call(
        linear_divergence, leaves, teacher, kind="jsd", mask=torch.zeros(3, 4, dtype=torch.bool, device=DEVICE),
        backend=backend,
    )  # fmt: skip
    result.loss.backward()
    assert result.loss == 0
    assert all((leaf.grad == 0).all() for leaf in leaves)


def test_transforms_give_gradients_and_tangents_and_refuse_vmap(backend):
    student, teacher = heads()
    tangents = tuple(torch.randn_like(x) for x in student)

    def loss(*tensors):
        return call(linear_divergence, tensors, teacher, kind="jsd", tile_bytes=3000, backend=backend).loss

    _, ours = func.jvp(loss, tuple(student), tangents)
    _, theirs = func.jvp(
        lambda *tensors: call(reference.linear_divergence, tensors, [x.double() for x in teacher], kind="jsd").loss,
        tuple(x.double() for x in student), tuple(x.double() for x in tangents),
    )  # fmt: skip
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    leaves = [x.detach().clone().requires_grad_() for x in student]
    loss(*leaves).backward()
    for gradient, leaf in zip(func.grad(loss, argnums=(0, 1, 2))(*student), leaves, strict=True):
        assert torch.equal(gradient, leaf.grad)
    with pytest.raises(RuntimeError, match=r"^linear_divergence has no rule for torch\.func\.vmap"):
        func.vmap(lambda h: loss(h, *student[1:]))(student[0][None])


def test_torch_compile_traces_the_whole_graph(backend):
    student, teacher = heads()
    leaves = [x.requires_grad_() for x in student]

    def loss(*tensors):
        return call(linear_divergence, tensors, teacher, kind="reverse_kl", backend=backend).loss

    torch.compiler.reset()
    expected = torch.autograd.grad(loss(*leaves), leaves)
    actual = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves), leaves)
    for gradient, other in zip(actual, expected, strict=True):
        assert torch.equal(gradient, other)


def test_a_bad_teachers_head_is_named():
    (hidden, weight, bias), (teacher_hidden, teacher_weight, _) = heads()
    for arguments, message in (
        ((hidden, weight, teacher_hidden, weight), r"teacher_weight has shape \(101, 16\); expected \(V, 24\)"),
        (
            (hidden, weight, teacher_hidden[:2], teacher_weight),
            r"teacher_hidden has shape \(2, 4, 24\); expected \(3, 4\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            linear_divergence(*arguments, kind="jsd")
    with pytest.raises(ValueError, match=r"teacher_bias has shape \(7,\); expected \(101,\)"):
        linear_divergence(hidden, weight, teacher_hidden, teacher_weight, kind="jsd", teacher_bias=bias[:7])


def test_values_without_gradient_match(backend):
    student, teacher = heads()
    with torch.no_grad():
        ours = call(linear_divergence, student, teacher, kind="jsd", outputs=PAIR_OUTPUTS, backend=backend)
        logits = [torch.nn.functional.linear(*side) for side in (student, teacher)]
        expected = reference.divergence(*(x.double() for x in logits), kind="jsd", outputs=PAIR_OUTPUTS)
    assert_divergences_match(ours, expected)
