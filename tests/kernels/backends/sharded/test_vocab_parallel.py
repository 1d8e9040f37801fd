"""A vocabulary sharded over processes gives what the whole gives, and exchanges a few numbers a row for it.

gloo, two and three processes, uneven slices.
"""

import sys
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import forked
from comparison import (
    DEVICE,
    SUM_FIELDS,
    assert_gradients_match,
    assert_values_match,
    gradient_sizes,
    present,
    random_targets,
    upstream_gradients,
    weighted_sum,
)
from divergences import assert_divergences_match
from rlif_kernels import (
    compat,
    divergence,
    grpo_loss,
    linear_divergence,
    linear_grpo_loss,
    linear_token_stats,
    reference,
    token_stats,
)
from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.functional import DIFFERENTIABLE
from rlif_kernels.pairs import KINDS, PAIR_OUTPUTS
from rlif_kernels.stats import FIELDS
from sharded_dtensors import check_dtensors

SLICES = {2: (53, 48), 3: (40, 1, 60)}


def whole_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """12 rows of 101 columns that meet every edge, the same in every process."""
    generator = torch.Generator().manual_seed(7)
    logits = 3 * torch.randn(3, 4, 101, generator=generator)
    logits[0, 2, 10] = -torch.inf
    logits[0, 3, :40] = -torch.inf  # no support in the first slice of three
    logits[1, 0, 50] = torch.nan
    logits[1, 1] = -torch.inf
    logits[1, 2] += 1e4
    logits[1, 3, 60:] = torch.finfo(torch.float32).min
    logits[2, 0, 99] = torch.inf
    targets = random_targets(logits, generator=generator)
    targets[0, 1] = -100
    targets[0, 3] = 7  # of probability 0
    return logits, targets


CASES = {
    "all fields": {},
    "temperature": {"temperature": 1.3},
    "softcap": {"softcap": 20.0},
    "padded, the last slice holds padding alone": {"vocab_size": 41},
    "in place": {"inplace_backward": True},
    "one field": {"outputs": ("logprob",), "top_logprobs": None},
    "two fields": {"outputs": ("logsumexp", "top_probs"), "top_logprobs": None},
}


def own_columns(rank: int, world_size: int) -> slice:
    start = sum(SLICES[world_size][:rank])
    return slice(start, start + SLICES[world_size][rank])


def check_values(rank: int, world_size: int, backends: str) -> None:
    logits, targets = whole_rows()
    columns = own_columns(rank, world_size)
    for backend in backends.split():
        if backend == "cpu" and cpu_backend.library() is None:
            continue
        for name, case in CASES.items():
            options = {"outputs": FIELDS, "top_logprobs": 6, **case}
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
                sizes = gradient_sizes(weights, expected)
                assert_gradients_match(leaf.grad, exact.grad[..., columns], sizes, options.get("temperature", 1.0))
            except AssertionError as error:
                raise AssertionError(f"{backend}, {name}, rank {rank}: {error}") from error

        check_head(rank, world_size, backend)
        check_divergences(rank, world_size, backend)
        check_tangents(rank, world_size, backend)
        check_several_targets(rank, world_size, backend)

    with pytest.raises(IndexError, match=r"targets\[0, 0\] is 101; expected an id in \[0, 101\)"):
        token_stats(logits[..., columns], targets.fill_(101), group=dist.group.WORLD)
    with pytest.raises(ValueError, match="vocab_size is 102; expected 1 to 101, the columns of all slices"):
        token_stats(logits[..., columns], targets.fill_(0), group=dist.group.WORLD, vocab_size=102)


def check_head(rank: int, world_size: int, backend: str) -> None:
    """A sharded head, through both ways to use it, and the loss of sharded logits."""
    generator = torch.Generator().manual_seed(3)
    columns = own_columns(rank, world_size)
    hidden = torch.randn(3, 4, 16, generator=generator)
    weight, bias = torch.randn(101, 16, generator=generator), torch.randn(101, generator=generator)
    targets = random_targets(torch.nn.functional.linear(hidden, weight, bias), 90, generator=generator)
    masked = targets.clone()
    masked[0, 1] = -100
    advantages = torch.tensor([1.0, -0.5, 0.0])
    old = -6 * torch.rand(3, 4, generator=generator)
    options = {"temperature": 0.8, "softcap": 20.0, "vocab_size": 95}
    shared = {"group": dist.group.WORLD, "backend": backend}
    losses = {
        "token_stats": (
            lambda h, w, b, **o: linear_token_stats(h, w, ids, bias=b, outputs=DIFFERENTIABLE, **o),
            lambda h, w, b, **o: reference.linear_token_stats(h, w, ids, bias=b, outputs=DIFFERENTIABLE, **o),
        ),
        "linear_grpo_loss": (
            lambda h, w, b, **o: linear_grpo_loss(h, w, ids, advantages, old, bias=b, entropy_coef=0.1, **o),
            lambda h, w, b, **o: reference.linear_grpo_loss(
                h, w, ids, advantages.double(), old.double(), bias=b, entropy_coef=0.1, **o
            ),
        ),
        # Off-policy it is no kernel's; with a choice of tokens it is `linear_token_stats` and `policy_loss`.
        "linear_grpo_loss, sapo": (
            lambda h, w, b, **o: linear_grpo_loss(h, w, ids, advantages, old, bias=b, **sapo, **o),
            lambda h, w, b, **o: reference.linear_grpo_loss(
                h, w, ids, advantages.double(), old.double(), bias=b, **sapo, **o
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
    sapo = {"loss_type": "sapo", "sapo_temperature_neg": 2.0}
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


def check_divergences(rank: int, world_size: int, backend: str) -> None:
    """Divergences of sharded rows at every edge, and of sharded heads."""
    logits, _ = whole_rows()
    generator = torch.Generator().manual_seed(9)
    teacher = logits.nan_to_num(0, 3, -9) + torch.randn(logits.shape, generator=generator)
    teacher[0, 2, 10] = teacher[0, 3, :40] = teacher[2, 3, 20] = -torch.inf
    weight, columns = torch.randn(3, 4, generator=generator), own_columns(rank, world_size)
    shared = {"group": dist.group.WORLD, "backend": backend}
    rows = {"temperature": 0.8, "teacher_temperature": 1.3, "softcap": 20.0, "vocab_size": 41}
    for kind, options in product(KINDS, ({}, rows)):
        given = {"kind": kind, "beta": 0.3, "token_weight": weight, "outputs": PAIR_OUTPUTS, **options}
        leaf, exact = logits[..., columns].clone().requires_grad_(), logits.double().requires_grad_()
        actual = divergence(leaf, teacher[..., columns], **given, **shared)
        expected = reference.divergence(exact, teacher.double(), **given)
        try:
            assert_divergences_match(actual, expected)
            actual.loss.backward()
            expected.loss.backward()
            ours, theirs = leaf.grad, exact.grad[..., columns]
            # NaN in a row is its own slice's alone where the row has no distribution.
            defined = ~exact.grad.isnan().any(-1)
            size = weight[defined].abs() * expected.value[defined].abs().clamp(min=1)
            wrong = (ours.double() - theirs)[defined].abs() > 4e-6 * size[:, None]
            assert not wrong.any()
        except AssertionError as error:
            raise AssertionError(f"{backend}, {kind}, {options}, rank {rank}: {error}") from error

    shapes = ((3, 4, 16), (101, 16), (101,), (3, 4, 8), (101, 8))
    hidden, head, bias, teacher_hidden, teacher_head = (torch.randn(size, generator=generator) for size in shapes)
    parts = [x.clone().requires_grad_() for x in (hidden, head[columns], bias[columns])]
    whole = [x.double().requires_grad_() for x in (hidden, head, bias)]
    options = {"kind": "jsd", "beta": 0.3, "vocab_size": 95, "softcap": 20.0, "token_weight": weight}
    ours = linear_divergence(
        *parts[:2], teacher_hidden, teacher_head[columns], bias=parts[2], tile_bytes=1000, **options, **shared
    )
    theirs = reference.linear_divergence(
        *whole[:2], teacher_hidden.double(), teacher_head.double(), bias=whole[2], **options
    )
    for loss in (ours.loss, theirs.loss):
        loss.backward()
    torch.testing.assert_close(ours.value.double(), theirs.value, rtol=1e-5, atol=1e-5)
    expected = (whole[0].grad, whole[1].grad[columns], whole[2].grad[columns])
    for part, other in zip(parts, expected, strict=True):
        torch.testing.assert_close(part.grad.double(), other, rtol=1e-4, atol=1e-5, msg=f"linear_divergence {backend}")

    # The same divergence as the penalty of a loss, in the loss's own tiles.
    targets, advantages = torch.zeros(3, 4, dtype=torch.long), torch.tensor([1.0, -0.5, 0.2])
    for leaf in (*parts, *whole):
        leaf.grad = None
    penalty = {"beta": 0.5, "kl": "full", "vocab_size": 95, "softcap": 20.0}
    ours = linear_grpo_loss(
        *parts[:2], targets, advantages, bias=parts[2], ref_hidden=teacher_hidden, ref_weight=teacher_head[columns],
        tile_bytes=1000, **penalty, **shared,
    )  # fmt: skip
    theirs = reference.linear_grpo_loss(
        *whole[:2], targets, advantages.double(), bias=whole[2], ref_hidden=teacher_hidden.double(),
        ref_weight=teacher_head.double(), **penalty,
    )  # fmt: skip
    for loss in (ours.loss, theirs.loss):
        loss.backward()
    torch.testing.assert_close(ours.kl.double(), theirs.kl, rtol=1e-5, atol=1e-5)
    expected = (whole[0].grad, whole[1].grad[columns], whole[2].grad[columns])
    for part, other in zip(parts, expected, strict=True):
        torch.testing.assert_close(part.grad.double(), other, rtol=1e-4, atol=1e-5, msg=f"full KL {backend}")

    # NeMo-RL's function, by its names.
    sharded, ids = torch.randn(3, 4, 101, generator=generator), torch.randint(101, (3, 4), generator=generator)
    value = compat.get_next_token_logprobs_from_logits(
        ids, sharded[..., columns], vocab_parallel_rank=rank, vocab_parallel_group=dist.group.WORLD
    )
    expected = sharded[:, :-1].double().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)


def check_several_targets(rank: int, world_size: int, backend: str) -> None:
    """Rows with several targets, some of them in other slices, of logits and of a head, and their tangents."""
    generator = torch.Generator().manual_seed(7)
    columns = own_columns(rank, world_size)
    shared = {"group": dist.group.WORLD, "backend": backend}
    hidden, weight = torch.randn(3, 4, 16, generator=generator), torch.randn(101, 16, generator=generator)
    logits = hidden @ weight.T
    logits[0, 1, 60] = 90.0  # nearly certain, in the last slice
    targets = torch.randint(101, (3, 4, 3), generator=generator)
    targets[0, 1] = torch.tensor([60, 3, 60])
    targets[0, 0, 1], targets[2, 3] = -100, -100
    options = {"outputs": ("logprob", "entropy", "varentropy", "target_rank", "entropy_topk", "mass_topk")}
    options |= {"top_logprobs": 7, "temperature": 0.8, "softcap": 100.0}
    upstream, of_top = torch.randn(3, 4, 3, generator=generator), torch.randn(3, 4, 7, generator=generator)

    def loss(stats):
        sums = stats.entropy + stats.varentropy + stats.entropy_topk + stats.mass_topk
        return (stats.logprob * upstream).sum() + (stats.top_logprobs * of_top).sum() + sums.sum()

    leaf, exact = logits[..., columns].clone().requires_grad_(), logits.double().requires_grad_()
    ours, theirs = token_stats(leaf, targets, **options, **shared), reference.token_stats(exact, targets, **options)
    assert_values_match(ours, theirs)
    for stats in (ours, theirs):
        loss(stats).backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad[..., columns], rtol=1e-5, atol=2e-5, msg=backend)

    parts = [x.clone().requires_grad_() for x in (hidden, weight[columns])]
    whole = [x.double().requires_grad_() for x in (hidden, weight)]
    loss(linear_token_stats(*parts, targets, tile_bytes=1000, **options, **shared)).backward()
    loss(reference.linear_token_stats(*whole, targets, **options)).backward()
    for part, other in zip(parts, (whole[0].grad, whole[1].grad[columns]), strict=True):
        torch.testing.assert_close(part.grad.double(), other, rtol=1e-4, atol=1e-4, msg=f"several targets {backend}")

    tangent = torch.randn(logits.shape, generator=generator)
    ours_of, theirs_of = (
        partial(function, targets=targets, **options, **more)
        for function, more in ((token_stats, shared), (reference.token_stats, {}))
    )

    def moved(function, x, v):
        names = ("logprob", "top_logprobs", "entropy_topk", "mass_topk")
        return torch.func.jvp(lambda x: tuple(getattr(function(x), name) for name in names), (x,), (v,))[1]

    ours, theirs = (
        moved(ours_of, logits[..., columns], tangent[..., columns]),
        moved(theirs_of, logits.double(), tangent.double()),
    )
    for value, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value.double(), other, rtol=4e-6, atol=4e-6)
    targets[1, 0, 2] = 101
    with pytest.raises(IndexError, match=r"targets\[1, 0, 2\] is 101; expected an id in \[0, 101\)"):
        token_stats(logits[..., columns], targets, group=dist.group.WORLD)


def fields_of(function, x, **options):
    return tuple(present(function(x, **options)))


def check_tangents(rank: int, world_size: int, backend: str) -> None:
    """Forward-mode AD of sharded rows and of a sharded head, and of the loss."""
    logits, targets = whole_rows()
    defined = reference.token_stats(logits.double(), targets).logprob.isfinite()
    generator = torch.Generator().manual_seed(5)
    columns = own_columns(rank, world_size)
    shared = {"group": dist.group.WORLD, "backend": backend}
    tangent = torch.randn(logits.shape, generator=generator)
    for options in ({}, {"softcap": 20.0, "vocab_size": 95, "temperature": 0.8}):
        ids = (targets % 95).where(targets != -100, -100) if "vocab_size" in options else targets
        ours_of, theirs_of = (
            partial(fields_of, function, targets=ids, outputs=SUM_FIELDS, **options, **more)
            for function, more in ((token_stats, shared), (reference.token_stats, {}))
        )
        _, ours = torch.func.jvp(ours_of, (logits[..., columns],), (tangent[..., columns],))
        _, theirs = torch.func.jvp(theirs_of, (logits.double(),), (tangent.double(),))
        for name, value, expected in zip(SUM_FIELDS, ours, theirs, strict=True):
            torch.testing.assert_close(
                value[defined].double(), expected[defined], rtol=4e-6, atol=4e-6, msg=f"{name} {backend}"
            )

    tensors = [torch.randn(shape, generator=generator) for shape in ((3, 4, 16), (101, 16), (101,))]
    moves = [torch.randn(tensor.shape, generator=generator) for tensor in tensors]
    parts, part_moves = ([h, w[columns], b[columns]] for h, w, b in (tensors, moves))
    ids, advantages = targets.clamp(min=0), torch.tensor([1.0, -0.5, 0.2])
    _, expected = torch.func.jvp(
        lambda h, w, b: reference.linear_grpo_loss(h, w, ids, advantages.double(), bias=b, entropy_coef=0.1).loss,
        tuple(tensor.double() for tensor in tensors), tuple(move.double() for move in moves),
    )  # fmt: skip
    options = {"entropy_coef": 0.1, **shared}
    losses = (
        lambda h, w, b: linear_grpo_loss(h, w, ids, advantages, bias=b, tile_bytes=1000, **options).loss,
        lambda h, w, b: grpo_loss(torch.nn.functional.linear(h, w, b), ids, advantages, **options).loss,
    )
    for loss in losses:
        _, actual = torch.func.jvp(loss, tuple(parts), tuple(part_moves))
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


def run_rank(rank: int, world_size: int, store: str, backends: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    check_values(rank, world_size, backends)
    check_dtensors(rank, world_size)
    dist.barrier()  # a rank that leaves early takes its connections with it
    dist.destroy_process_group()


def run_ranks(world_size: int, store: Path, backends: str) -> None:
    own = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
    processes = [
        forked.start(f"import sys; sys.argv[1:] = {[str(rank), str(world_size), str(store), backends]}; {own}")
        for rank in range(world_size)
    ]
    told = []
    for process in processes:
        try:
            process.communicate()
        except AssertionError as error:
            told.append(str(error))
    # When one rank fails the others only lose their connection: show them all.
    assert not told, "\n".join(told)


needs_distributed = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")


@needs_distributed
@pytest.mark.parametrize(
    ("world_size", "backends"),
    [  # the exchange between ranks is the same code for every backend
        (2, "torch cpu"),
        pytest.param(3, "torch cpu", marks=pytest.mark.slow),
        pytest.param(2, "triton", marks=pytest.mark.slow),
    ],
)
def test_sharded_vocabularies_equal_the_whole(world_size, backends, tmp_path):
    if backends == "triton" and DEVICE != "cpu":
        pytest.skip("interpreted, for which there must be no GPU where the processes are forked from")
    run_ranks(world_size, tmp_path / "store", backends)


if __name__ == "__main__":
    if "triton" in sys.argv[4]:
        from interpreter import prepare_interpreter

        prepare_interpreter()
    run_rank(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
