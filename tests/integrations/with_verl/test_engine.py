"""verl's FSDP engine on a CPU: the same numbers as before, and the column `self_certainty` beside them."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("verl.workers.engine", reason="verl is not installed")

from omegaconf import OmegaConf
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import AdvantageEstimator
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.utils import torch_functional
from verl.workers.config import FSDPActorConfig
from verl.workers.utils.losses import ppo_loss

import verl_on_cpu
from rlif.integrations.verl import functions, patch, unpatch
from rlif_kernels import reference

HEADS_AND_LAYOUTS = [
    pytest.param(fused, packed, id=f"{'fused head' if fused else 'logits'}, {'packed' if packed else 'padded'}")
    for fused in (False, True)
    for packed in (True, False)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """Where the model is, and the logits that transformers gives for each sequence of the batch alone."""
    directory = tmp_path_factory.mktemp("verl")
    verl_on_cpu.start(directory)
    torch.manual_seed(0)
    network = verl_on_cpu.save_model(directory)
    with torch.no_grad():
        sequences = verl_on_cpu.batch(fused=False, packed=True)["input_ids"].unbind()
        return directory, [network(ids[None]).logits[0] for ids in sequences]


def old_log_probs(model: Path, *, fused: bool, packed: bool, param_dtype: str = "fp32", **settings) -> dict:
    """The pass that verl makes over a batch before it learns from it."""
    data = verl_on_cpu.batch(fused=fused, packed=packed, compute_loss=False, **settings)
    with (
        verl_on_cpu.fsdp_engine(model, fused=fused, packed=packed, param_dtype=param_dtype) as engine,
        engine.eval_mode(),
    ):
        return engine.infer_batch(data, loss_function=None)["model_output"]


@pytest.mark.parametrize(("fused", "packed"), HEADS_AND_LAYOUTS)
def test_the_pass_for_old_log_probabilities_has_self_certainty_beside_them(
    model, patched, fused: bool, packed: bool
) -> None:
    directory, logits = model
    outputs = old_log_probs(directory, fused=fused, packed=packed, calculate_entropy=True)
    sequences = verl_on_cpu.batch(fused=fused, packed=packed)["input_ids"].unbind()
    for row, (ids, row_logits) in enumerate(zip(sequences, logits, strict=True)):
        # The last position predicts the first token of whatever comes next: verl drops it, so does this.
        expected = reference.token_stats(row_logits[:-1].double(), ids[1:], temperature=0.7)
        for name, field in (("log_probs", "logprob"), ("entropy", "entropy"), ("self_certainty", "self_certainty")):
            value = outputs[name].unbind()[row]
            assert len(value) == len(ids)
            # Two float32 forwards of the model in different batches, at logits of size 20.
            torch.testing.assert_close(value[:-1].double(), getattr(expected, field), atol=5e-5, rtol=0)


def test_the_configurations_external_lib_patches(model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rlif.integrations.verl.autopatch", raising=False)
    before = torch_functional.logprobs_from_logits
    with verl_on_cpu.fsdp_engine(
        model[0], fused=False, packed=True, external_lib="rlif.integrations.verl.autopatch"
    ) as engine:
        try:
            assert torch_functional.logprobs_from_logits is functions.logprobs_from_logits
            assert engine.compute_entropy_from_logits is functions.entropy_from_logits
        finally:
            unpatch()
    assert torch_functional.logprobs_from_logits is before


def test_without_the_patch_there_is_no_column(model) -> None:
    assert old_log_probs(model[0], fused=False, packed=True, calculate_entropy=True).keys() == {"log_probs", "entropy"}


def test_the_reference_models_pass_has_no_column(model, patched) -> None:
    outputs = old_log_probs(model[0], fused=False, packed=True, calculate_entropy=False)
    assert outputs.keys() == {"log_probs"}


@pytest.mark.parametrize("fused", [False, True])
def test_in_verls_mixed_precision_outputs_have_verls_dtypes(model, fused: bool) -> None:
    settings = {"fused": fused, "packed": True, "param_dtype": "bf16", "calculate_entropy": True}
    expected = old_log_probs(model[0], **settings)
    patch()
    try:
        outputs = old_log_probs(model[0], **settings)
    finally:
        unpatch()
    assert outputs.pop("self_certainty").dtype == torch.float32
    for name, value in expected.items():
        assert outputs[name].dtype == value.dtype
        # bfloat16 logits of size 20 are known to 0.06, and verl rounds what it computes from them again.
        torch.testing.assert_close(outputs[name].values().float(), value.values().float(), atol=0.2, rtol=0)


def learn(model: Path, fused: bool, entropies: bool, temperature: float) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and what it does to the parameters, one step of verl's PPO loss, with an entropy bonus or none."""
    torch.manual_seed(0)
    data = verl_on_cpu.batch(
        fused=fused, packed=True, temperature=temperature, calculate_entropy=entropies, global_batch_size=4
    )
    for name, scale in (("old_log_probs", -3.0), ("advantages", 1.0)):
        data[name] = verl_on_cpu.jagged([scale * torch.rand(n) for n in verl_on_cpu.RESPONSE_LENGTHS])
    data["prompts"] = verl_on_cpu.jagged(
        [ids[:-n] for ids, n in zip(data["input_ids"].unbind(), verl_on_cpu.RESPONSE_LENGTHS, strict=True)]
    )
    data["responses"] = verl_on_cpu.jagged(
        [ids[-n:] for ids, n in zip(data["input_ids"].unbind(), verl_on_cpu.RESPONSE_LENGTHS, strict=True)]
    )
    config = FSDPActorConfig(
        strategy="fsdp2", rollout_n=1, ppo_micro_batch_size_per_gpu=2, ppo_mini_batch_size=4,
        entropy_coeff=0.01 if entropies else 0.0,
    )  # fmt: skip
    with verl_on_cpu.fsdp_engine(model, fused=fused, packed=True) as engine:
        before = {name: value.full_tensor().clone() for name, value in engine.module.named_parameters()}
        with engine.train_mode():
            output = engine.train_batch(data, loss_function=partial(ppo_loss, config=config))
        after = {name: value.full_tensor().detach() for name, value in engine.module.named_parameters()}
    assert "self_certainty" not in (output.get("model_output") or {})
    return sum(output["loss"]), {name: after[name] - before[name] for name in after}


@pytest.mark.parametrize(
    ("fused", "entropies", "temperature"),
    # Without entropies verl asks for the gradient in the logits' place, which at temperature 1 are the model's output.
    [(False, True, 0.7), (False, False, 0.7), (False, False, 1.0), (True, True, 0.7), (True, False, 1.0)],
)
def test_a_training_step_learns_what_verls_own_functions_make_it_learn(
    model, fused: bool, entropies: bool, temperature: float
) -> None:
    expected_loss, expected = learn(model[0], fused, entropies, temperature)
    patch()
    try:
        loss, steps = learn(model[0], fused, entropies, temperature)
    finally:
        unpatch()
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    for name, step in steps.items():
        # Adam's first step is the learning rate, 1e-2, times g / (|g| + 1e-8): only where a gradient is as small as the
        # rounding of float32 sums does it depend on that rounding.
        assert step.any()
        assert ((step - expected[name]).abs() > 1e-4).float().mean() < 0.01


@pytest.mark.parametrize("packed", [True, False])
def test_the_optimal_token_baseline_of_fused_heads_is_verls_own_of_logits(model, packed: bool) -> None:
    settings = {"packed": packed, "calculate_entropy": True, "calculate_sum_pi_squared": True}
    expected = old_log_probs(model[0], fused=False, **settings)  # verl's own functions
    patch()
    try:
        found = [old_log_probs(model[0], fused=fused, **settings) for fused in (True, False)]
    finally:
        unpatch()
    advantages = baseline_advantages(expected)
    assert advantages.any()
    for outputs in found:
        assert outputs.keys() == expected.keys() | {"self_certainty"}
        for name, value in expected.items():
            # Two float32 ways to the logits. The last position predicts a token that verl drops.
            for ours, theirs in zip(outputs[name].unbind(), value.unbind(), strict=True):
                torch.testing.assert_close(ours[:-1], theirs[:-1], atol=5e-5, rtol=0)
        torch.testing.assert_close(baseline_advantages(outputs), advantages, atol=1e-3, rtol=1e-3)


def baseline_advantages(outputs: dict) -> torch.Tensor:
    """The advantages that verl computes of the sequences, as if they were completions of one prompt."""
    logprobs, squares = (outputs[name].to_padded_tensor(0.0) for name in ("log_probs", "sum_pi_squared"))
    mask = (torch.arange(logprobs.shape[1]) < torch.tensor(verl_on_cpu.LENGTHS)[:, None] - 1).float()
    rewards = torch.zeros_like(mask)
    rewards[:, 0] = torch.tensor([1.0, 0.0, 0.5, 0.2])
    tensors = {
        "token_level_rewards": rewards, "response_mask": mask, "old_log_probs": logprobs, "sum_pi_squared": squares,
    }  # fmt: skip
    data = DataProto.from_dict(tensors, non_tensors={"uid": np.array(["one"] * 4, dtype=object)})
    estimator = AdvantageEstimator.OPTIMAL_TOKEN_BASELINE
    return compute_advantage(data, adv_estimator=estimator, config=OmegaConf.create({})).batch["advantages"]


def test_without_the_patch_verl_refuses_that_sum_where_heads_are_fused(model) -> None:
    with pytest.raises(NotImplementedError, match="not supported with use_fused_kernels=True"):
        old_log_probs(model[0], fused=True, packed=True, calculate_entropy=True, calculate_sum_pi_squared=True)
