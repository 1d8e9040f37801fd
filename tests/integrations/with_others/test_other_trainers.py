"""`rlif_kernels.compat` in the packages themselves: their values and gradients, and `patch` in their modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers  # before what is stood in for could be taken for installed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import Qwen3ForCausalLM

from pages import snippet
from rlif_kernels import compat
from rlif_kernels.compat import functions
from tiny_models import make_model

FLOAT32 = {"rtol": 2e-6, "atol": 4e-6}  # two float32 ways of computing numbers of up to 12 nats
DTYPES = (torch.float32, torch.bfloat16)


def installed(package: str, module: str) -> Any:
    """A module of a package, or a skip that says what is missing."""
    pytest.importorskip(package, reason=f"{package} is not installed: make test-integrations installs it")
    return importlib.import_module(module)


def with_gradient(function: Callable[..., Any], logits: torch.Tensor, *rest: Any, **options: Any) -> list[torch.Tensor]:
    """What a function of logits returns, and the gradient of its weighted sum."""
    logits = logits.clone().requires_grad_()
    result = function(logits * 1, *rest, **options)  # OpenRLHF's divides its argument
    values = list(result) if isinstance(result, tuple) else [result]
    weights = torch.linspace(0.5, 2, values[0].numel()).view(values[0].shape).to(values[0].dtype)
    (weights * values[0]).sum().backward()
    assert logits.grad is not None
    return [*(value.detach() for value in values), logits.grad]


def assert_same(ours: Callable[..., Any], theirs: Callable[..., Any], logits: torch.Tensor, *rest: Any, **options: Any):
    """Both are the same of float32 logits; of bfloat16 ones, which theirs round on the way, ours is no further off."""
    mine, other, exact = (
        with_gradient(function, given, *rest, **options)
        for function, given in ((ours, logits), (theirs, logits), (theirs, logits.double()))
    )
    for value, their_value, true_value in zip(mine, other, exact, strict=True):
        assert value.dtype == their_value.dtype
        if logits.dtype == torch.float32:
            torch.testing.assert_close(value, their_value, **FLOAT32)
        else:
            off, their_off = ((each.double() - true_value).abs().max() for each in (value, their_value))
            assert off <= max(their_off, 2.0**-8 * true_value.abs().max())


def batch() -> tuple[Qwen3ForCausalLM, torch.Tensor, torch.Tensor]:
    """A tiny model, and sequences of which one is padded on the left."""
    ids = torch.arange(2 * 9).view(2, 9) % 15 + 3
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return make_model(), ids, mask


def gradients(model: torch.nn.Module, value: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    value.backward()
    return [each.grad.clone() for each in model.parameters() if each.grad is not None]


# ---------------------------------------------------------------- OpenRLHF


@pytest.fixture
def openrlhf(stand_in: Callable[..., None]) -> Any:
    """`openrlhf.models.actor`, its deepspeed and flash-attention stood in for."""
    assert transformers.utils.is_flash_attn_2_available() is False  # and is asked no more
    stand_in("deepspeed")
    stand_in("flash_attn")
    stand_in("flash_attn.bert_padding", **dict.fromkeys(("index_first_axis", "pad_input", "rearrange", "unpad_input")))
    stand_in("flash_attn.utils")
    stand_in("flash_attn.utils.distributed", all_gather=None)
    return installed("openrlhf", "openrlhf.models.actor")


@pytest.mark.parametrize("dtype", DTYPES)
def test_openrlhfs_functions_have_its_values_and_gradients(
    dtype: torch.dtype, openrlhf: Any, logits_and_ids: tuple[torch.Tensor, torch.Tensor]
) -> None:
    theirs, (logits, ids) = importlib.import_module("openrlhf.models.utils"), logits_and_ids
    for temperature in (1.0, 0.7):
        assert_same(
            compat.log_probs_from_logits, theirs.log_probs_from_logits, logits.to(dtype), ids, temperature=temperature
        )
    assert_same(compat.compute_entropy, theirs.compute_entropy, logits.to(dtype))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_openrlhfs_actor_reads_its_logits_once_with_its_values_and_gradients(
    temperature: float, openrlhf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[str, ...]] = []
    read = functions.token_stats
    monkeypatch.setattr(functions, "token_stats", lambda *a, **o: (reads.append(o["outputs"]), read(*a, **o))[1])
    model, ids, mask = batch()
    actor = openrlhf.Actor(model, temperature=temperature)
    actor.packing_samples = False
    own = openrlhf.log_probs_from_logits, openrlhf.compute_entropy

    def step() -> list[torch.Tensor]:
        logprobs, output = actor(ids, mask[:, -5:], mask, return_output=True, return_entropy=True)
        entropy = output.entropy
        return [logprobs.detach(), entropy.detach(), *gradients(model, logprobs.sum() + 0.3 * entropy.sum())]

    expected = step()
    with compat.patch("openrlhf") as patch:
        assert openrlhf.log_probs_from_logits is not own[0]
        step()  # compares
        reads.clear()
        found = step()
        assert len(reads) == 1
        assert patch.compared.keys() == {"log_probs_from_logits", "compute_entropy"}
        assert max(patch.compared.values()) < 4e-6
    assert (openrlhf.log_probs_from_logits, openrlhf.compute_entropy) == own
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- ms-swift


@pytest.mark.parametrize("padding_free", [False, True])
def test_ms_swifts_grpo_has_its_log_probabilities_and_entropies(padding_free: bool) -> None:
    swift = installed("swift", "swift.rlhf_trainers.grpo_trainer")
    mixin = importlib.import_module("swift.rlhf_trainers.rlhf_mixin")
    model, ids, mask = batch()
    if padding_free:
        ids, mask = ids.view(1, -1), torch.ones_like(mask).view(1, -1)
    trainer = SimpleNamespace(
        model_kwarg_keys=["use_cache"], temperature=0.7, template=SimpleNamespace(padding_free=padding_free)
    )
    own = swift.selective_log_softmax, swift.entropy_from_logits
    assert mixin.selective_log_softmax is own[0]

    def step() -> list[torch.Tensor]:
        logps, entropies = swift.GRPOTrainer._get_logps_via_local_forward(
            trainer, model, {"input_ids": ids, "attention_mask": mask}, 5, ids, compute_entropy=True
        )
        return [logps.detach(), entropies.detach(), *gradients(model, logps.sum() + 0.3 * entropies.sum())]

    expected = step()
    with compat.patch("ms-swift") as patch:
        assert mixin.selective_log_softmax is swift.selective_log_softmax is not own[0]
        found = step()
        assert patch.version.startswith("4.6.")
        assert patch.compared.keys() == {"selective_log_softmax", "entropy_from_logits"}
        assert max(patch.compared.values()) < 4e-6
    assert (swift.selective_log_softmax, swift.entropy_from_logits) == own
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_ms_swift_imports_the_lines_of_the_page_as_an_external_plugin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    swift = installed("swift", "swift.rlhf_trainers.grpo_trainer")
    plugins = importlib.import_module("swift.arguments.base_args.base_args")  # whose option names such files
    patches: list[compat.Patch] = []
    patch = compat.patch
    monkeypatch.setattr(compat, "patch", lambda name: patches.append(patch(name)))
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = swift.selective_log_softmax
    path = tmp_path / "rlif_plugin.py"  # docs/trainers.md
    path.write_text(snippet("docs/trainers.md", 'compat.patch("ms-swift")'))
    plugins.import_external_file(str(path))
    assert swift.selective_log_softmax is not own
    patches[0].undo()
    assert swift.selective_log_softmax is own


@pytest.mark.parametrize("dtype", DTYPES)
def test_ms_swifts_functions_have_its_values_and_gradients(
    dtype: torch.dtype, logits_and_ids: tuple[torch.Tensor, torch.Tensor]
) -> None:
    swift = installed("swift", "swift.rlhf_trainers.grpo_trainer")
    logits, ids = logits_and_ids
    assert_same(compat.selective_log_softmax, swift.selective_log_softmax, logits.to(dtype), ids)
    assert_same(compat.entropy_from_logits, swift.entropy_from_logits, logits.to(dtype))
    # Its own, where TRL has none.
    theirs = importlib.import_module("swift.rlhf_trainers.utils")
    assert_same(compat.entropy_from_logits, theirs.entropy_from_logits, logits.to(dtype))


# ---------------------------------------------------------------- torchtitan, torchtune, unsloth


@pytest.mark.parametrize("dtype", DTYPES)
def test_torchtitans_function_has_its_values_and_gradients(
    dtype: torch.dtype, logits_and_ids: tuple[torch.Tensor, torch.Tensor]
) -> None:
    titan, (logits, labels) = installed("torchtitan", "torchtitan.components.loss"), logits_and_ids
    labels[0, 2] = -100
    own = titan.compute_logprobs
    for options in ({}, {"return_entropy": True}):
        assert_same(compat.compute_logprobs, own, logits.to(dtype), labels, **options)
    with compat.patch("torchtitan") as patch:
        assert titan.compute_logprobs is not own
        titan.compute_logprobs(logits, labels, return_entropy=True)
        assert patch.compared["compute_logprobs"] < 4e-6
    assert titan.compute_logprobs is own


def test_torchtitans_function_takes_a_divided_vocabulary_as_torchtitan_does(
    logits_and_ids: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    titan, (logits, labels) = installed("torchtitan", "torchtitan.components.loss"), logits_and_ids
    alone = not dist.is_initialized()
    if alone:
        dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        divided = distribute_tensor(logits, mesh, [Shard(-1)])
        ours, theirs = (
            each(divided, labels, return_entropy=True) for each in (compat.compute_logprobs, titan.compute_logprobs)
        )
        for mine, other in zip(ours, theirs, strict=True):
            assert type(mine) is type(other) is torch.Tensor
            torch.testing.assert_close(mine, other, **FLOAT32)
    finally:
        if alone:
            dist.destroy_process_group()


@pytest.mark.parametrize("dtype", DTYPES)
def test_torchtunes_function_has_its_values_and_gradients(
    dtype: torch.dtype, logits_and_ids: tuple[torch.Tensor, torch.Tensor]
) -> None:
    tune, (logits, ids) = installed("torchtune", "torchtune.rlhf.sequence_processing"), logits_and_ids
    rlhf = importlib.import_module("torchtune.rlhf")
    own = tune.logits_to_logprobs
    for temperature in (1.0, 0.7):
        assert_same(compat.logits_to_logprobs, own, logits.to(dtype), ids, temperature)
    with compat.patch("torchtune") as patch:
        assert rlhf.logits_to_logprobs is tune.logits_to_logprobs is not own
        rlhf.logits_to_logprobs(logits, ids, 0.7)
        assert patch.compared["logits_to_logprobs"] < 4e-6
    assert rlhf.logits_to_logprobs is tune.logits_to_logprobs is own


@pytest.mark.parametrize("dtype", DTYPES)
def test_unsloths_function_has_its_values_and_gradients(
    dtype: torch.dtype,
    stand_in: Callable[..., None],
    logits_and_ids: tuple[torch.Tensor, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)  # where the import leaves compiled code
    stand_in("unsloth")  # which imports this package, and needs a GPU
    monkeypatch.setenv("UNSLOTH_IS_PRESENT", "1")
    theirs, (logits, ids) = installed("unsloth_zoo", "unsloth_zoo.rl_replacements"), logits_and_ids
    for options in ({}, {"temperature": 0.7, "chunks": 3}):
        assert_same(
            compat.chunked_selective_log_softmax, theirs.chunked_selective_log_softmax, logits.to(dtype), ids, **options
        )
