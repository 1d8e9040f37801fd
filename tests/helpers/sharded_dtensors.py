"""What the functions make of DTensors, in each process of a group: values and gradients are those of the whole."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from rlif_kernels import (
    divergence,
    grpo_loss,
    linear_divergence,
    linear_grpo_loss,
    linear_token_stats,
    reference,
    token_stats,
)
from rlif_kernels.stats import FIELDS

NUM_COLUMNS, WIDTH = 101, 16  # no multiple of two or three: slices of several sizes
ROWS = (3, 4)
STATS = {"temperature": 0.8, "vocab_size": 95, "outputs": FIELDS}
# Of each way in which the tokens of all processes are counted, and a term that is a mean over tokens beside it.
LOSSES = (
    {"loss_type": "dapo", "entropy_coef": 0.1},
    {"loss_type": "bnpo", "self_certainty_coef": 0.1},
    {"loss_type": "grpo", "entropy_coef": 0.1, "kl": "k3_corrected", "beta": 0.5},
    {"loss_type": "dr_grpo", "max_completion_length": 9, "importance_sampling_level": "sequence"},
)


class Case:
    """Hidden states, a head and what belongs to their rows, the same in every process, and all of it in float64."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)

        def numbers(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        self.hidden, self.weight, self.bias = numbers(*ROWS, WIDTH), numbers(NUM_COLUMNS, WIDTH), numbers(NUM_COLUMNS)
        self.teacher_hidden, self.teacher_weight = numbers(*ROWS, 8), numbers(NUM_COLUMNS, 8)
        self.targets = torch.randint(95, ROWS, generator=generator)
        self.mask = torch.rand(ROWS, generator=generator) < 0.8
        self.advantages = numbers(ROWS[0])
        self.old, self.ref = (-4 + 0.3 * numbers(*ROWS) for _ in range(2))
        self.exact = [x.double().requires_grad_() for x in (self.hidden, self.weight, self.bias)]

    def truth(self, function, *arguments, **options) -> list[torch.Tensor]:
        """The results of a reference function of the head, and the gradients of their sum, or of their loss."""
        for leaf in self.exact:
            leaf.grad = None
        given = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in arguments]
        named = {
            name: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            for name, x in options.items()
        }
        hidden, weight, bias = self.exact
        result = function(hidden, weight, *given, bias=bias, **named)
        total(result).backward()
        return [*(x.detach() for x in result if x is not None), *(leaf.grad for leaf in self.exact)]


def total(result) -> torch.Tensor:
    """What is differentiated: the loss, or the sum of all statistics."""
    if hasattr(result, "loss"):
        return result.loss
    return sum(x.sum() for x in result if x is not None)


def whole(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def assert_equal(what: str, result, leaves, expected) -> None:
    """Differentiate, and compare results and gradients with the whole's."""
    for leaf in leaves:
        leaf.grad = None
    total(result).backward()
    values = [*(x for x in result if x is not None), *(leaf.grad for leaf in leaves)]
    for value, other in zip(values, expected, strict=True):
        # Sums of float32 products in another order.
        torch.testing.assert_close(
            whole(value.detach()).double(), other.double(), rtol=1e-4, atol=2e-5, msg=lambda m: f"{what}: {m}"
        )
    for leaf in leaves:
        if isinstance(leaf, DTensor):
            assert leaf.grad.placements == leaf.placements, what


def check_dtensors(rank: int, world_size: int) -> None:
    case = Case()
    check_a_parallel_head(case, world_size)
    check_rows_on_another_dimension(case, world_size)
    check_what_is_refused(case, rank, world_size)


def check_a_parallel_head(case: Case, world_size: int) -> None:
    """The logits, and the head itself, of a layer that `parallelize_module` has divided."""
    mesh = init_device_mesh("cpu", (world_size,))
    layer = torch.nn.Linear(WIDTH, NUM_COLUMNS)
    layer.load_state_dict({"weight": case.weight, "bias": case.bias})
    parallelize_module(layer, mesh, ColwiseParallel(output_layouts=Shard(-1), use_local_output=False))
    hidden = case.hidden.clone().requires_grad_()
    leaves = (hidden, layer.weight, layer.bias)
    given = (case.targets, case.advantages, case.old, case.ref)
    shared = {"mask": case.mask, "vocab_size": 95, "beta": 0.5, "kl": "k3_corrected"}

    expected = case.truth(reference.linear_token_stats, case.targets, mask=case.mask, **STATS)
    result = token_stats(layer(hidden), case.targets, mask=case.mask, **STATS)
    assert all(x.placements == (Replicate(),) for x in result)
    assert_equal("token_stats", result, leaves, expected)
    result = linear_token_stats(hidden, layer.weight, case.targets, bias=layer.bias, mask=case.mask, **STATS)
    assert not any(isinstance(x, DTensor) for x in result)  # the rows came as a plain tensor
    assert_equal("linear_token_stats", result, leaves, expected)

    expected = case.truth(reference.linear_grpo_loss, *given, **shared)
    result = grpo_loss(layer(hidden), *given, **shared)
    assert result.loss.placements == (Replicate(),)
    assert_equal("grpo_loss", result, leaves, expected)
    result = linear_grpo_loss(hidden, layer.weight, *given, bias=layer.bias, **shared)
    assert_equal("linear_grpo_loss", result, leaves, expected)
    replicated = distribute_tensor(case.hidden, mesh, [Replicate()]).requires_grad_()
    result = linear_grpo_loss(replicated, layer.weight, *given, bias=layer.bias, **shared)
    assert_equal("hidden as a DTensor", result, (replicated, *leaves[1:]), expected)

    teacher_weight = distribute_tensor(case.teacher_weight, mesh, [Shard(0)])
    options = {"kind": "jsd", "beta": 0.3, "mask": case.mask}
    expected = case.truth(reference.linear_divergence, case.teacher_hidden, case.teacher_weight, **options)
    teacher = (case.teacher_hidden, teacher_weight)
    result = linear_divergence(hidden, layer.weight, *teacher, bias=layer.bias, **options)
    assert_equal("linear_divergence", result, leaves, expected)
    teacher_logits = distribute_tensor(case.teacher_hidden @ case.teacher_weight.T, mesh, [Shard(2)])
    assert_equal("divergence", divergence(layer(hidden), teacher_logits, **options), leaves, expected)
    options = {"beta": 0.5, "kl": "full"}
    expected = case.truth(
        reference.linear_grpo_loss,
        *given[:3],
        ref_hidden=case.teacher_hidden,
        ref_weight=case.teacher_weight,
        **options,
    )
    result = grpo_loss(layer(hidden), *given[:3], ref_logits=teacher_logits, **options)
    assert_equal("full KL", result, leaves, expected)

    layer = torch.nn.Linear(WIDTH, NUM_COLUMNS)
    layer.load_state_dict({"weight": case.weight, "bias": case.bias})
    parallelize_module(layer, mesh, ColwiseParallel(output_layouts=Replicate(), use_local_output=False))
    leaves = (hidden, layer.weight, layer.bias)
    expected = case.truth(reference.linear_token_stats, case.targets, mask=case.mask, **STATS)
    result = token_stats(layer(hidden), case.targets, mask=case.mask, **STATS)
    assert all(x.placements == (Replicate(),) for x in result)
    assert_equal("replicated logits", result, leaves, expected)


def check_rows_on_another_dimension(case: Case, world_size: int) -> None:
    """Rows over one dimension of a mesh and columns over the other: the loss is that of all rows."""
    for sizes in ((world_size, 1), (1, world_size)):
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("data", "model"))
        rows, columns = (Shard(0), Replicate()), (Shard(0), Shard(2))
        weight, bias = (distribute_tensor(x, mesh, (Replicate(), Shard(0))) for x in (case.weight, case.bias))
        hidden = distribute_tensor(case.hidden, mesh, rows)
        leaves = tuple(x.requires_grad_() for x in (hidden, weight, bias))
        # Some as they lie there, some the same on all processes, some this process's own part.
        targets, mask = distribute_tensor(case.targets, mesh, rows), distribute_tensor(case.mask, mesh, rows).to_local()
        advantages = distribute_tensor(case.advantages, mesh, (Replicate(), Replicate()))
        old, ref = (distribute_tensor(x, mesh, rows) for x in (case.old, case.ref))
        for options in LOSSES:
            expected = case.truth(
                reference.linear_grpo_loss, case.targets, case.advantages, case.old, case.ref, mask=case.mask, **options
            )
            given = (targets, advantages, old, ref)
            result = linear_grpo_loss(hidden, weight, *given, bias=bias, mask=mask, **options)
            assert result.loss.placements == (Replicate(), Replicate())
            assert result.logprob.placements == rows
            assert_equal(f"{sizes} {options}", result, leaves, expected)
        result = linear_token_stats(hidden, weight, targets, bias=bias, mask=mask, **STATS)
        expected = case.truth(reference.linear_token_stats, case.targets, mask=case.mask, **STATS)
        assert_equal(f"{sizes} token_stats", result, leaves, expected)

        logits = torch.nn.functional.linear(case.hidden, case.weight, case.bias)
        teacher = case.teacher_hidden @ case.teacher_weight.T
        leaf, exact = distribute_tensor(logits, mesh, columns).requires_grad_(), logits.double().requires_grad_()
        result = divergence(leaf, distribute_tensor(teacher, mesh, columns), kind="forward_kl", mask=mask)
        theirs = reference.divergence(exact, teacher.double(), kind="forward_kl", mask=case.mask)
        theirs.loss.backward()
        assert_equal(f"{sizes} divergence", result, (leaf,), [theirs.loss, theirs.value, exact.grad])


def check_what_is_refused(case: Case, rank: int, world_size: int) -> None:
    """What only several processes can get wrong is one error on each of them, and none waits for another."""
    mesh = init_device_mesh("cpu", (world_size,))
    narrow = distribute_tensor(torch.zeros(1, WIDTH), mesh, [Shard(0)])
    with pytest.raises(ValueError, match=f"^weight has 1 columns, which 1 of {world_size} processes hold; expected"):
        linear_token_stats(case.hidden, narrow, case.targets)
    weight = distribute_tensor(case.weight, mesh, [Shard(0)])
    with pytest.raises(ValueError, match=r"^hidden has other rows on each process .* or weight.full_tensor\(\) where"):
        linear_token_stats(case.hidden[rank : rank + 1], weight, case.targets[rank : rank + 1])
    backwards = DeviceMesh("cpu", list(reversed(range(world_size))))
    weight = DTensor.from_local(case.weight, backwards, [Shard(0)], run_check=False)
    with pytest.raises(ValueError, match=r"^weight is on DeviceMesh.*; expected a mesh whose ranks ascend"):
        linear_token_stats(case.hidden, weight, case.targets)
    dist.barrier()
