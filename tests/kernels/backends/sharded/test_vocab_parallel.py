"""A vocabulary sharded over processes gives what the whole gives, and exchanges eleven numbers a row for it.

gloo, two and three processes, uneven slices.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from comparison import assert_gradients_match, assert_values_match, upstream_gradients, weighted_sum
from rlif_kernels import grpo_loss, linear_grpo_loss, linear_token_stats, reference, token_stats
from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.stats import FIELDS

SLICES = {2: (53, 48), 3: (40, 1, 60)}


def whole_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """12 rows of 101 columns that meet every edge, the same in every process."""
    generator = torch.Generator().manual_seed(7)
    logits = 3 * torch.randn(3, 4, 101, generator=generator)
    targets = torch.randint(101, (3, 4), generator=generator)
    targets[0, 1] = -100
    logits[0, 2, 10] = -torch.inf
    logits[0, 3, :40] = -torch.inf  # no support in the first slice of three
    targets[0, 3] = 7  # nor probability for this target
    logits[1, 0, 50] = torch.nan
    logits[1, 1] = -torch.inf
    logits[1, 2] += 1e4
    logits[1, 3, 60:] = torch.finfo(torch.float32).min
    logits[2, 0, 99] = torch.inf
    return logits, targets


CASES = {
    "all fields": {},
    "temperature": {"temperature": 1.3},
    "softcap": {"softcap": 20.0},
    "padded, the last slice holds padding alone": {"vocab_size": 41},
    "in place": {"inplace_backward": True},
    "one field": {"outputs": ("logprob",)},
    "two fields": {"outputs": ("logsumexp", "top_probs")},
}


def own_columns(rank: int, world_size: int) -> slice:
    start = sum(SLICES[world_size][:rank])
    return slice(start, start + SLICES[world_size][rank])


def check_values(rank: int, world_size: int) -> None:
    logits, targets = whole_rows()
    columns = own_columns(rank, world_size)
    for backend in ("torch", "triton", *(["cpu"] if cpu_backend.library() else [])):
        for name, case in CASES.items():
            options = {"outputs": FIELDS, **case}
            ids = targets % 41 if "vocab_size" in case else targets
            ids = ids.where(targets != -100, -100)
            leaf = logits[..., columns].clone().requires_grad_()
            stats = token_stats(leaf * 1, ids, group=dist.group.WORLD, backend=backend, **options)
            exact = logits.double().requires_grad_()
            reference_options = {key: value for key, value in options.items() if key != "inplace_backward"}
            expected = reference.token_stats(exact, ids, **reference_options)
            try:
                assert_values_match(stats, expected)
                torch.manual_seed(1)
                weights = {n: w for n, w in upstream_gradients(ids.shape, "cpu").items() if n in options["outputs"]}
                weighted_sum(stats, weights).backward()
                weighted_sum(expected, weights).backward()
                assert_gradients_match(leaf.grad, exact.grad[..., columns], weights, options.get("temperature", 1.0))
            except AssertionError as error:
                raise AssertionError(f"{backend}, {name}, rank {rank}: {error}") from error

        check_head(rank, world_size, backend)

    with pytest.raises(IndexError, match=r"targets\[0, 0\] is 101; expected an id in \[0, 101\)"):
        token_stats(logits[..., columns], targets.fill_(101), group=dist.group.WORLD)
    with pytest.raises(ValueError, match="vocab_size is 102; expected 1 to 101, the columns of all slices"):
        token_stats(logits[..., columns], targets.fill_(0), group=dist.group.WORLD, vocab_size=102)


def check_exchanges(rank: int, world_size: int) -> None:
    """Bytes that this rank brings to the collectives: float64 numbers, and the gradient of hidden states."""
    brought: dict[str, list[int]] = {"all_gather": [], "all_reduce": []}
    all_gather, all_reduce = dist.all_gather, dist.all_reduce

    def counted_gather(gathered, own, **options):
        brought["all_gather"].append(own.nbytes)
        return all_gather(gathered, own, **options)

    def counted_reduce(value, **options):
        brought["all_reduce"].append(value.nbytes)
        return all_reduce(value, **options)

    dist.all_gather, dist.all_reduce = counted_gather, counted_reduce
    num_rows, width, columns = 12, 16, own_columns(rank, world_size)
    slice_size, row = 8, 11 * 8  # a rank says once how many columns it has
    shared = {"group": dist.group.WORLD, "backend": "torch"}
    targets = torch.arange(num_rows).view(3, 4)

    def exchanged(function, *arguments, **options):
        for sizes in brought.values():
            sizes.clear()
        result = function(*arguments, **options)
        return result, sum(brought["all_gather"]), brought["all_reduce"]

    for outputs in (("logprob",), FIELDS):  # however many fields are asked for
        logits = torch.randn(3, 4, columns.stop - columns.start, requires_grad=True)
        stats, *forward = exchanged(token_stats, logits, targets, outputs=outputs, **shared)
        assert forward == [slice_size + row * num_rows, []]
        assert exchanged(stats.logprob.sum().backward) == (None, 0, [])
    hidden = torch.randn(3, 4, width, requires_grad=True)
    weight = torch.randn(columns.stop - columns.start, width, requires_grad=True)

    def backward_of_stats(tile_bytes):
        linear_token_stats(hidden, weight, targets, tile_bytes=tile_bytes, **shared).logprob.sum().backward()

    def backward_of_loss(tile_bytes):
        linear_grpo_loss(hidden, weight, targets, torch.ones(3), tile_bytes=tile_bytes, **shared).loss.backward()

    for step in (backward_of_stats, backward_of_loss):
        for tile_bytes, several in ((1 << 29, False), (1000, True)):
            assert exchanged(step, tile_bytes) == (None, slice_size + row * num_rows, [4 * num_rows * width])
            assert (len(brought["all_gather"]) > 2) == several  # the sizes of slices, and the rows of each tile


def check_head(rank: int, world_size: int, backend: str) -> None:
    """A sharded head, through both ways to use it, and the loss of sharded logits."""
    generator = torch.Generator().manual_seed(3)
    columns = own_columns(rank, world_size)
    hidden = torch.randn(3, 4, 16, generator=generator)
    weight, bias = torch.randn(101, 16, generator=generator), torch.randn(101, generator=generator)
    targets = torch.randint(90, (3, 4), generator=generator)
    masked = targets.clone()
    masked[0, 1] = -100
    advantages = torch.tensor([1.0, -0.5, 0.0])
    old = -6 * torch.rand(3, 4, generator=generator)
    options = {"temperature": 0.8, "softcap": 20.0, "vocab_size": 95}
    shared = {"group": dist.group.WORLD, "backend": backend}
    losses = {
        "token_stats": (
            lambda h, w, b, **o: linear_token_stats(h, w, ids, bias=b, outputs=FIELDS[:-1], **o),
            lambda h, w, b, **o: reference.linear_token_stats(h, w, ids, bias=b, outputs=FIELDS[:-1], **o),
        ),
        "linear_grpo_loss": (
            lambda h, w, b, **o: linear_grpo_loss(h, w, ids, advantages, old, bias=b, entropy_coef=0.1, **o),
            lambda h, w, b, **o: reference.linear_grpo_loss(
                h, w, ids, advantages.double(), old.double(), bias=b, entropy_coef=0.1, **o
            ),
        ),
        "grpo_loss": (
            lambda h, w, b, **o: grpo_loss(
                torch.nn.functional.linear(h, w, b), ids, advantages, old, entropy_coef=0.1, **o
            ),
            lambda h, w, b, **o: reference.linear_grpo_loss(
                h, w, ids, advantages.double(), old.double(), bias=b, entropy_coef=0.1, **o
            ),
        ),
    }
    for name, (ours, theirs) in losses.items():
        for tile in ({},) if name == "grpo_loss" else ({}, {"tile_bytes": 1000}):
            ids = targets if tile else masked
            # A masked row has every rank gather the others. Without one strides decide, which are a rank's own: here
            # the first one's rows have to be gathered, the others' do not, and their tiles must be alike all the same.
            gathered = rank == 0 and name != "grpo_loss"
            strided = hidden.transpose(0, 1).contiguous().transpose(0, 1) if gathered else hidden.clone()
            parts = [strided, weight[columns].clone(), bias[columns].clone()]
            whole = [hidden.double(), weight.double(), bias.double()]
            results = []
            for tensors, function, more in ((parts, ours, shared | tile), (whole, theirs, {})):
                for tensor in tensors:
                    tensor.requires_grad_()
                result = function(*tensors, **options, **more)
                results.append(result)
                loss = (
                    sum(value.sum() for value in result if value is not None) if name == "token_stats" else result.loss
                )
                loss.backward()
            for value, expected in zip(*results, strict=True):
                if value is not None:
                    torch.testing.assert_close(value.double(), expected.double(), rtol=1e-5, atol=1e-5)
            gradients = (whole[0].grad, whole[1].grad[columns], whole[2].grad[columns])
            if name == "grpo_loss":  # the head is not ours: what it passes on is this rank's share
                dist.all_reduce(parts[0].grad)
            for part, expected in zip(parts, gradients, strict=True):
                torch.testing.assert_close(part.grad.double(), expected, rtol=1e-4, atol=1e-5, msg=f"{name} {backend}")


CHECKS = {"values": check_values, "exchanges": check_exchanges}


def run_rank(rank: int, world_size: int, store: str, check: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    CHECKS[check](rank, world_size)
    dist.barrier()  # a rank that leaves early takes its connections with it
    dist.destroy_process_group()


def run_ranks(world_size: int, store: Path, check: str) -> None:
    # Processes of their own rather than forks: the interpreter's threads and torch's do not survive a fork.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(world_size), str(store), check],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world_size)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    # When one rank fails the others only lose their connection: show them all.
    assert [process.returncode for process in processes] == [0] * world_size, "\n".join(outputs)


needs_distributed = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")


@needs_distributed
@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_sharded_vocabularies_equal_the_whole(world_size, tmp_path):
    run_ranks(world_size, tmp_path / "store", "values")


@needs_distributed
def test_a_forward_gathers_eleven_numbers_a_row_and_a_backward_nothing_but_sums_what_the_hidden_states_share(tmp_path):
    run_ranks(2, tmp_path / "store", "exchanges")


def test_the_merge_of_one_slice_is_that_slice(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        logits = 3 * torch.randn(4, 50)
        targets = torch.randint(50, (4,))
        alone = token_stats(logits, targets, outputs=FIELDS)
        merged = token_stats(logits, targets, outputs=FIELDS, group=dist.group.WORLD)
        for value, expected in zip(merged, alone, strict=True):
            assert math.isclose((value - expected).abs().max(), 0, abs_tol=1e-6)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    from interpreter import make_interpreted_fma_fused

    make_interpreted_fma_fused()
    run_rank(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
