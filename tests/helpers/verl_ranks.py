"""What each process of a divided vocabulary runs.

A module of its own: verl installs a package `tests`, in which a new process would look for this project's.
"""

import sys
import types

import torch
import torch.distributed as dist

WORLD, N, V, H = 2, 11, 203, 16  # the second process has two columns more


def columns(rank: int) -> slice:
    return slice(0, 100) if rank == 0 else slice(100, V)


def stand_in_for_megatron(group: dist.ProcessGroup) -> None:
    parallel_state = types.ModuleType("megatron.core.parallel_state")
    parallel_state.get_tensor_model_parallel_group = lambda: group
    core = types.ModuleType("megatron.core")
    core.parallel_state = parallel_state
    sys.modules |= {"megatron": types.ModuleType("megatron"), "megatron.core": core}
    sys.modules["megatron.core.parallel_state"] = parallel_state


def value_and_gradient(function, logits: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    value = function(logits, *rest)
    (gradient,) = torch.autograd.grad(value, logits, torch.linspace(-1, 1, value.numel()).view_as(value))
    return value.detach(), gradient


def process(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, WORLD), rank=rank, world_size=WORLD)
    stand_in_for_megatron(dist.group.WORLD)
    from verl.utils.megatron import tensor_parallel as theirs

    from rlif.integrations.verl import vocab_parallel as ours
    from rlif.integrations.verl.functions import linear_cross_entropy

    torch.manual_seed(0)
    logits = 4 * torch.randn(2, N, V)
    own = logits[..., columns(rank)].contiguous()
    exact = {"atol": 1e-5, "rtol": 0.0}  # as for whole rows: float32 and values of size 10
    for name in ("vocab_parallel_entropy", "vocab_parallel_entropy_with_chunking"):
        value, gradient = value_and_gradient(getattr(ours, name), own)
        expected, expected_gradient = value_and_gradient(getattr(theirs, name), own)
        assert value.dtype == expected.dtype
        torch.testing.assert_close(value, expected, **exact)
        torch.testing.assert_close(gradient, expected_gradient, **exact)
    torch.testing.assert_close(
        ours.vocab_parallel_sum_pi_squared(own), theirs.vocab_parallel_sum_pi_squared(own), **exact
    )

    labels = torch.randint(V, (2, N))
    value, gradient = value_and_gradient(ours.vocab_parallel_log_probs_from_logits, own, labels)
    expected, expected_gradient = value_and_gradient(
        lambda whole: whole.log_softmax(-1).gather(-1, labels[..., None])[..., 0], logits
    )
    torch.testing.assert_close(value, expected, **exact)
    torch.testing.assert_close(gradient, expected_gradient[..., columns(rank)], **exact)

    hidden, weight = torch.randn(N, H, requires_grad=True), torch.randn(V, H, requires_grad=True)
    whole = linear_cross_entropy(hidden, weight, labels[0], 0.9)
    expected = torch.autograd.grad(whole[0].sum() + 2 * whole[1].sum(), [hidden, weight])
    part = weight.detach()[columns(rank)].clone().requires_grad_()
    divided = linear_cross_entropy(hidden, part, labels[0], 0.9, "none", dist.group.WORLD)
    share, own_rows = torch.autograd.grad(divided[0].sum() + 2 * divided[1].sum(), [hidden, part])
    dist.all_reduce(share)  # what the caller's sequence-parallel region does, and verl's kernel leaves to it
    for value, wanted in ((divided[0], whole[0]), (divided[1], whole[1])):
        torch.testing.assert_close(value, wanted, **exact)
    for value, wanted in ((share, expected[0]), (own_rows, expected[1][columns(rank)])):
        # Sums over 203 columns or 11 rows of products of size 10.
        torch.testing.assert_close(value, wanted, atol=1e-4, rtol=0)
    dist.destroy_process_group()
