"""`use_fused_token_stats`: the divergences and updates of TRL's trainers that distil, by rlif's kernels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from datasets import Dataset
from trl import DistillationConfig, DistillationTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.gold import gold_trainer
from trl.experimental.iw_opd import iw_opd_trainer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer, sdft_trainer
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer
from trl.experimental.server_distillation import ServerDistillationTrainer
from trl.trainer import distillation_trainer

import tiny_trl as tiny
from rlif.errors import UserError
from rlif.integrations.trl import distillation as ours
from rlif.integrations.trl import use_fused_token_stats

BETAS = (0.0, 0.3, 1.0)
SETTINGS = {
    name: value for name, value in tiny.SETTINGS.items() if name not in ("num_generations", "max_completion_length")
}


def leaf(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def assert_same(function: Callable[..., Any], other: Callable[..., Any], leaves: list[torch.Tensor]) -> None:
    """Both return the same numbers, and the first of them has the same gradients."""
    found = []
    for each in (function, other):
        copies = [x.detach().clone().requires_grad_() for x in leaves]
        result = each(*copies)
        values = result if isinstance(result, tuple) else (result,)
        weights = torch.linspace(0.5, 2, values[0].numel()).view(values[0].shape)
        (weights * values[0]).sum().backward()
        found.append(([x.detach().float() for x in values], [x.grad for x in copies]))
    for mine, theirs in zip(found[0][0] + found[0][1], found[1][0] + found[1][1], strict=True):
        # Two float32 ways; the contract of the issue is 1e-5.
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max().clamp(min=1e-3)))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("items", [None, 7, torch.tensor(9.0)])
def test_the_divergence_of_two_heads_is_trls(beta: float, items: Any) -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    teacher_hidden, teacher_weight = leaf(3, 4, 24, seed=3).detach(), leaf(50, 24, seed=4).detach()

    def call(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda hidden, weight, bias: function(
            hidden, teacher_hidden, weight, teacher_weight, mask, beta, num_items_in_batch=items,
            student_lm_head_bias=bias, student_logit_scale=0.5, teacher_logit_scale=0.7,
            student_final_logit_softcapping=8.0, temperature=1.3,
        )  # fmt: skip

    leaves = [leaf(3, 4, 16, seed=0), leaf(50, 16, seed=1), leaf(50, seed=2)]
    assert_same(call(ours._of_heads), call(distillation_trainer._chunked_divergence_loss), leaves)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("trainer", [GKDTrainer, gold_trainer.GOLDTrainer, iw_opd_trainer.IWOPDTrainer])
def test_the_divergence_of_logits_is_trls_by_every_reduction(trainer: Any, beta: float) -> None:
    original = trainer.generalized_jsd_loss
    fused, teacher = ours._generalized_jsd_loss(original), leaf(3, 4, 50, seed=3).detach()
    labels = torch.tensor([[5, 6, 7, -100], [5, -100, -100, -100], [-100] * 4])
    for options in (
        {"labels": labels}, {"labels": labels, "temperature": 2.0, "reduction": "sum"},
        {"labels": labels, "reduction": "mean"}, {"reduction": "batchmean"}, {"reduction": "mean"},
        {"labels": labels, "reduction": "none"}, {"labels": labels, "num_items_in_batch": torch.tensor(9)},
        {"labels": labels, "num_items_in_batch": 9}, {"labels": labels[2:].expand(3, 4)},
    ):  # fmt: skip
        calls = [partial(each, teacher_logits=teacher, beta=beta, **options) for each in (fused, original)]
        assert_same(*calls, [leaf(3, 4, 50, seed=0)])


@pytest.mark.parametrize("options", [{"top_k": 5}, {"top_k": 5, "add_tail": False}])
def test_what_looks_at_some_tokens_stays_trls(options: dict[str, Any]) -> None:
    original = iw_opd_trainer.IWOPDTrainer.generalized_jsd_loss
    logits, teacher = leaf(3, 4, 50, seed=0), leaf(3, 4, 50, seed=1).detach()
    fused = ours._generalized_jsd_loss(original)
    assert torch.equal(fused(logits, teacher, beta=0.3, **options), original(logits, teacher, beta=0.3, **options))


@pytest.mark.parametrize("beta", BETAS)
def test_the_divergence_of_each_token_is_trls_whatever_multiplies_it(beta: float) -> None:
    teacher = leaf(3, 4, 50, seed=3).detach()
    calls = [
        (lambda logits, each=each: each(logits, teacher, distillation_alpha=beta))
        for each in (ours._of_tokens, sdft_trainer.compute_full_logit_self_distillation_loss)
    ]
    assert_same(*calls, [leaf(3, 4, 50, seed=0)])
    with torch.no_grad():
        assert not calls[0](leaf(3, 4, 50, seed=0)).requires_grad


# ---------------------------------------------------------------- steps


def teacher(seed: int = 1) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(**tiny.SIZES))


def distillation(model: str, directory: Path) -> DistillationTrainer:
    settings = SETTINGS | {"per_device_train_batch_size": 2, "max_completion_length": 8}
    config = DistillationConfig(output_dir=str(directory), **settings, beta=0.3, temperature=0.9)
    return DistillationTrainer(model, teacher(), config, tiny.dataset())


def gkd(model: str, directory: Path) -> GKDTrainer:
    prompts = [{"role": "user", "content": text} for text in tiny.PROMPTS]
    rows = [
        [prompt, {"role": "assistant", "content": "12345"[: 2 + place % 3]}] for place, prompt in enumerate(prompts)
    ]
    config = GKDConfig(output_dir=str(directory), **SETTINGS, max_new_tokens=8, beta=0.3, lmbda=0.5, max_length=64)
    return GKDTrainer(
        model, teacher(), config, train_dataset=Dataset.from_dict({"messages": rows}),
        processing_class=tiny.make_tokenizer(),
    )  # fmt: skip


def sdft(model: str, directory: Path, **changes: Any) -> SDFTTrainer:
    settings = SETTINGS | {"distillation_mode": "full_logits", "distillation_alpha": 0.3} | changes
    config = SDFTConfig(output_dir=str(directory), **settings, max_completion_length=8)
    rows = {"prompt": tiny.PROMPTS, "privileged_context": ["it is 54"] * len(tiny.PROMPTS)}
    return SDFTTrainer(model, config, Dataset.from_dict(rows), processing_class=tiny.make_tokenizer())


def sdpo(model: str, directory: Path) -> SDPOTrainer:
    settings = SETTINGS | {"distillation_mode": "full_logits", "distillation_alpha": 0.3, "num_generations": 4}
    config = SDPOConfig(output_dir=str(directory), **settings, max_completion_length=8)

    def shortness(completions: list[str], **kwargs: object) -> list[float]:
        return [float(len(set(text)) % 2) for text in completions]

    rows = {"prompt": tiny.PROMPTS, "privileged_context": ["it is 54"] * len(tiny.PROMPTS)}
    return SDPOTrainer(model, shortness, config, Dataset.from_dict(rows), processing_class=tiny.make_tokenizer())


@pytest.mark.parametrize("make", [distillation, gkd, sdft, sdpo])
def test_a_trainer_takes_the_steps_that_it_takes_in_trl(
    make: Callable[..., Any], model_dir: Path, tmp_path: Path
) -> None:
    stock = make(str(model_dir), tmp_path)
    start = copy.deepcopy(stock.model.state_dict())
    expected = tiny.trained(stock)
    trainer = make(str(model_dir), tmp_path)  # only now: making it seeds what both draw
    use_fused_token_stats(trainer)
    assert tiny.furthest(tiny.trained(trainer), expected) <= 1e-5
    assert tiny.furthest(start, expected) > 1e-4  # the steps are larger
    for mine, theirs in zip(trainer.state.log_history, stock.state.log_history, strict=True):
        for name in ("loss", "entropy", "grad_norm"):
            assert mine.get(name, 0.0) == pytest.approx(theirs.get(name, 0.0), rel=1e-4, abs=1e-5)


def test_a_trainer_that_was_given_its_functions_back_is_stock(model_dir: Path, tmp_path: Path) -> None:
    trainer = distillation(str(model_dir), tmp_path)
    with use_fused_token_stats(trainer) as fused:
        assert use_fused_token_stats(trainer) is fused
        assert "_compute_loss" in vars(trainer)
    assert "_compute_loss" not in vars(trainer)
    function = distillation_trainer._chunked_divergence_loss
    use_fused_token_stats(trainer)
    trainer.train()
    assert distillation_trainer._chunked_divergence_loss is function  # others' trainers never saw ours


def test_what_distils_from_a_few_tokens_is_refused(model_dir: Path, tmp_path: Path) -> None:
    trainer = sdft(str(model_dir), tmp_path, distillation_mode="topk_logits")
    with pytest.raises(UserError, match="got SDFTTrainer with distillation_mode 'topk_logits', expected 'full_logits'"):
        use_fused_token_stats(trainer)
    server = object.__new__(ServerDistillationTrainer)
    with pytest.raises(UserError, match="trainer: got ServerDistillationTrainer, expected one of GRPOTrainer"):
        use_fused_token_stats(server)
    zero = distillation(str(model_dir), tmp_path)
    zero._dist.zero_stage = 3
    with pytest.raises(UserError, match="got DeepSpeed ZeRO-3"):
        use_fused_token_stats(zero)
