"""Every loss is TRL's, in value and gradient: its own code computes the losses that ours are compared with."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlif_kernels import TokenStats, grpo_loss, importance_weight, policy_loss
from rlif_kernels.loss_options import CLIPPED_TYPES, LOSS_TYPES, VARIANT_DEFAULTS

pytest.importorskip("trl")
from trl import GRPOTrainer
from trl.experimental.gmpo import GMPOTrainer

import tiny_trl  # noqa: F401  # it loads TRL without downloads

NUM_SEQUENCES, LENGTH, NUM_COLUMNS = 5, 7, 23
# TRL holds some numbers in float32 whatever the dtype of the log-probabilities is: 6e-8 of each.
TOLERANCE = 1e-6


class Accelerator(SimpleNamespace):
    """One process."""

    num_processes = 1
    sync_gradients = True

    def gather(self, values: Tensor) -> Tensor:
        return values

    def reduce(self, values: Tensor, reduction: str) -> Tensor:
        return values

    def pad_across_processes(self, values: Tensor, **_: object) -> Tensor:
        return values


def theirs(logprob: Tensor, entropy: Tensor, inputs: dict[str, Tensor | None], options: dict[str, Any]) -> Tensor:
    """The loss that TRL's trainer computes of these log-probabilities, of one micro-batch that is a whole step."""
    options = {"loss_type": "dapo", "epsilon_low": 0.2, "epsilon_high": None, "beta": 0.0, **options}
    trainer_type = GMPOTrainer if options["loss_type"] == "gmpo" else GRPOTrainer
    numbers = VARIANT_DEFAULTS | options
    args = SimpleNamespace(
        delta=options.get("delta"), use_bias_correction_kl=options.get("kl") == "k3_corrected", steps_per_generation=1,
        entropy_target=0.2, **{name: numbers[name] for name in VARIANT_DEFAULTS},
    )  # fmt: skip
    corrected = inputs.get("importance_sampling_ratio") is not None
    trainer = SimpleNamespace(
        args=args, accelerator=Accelerator(), model=SimpleNamespace(training=True), use_vllm=corrected,
        vllm_importance_sampling_correction=corrected, aux_loss_enabled=False, off_policy_mask_threshold=None,
        current_gradient_accumulation_steps=1, max_completion_length=9, use_adaptive_entropy=False,
        _metrics=defaultdict(lambda: defaultdict(list)), loss_type=options["loss_type"],
        epsilon_low=options["epsilon_low"], beta=options["beta"],
        epsilon_high=options["epsilon_low"] if options["epsilon_high"] is None else options["epsilon_high"],
        importance_sampling_level=options.get("importance_sampling_level", "token"),
        top_entropy_quantile=numbers["top_entropy_quantile"], entropy_coef=options.get("entropy_coef", 0.0),
        _entropy_bonus_enabled=bool(options.get("entropy_coef")), get_gamma_weights=GRPOTrainer.get_gamma_weights,
    )  # fmt: skip
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprob, entropy, None)
    trainer.get_high_entropy_mask = lambda *given: GRPOTrainer.get_high_entropy_mask(trainer, *given)
    mask = inputs["completion_mask"]
    prompt = torch.ones(NUM_SEQUENCES, 1, dtype=torch.long)
    given = {name: value for name, value in inputs.items() if value is not None}
    given |= {"prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": mask, "num_items_in_batch": mask.sum()}
    loss: Tensor = trainer_type._compute_loss(trainer, None, given)
    return loss


CORRECTED = {"old": True, "beta": 0.1, "kl": "k3_corrected"}
CASES: dict[str, dict[str, Any]] = {
    **{loss_type: {"loss_type": loss_type, "old": True} for loss_type in LOSS_TYPES},
    **{f"{loss_type}, on-policy": {"loss_type": loss_type} for loss_type in LOSS_TYPES},
    **{
        f"{loss_type} with a correction": {"loss_type": loss_type, "old": True, "sampler": "token_truncate"}
        for loss_type in LOSS_TYPES
        if loss_type != "gmpo"  # which leaves it out
    },
    **{
        f"{loss_type} of whole sequences": {
            "loss_type": loss_type, "old": True, "importance_sampling_level": "sequence", "beta": 0.1,
        }
        for loss_type in (*CLIPPED_TYPES, "sapo", "cispo")
    },
    **{
        f"{loss_type} with a corrected penalty{way}": {"loss_type": loss_type, **CORRECTED, **changes}
        for loss_type in LOSS_TYPES
        if loss_type != "gmpo"  # whose trainer corrects none
        for way, changes in (
            (" and a sampler's correction", {"sampler": "token_truncate"}),
            (" of whole sequences", {"importance_sampling_level": "sequence"}),
            (" of whole sequences, on-policy", {"importance_sampling_level": "sequence", "old": False}),
        )
        if loss_type != "vespo" or "sampler" in changes  # which has no ratio of sequences but its own
    },
    "a corrected penalty on-policy": CORRECTED | {"old": False, "entropy_coef": 0.1},
    "a corrected penalty beside a two-sided clip": CORRECTED | {"delta": 1.25},
    "a corrected penalty of all tokens": CORRECTED | {"top_entropy_quantile": 0.3},
    "cispo with its paper's bound": {"loss_type": "cispo", "old": True, "epsilon_high": 1.3},
    "cispo on-policy below its bound": {"loss_type": "cispo", "epsilon_high": 5.0},
    "sapo with temperatures": {
        "loss_type": "sapo", "old": True, "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0, "beta": 0.1,
    },
    "vespo with numbers": {
        "loss_type": "vespo", "old": True, "vespo_k_pos": 1.0, "vespo_lambda_pos": 2.0, "vespo_k_neg": 2.5,
        "vespo_lambda_neg": 1.0, "sampler": "token_mask",
    },
    "gmpo with a penalty": {"loss_type": "gmpo", "old": True, "epsilon_low": 0.4, "epsilon_high": 0.3, "beta": 0.1},
    "two-sided clip": {"old": True, "delta": 1.25},
    "high entropy": {"old": True, "top_entropy_quantile": 0.3, "entropy_coef": 0.1, "beta": 0.1},
    "high entropy, sapo": {"loss_type": "sapo", "old": True, "top_entropy_quantile": 0.3},
    "high entropy, gmpo": {"loss_type": "gmpo", "old": True, "top_entropy_quantile": 0.5},
    "the highest entropy alone": {"loss_type": "dr_grpo", "old": True, "top_entropy_quantile": 0.0},
    "an entropy bonus": {"loss_type": "luspo", "old": True, "entropy_coef": -0.1},
    **{mode: {"old": True, "sampler": mode} for mode in ("token_mask", "sequence_truncate", "sequence_mask")},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_loss_and_its_gradient_are_trls(case: str) -> None:
    generator = torch.Generator().manual_seed(sum(map(ord, case)))

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    options = dict(CASES[case])
    old_given, sampler = options.pop("old", False), options.pop("sampler", None)
    # What float32 holds, so that the kernels, whose logits these are, see the same numbers.
    logits = (2 * numbers(NUM_SEQUENCES, LENGTH, NUM_COLUMNS)).float().double().requires_grad_()
    targets = torch.randint(NUM_COLUMNS, (NUM_SEQUENCES, LENGTH), generator=generator)
    log_probs = logits.log_softmax(-1)
    logprob = log_probs.gather(-1, targets[..., None])[..., 0]
    # TRL takes the quantile of float32: the entropy at the quantile has to be that number.
    entropy = -(log_probs.exp() * log_probs).sum(-1).float().double()
    mask = torch.rand(NUM_SEQUENCES, LENGTH, generator=generator) < 0.7
    mask[:, 0] = True
    advantages = numbers(NUM_SEQUENCES).float().double()
    near = [(logprob.detach() + 0.3 * numbers(NUM_SEQUENCES, LENGTH)).float().double() for _ in range(3)]
    old, ref = near[0] if old_given else None, near[1] if options.get("beta") else None
    weight = importance_weight(near[0], near[2], mask=mask, mode=sampler, clip_max=1.4) if sampler else None
    inputs = {
        "completion_mask": mask.long(), "advantages": advantages, "old_per_token_logps": old,
        "ref_per_token_logps": ref, "importance_sampling_ratio": weight,
    }  # fmt: skip
    expected = theirs(logprob, entropy, inputs, options)
    expected_gradient = torch.autograd.grad(expected, logits, retain_graph=True)[0]

    more = {"max_completion_length": 9, **options}
    defined = policy_loss(TokenStats(logprob, entropy), advantages, old, ref, weight, mask=mask, **more).loss
    torch.testing.assert_close(defined, expected, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(
        torch.autograd.grad(defined, logits)[0], expected_gradient, rtol=TOLERANCE, atol=TOLERANCE
    )
    narrow = logits.detach().float().requires_grad_()
    fused = grpo_loss(narrow, targets, advantages, old, ref, token_weight=weight, mask=mask, **more).loss
    fused.backward()
    # Of float32 log-probabilities: some units in the last place of the loss's size.
    torch.testing.assert_close(fused.double(), expected, rtol=2 * TOLERANCE, atol=2 * TOLERANCE)
    assert narrow.grad is not None
    torch.testing.assert_close(narrow.grad.double(), expected_gradient, rtol=2 * TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_the_corrections_of_a_sampler_have_trls_names(mode: str) -> None:
    from trl import GRPOConfig

    options = GRPOConfig.__dataclass_fields__
    assert mode in options["vllm_importance_sampling_mode"].metadata["help"]
    assert options["vllm_importance_sampling_clip_max"].default == 3.0


def test_the_defaults_of_the_losses_are_trls() -> None:
    from trl import GRPOConfig

    options = GRPOConfig.__dataclass_fields__
    named = [name for name in VARIANT_DEFAULTS if name in options]
    assert len(named) == 7  # Clip-Cov and KL-Cov are verl's
    assert {name: options[name].default for name in named} == {name: VARIANT_DEFAULTS[name] for name in named}
