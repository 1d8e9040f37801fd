"""DTensors are taken as they are, and what they cannot be is named; `test_vocab_parallel` has several processes."""

import pytest
import torch
import torch.distributed as dist

from pages import SNIPPETS
from rlif_kernels import grpo_loss, linear_grpo_loss, linear_token_stats, sample_tokens, token_stats
from tiny_models import CHARACTERS, make_model

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")


@pytest.fixture
def mesh(tmp_path):
    """Of this process alone, two dimensions: a placement is what it is in any company."""
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "model"))
    dist.destroy_process_group()


def test_placements_that_do_not_go_together_are_one_error_that_names_them(mesh):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    logits, hidden, weight = torch.randn(3, 4, 50), torch.randn(3, 4, 16), torch.randn(50, 16)
    targets, advantages = torch.arange(12).view(3, 4), torch.ones(3)

    def placed(x, *placements):
        return distribute_tensor(x, mesh, placements)

    columns, rows = placed(logits, Replicate(), Shard(2)), placed(logits, Shard(0), Shard(2))
    partial = DTensor.from_local(logits, mesh, (Replicate(), Partial()), run_check=False)
    of_head = placed(weight, Replicate(), Shard(0))
    other = distribute_tensor(targets, init_device_mesh("cpu", (1,)), [Replicate()])
    for function, message in (
        (
            lambda: token_stats(partial, targets),
            r"logits has placements \(Replicate\(\), Partial\(sum\)\); expected Replicate\(\) or Shard of a dimension "
            r"before the last, or on one dimension of the mesh Shard\(dim=2\)",
        ),
        (
            lambda: token_stats(placed(logits, Shard(2), Shard(2)), targets),
            r"logits has placements .*; expected Shard\(dim=2\) on one dimension of the mesh at most",
        ),
        (
            lambda: token_stats(columns, placed(targets, Shard(0), Replicate())),
            r"targets has placements \(Shard\(dim=0\), Replicate\(\)\); expected \(Replicate\(\), Replicate\(\)\)",
        ),
        (
            lambda: linear_token_stats(hidden, placed(weight, Replicate(), Shard(1)), targets),
            r"weight has placements \(Replicate\(\), Shard\(dim=1\)\); expected \(Replicate\(\), Replicate\(\)\)",
        ),
        (
            lambda: linear_token_stats(placed(hidden, Replicate(), Shard(1)), of_head, targets),
            r"hidden has placements .*; expected Replicate\(\) on dimension 1 of the mesh, over which weight is",
        ),
        (
            lambda: linear_token_stats(placed(hidden, Shard(2), Replicate()), weight, targets),
            r"hidden has placements .*; expected Replicate\(\) or Shard of a dimension before the last$",
        ),
        (
            lambda: linear_token_stats(
                hidden, of_head, targets, bias=placed(torch.zeros(50), Replicate(), Replicate())
            ),
            r"bias has placements .*; expected \(Replicate\(\), Shard\(dim=0\)\)",
        ),
        (
            lambda: grpo_loss(placed(logits, Shard(1), Shard(2)), targets, advantages),
            r"logits has placements with Shard\(dim=1\), which divides the tokens of a sequence; expected each",
        ),
        (
            lambda: grpo_loss(rows, targets, advantages, top_entropy_quantile=0.5),
            "logits has placements .* of its rows; expected Replicate.* with options that choose tokens by what all",
        ),
        (lambda: token_stats(columns, other), r"targets is on DeviceMesh.*; expected DeviceMesh.*, the mesh of logits"),
        (
            lambda: token_stats(columns, targets, group=dist.group.WORLD),
            "group is a process group and logits a DTensor; expected None, since the mesh has the group",
        ),
        (
            lambda: grpo_loss(columns, targets, advantages, inplace_backward=True),
            "inplace_backward is True and logits a DTensor; expected False, since other ops",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            function()
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        token_stats(columns, targets, colour="red")
    # These draw, or take no group.
    with pytest.raises(TypeError, match=r"^logits is a DTensor; .*logits\.to_local\(\), with group="):
        sample_tokens(columns, torch.rand(3, 4))


def test_the_example_of_the_page_runs(mesh):
    (snippet,) = (each for each in SNIPPETS if each.page == "docs/vocabulary-parallel.md" and each.language == "python")
    model, input_ids = make_model(), torch.randint(3, 3 + len(CHARACTERS), (2, 6))
    names = {"input_ids": input_ids, "advantages": torch.tensor([1.0, -1.0])}
    names |= {"model": model, "completion_mask": torch.ones(2, 5, dtype=torch.bool)}
    expected = linear_grpo_loss(
        model.model(input_ids).last_hidden_state[:, :-1], model.lm_head.weight, input_ids[:, 1:], names["advantages"]
    )
    exec(compile(snippet.text, snippet.place, "exec"), names)
    torch.testing.assert_close(names["from_logits"].loss.full_tensor(), expected.loss)
    torch.testing.assert_close(names["from_hidden"].loss, expected.loss)
    assert type(model.lm_head.weight.grad).__name__ == "DTensor"
