"""Batches of tokens for the tests of the fused losses, and their comparison with the float64 reference."""

import torch
from torch import Tensor

from comparison import DEVICE, ROUNDING, random_targets
from rlif_kernels import GRPOLoss

# The fused losses' bound: float32 results against the float64 reference, relative to the largest value.
RELATIVE_TOLERANCE = 1e-5

# Each corner of the loss: normalisations, ratio levels, on and off policy, reference, both clips, both extra terms.
LOSSES = {
    "on-policy": {},
    "grpo": {"loss_type": "grpo", "old": True},
    "bnpo": {"loss_type": "bnpo", "old": True, "epsilon_high": 0.4},
    "dr_grpo": {"loss_type": "dr_grpo", "old": True, "max_completion_length": 9},
    "dapo, part of a batch": {"old": True, "num_items_in_batch": 50, "loss_scale": 0.25},
    "reference": {"old": True, "ref": True, "beta": 0.04},
    "reference, for the log alone": {"ref": True},
    "corrected": {"old": True, "ref": True, "beta": 0.4, "kl": "k3_corrected", "delta": 1.3},
    "corrected, on-policy": {"ref": True, "beta": 0.4, "kl": "k3_corrected", "loss_type": "grpo"},
    "two-sided clip": {"old": True, "delta": 1.3},
    "entropy and self-certainty": {"ref": True, "beta": 0.1, "entropy_coef": 0.02, "self_certainty_coef": -0.03},
    "sequence": {"old": True, "loss_type": "grpo", "importance_sampling_level": "sequence"},
    "sequence, on-policy": {"loss_type": "grpo", "importance_sampling_level": "sequence", "entropy_coef": 0.01},
    "sequence, all terms": {
        "old": True, "ref": True, "beta": 0.04, "importance_sampling_level": "sequence", "entropy_coef": 0.02,
        "self_certainty_coef": 0.01, "delta": 1.5,
    },
    "sequence, an advantage for each token": {
        "old": True, "ref": True, "beta": 0.04, "importance_sampling_level": "sequence", "per_token": True,
    },
    "sequence, on-policy, an advantage for each token": {"importance_sampling_level": "sequence", "per_token": True},
    "sequence, corrected": {
        "old": True, "ref": True, "beta": 0.4, "kl": "k3_corrected", "importance_sampling_level": "sequence",
    },
    "sequence, corrected, on-policy": {
        "ref": True, "beta": 0.4, "kl": "k3_corrected", "importance_sampling_level": "sequence", "loss_type": "bnpo",
    },
    "sequence, corrected, for the log alone": {
        "old": True, "ref": True, "kl": "k3_corrected", "importance_sampling_level": "sequence",
    },
}  # fmt: skip


# The other types, the weight of a token, and what chooses tokens: Clip-Cov takes all that it may here, and draws none.
VARIANTS = {
    "cispo": {"loss_type": "cispo", "old": True, "epsilon_high": 1.1, "num_items_in_batch": 50, "weights": True},
    "cispo, on-policy": {"loss_type": "cispo", "epsilon_high": 0.7, "entropy_coef": 0.01, "weights": True},
    "cispo, sequence": {
        "loss_type": "cispo", "old": True, "epsilon_high": 1.1, "importance_sampling_level": "sequence",
    },
    "sapo": {"loss_type": "sapo", "old": True, "ref": True, "beta": 0.04, "sapo_temperature_neg": 1.5},
    "sapo, on-policy": {"loss_type": "sapo", "ref": True, "beta": 0.04, "loss_scale": 0.5},
    "sapo, sequence": {
        "loss_type": "sapo", "old": True, "importance_sampling_level": "sequence", "weights": True,
    },
    "vespo": {"loss_type": "vespo", "old": True, "weights": True, "vespo_k_neg": 1.5},
    "vespo, on-policy": {"loss_type": "vespo", "weights": True, "ref": True, "beta": 0.1},
    "luspo": {"loss_type": "luspo", "old": True, "importance_sampling_level": "sequence", "ref": True, "beta": 0.04},
    "luspo, of tokens": {"loss_type": "luspo", "old": True, "weights": True},
    "gmpo": {"loss_type": "gmpo", "old": True, "ref": True, "beta": 0.04, "epsilon_high": 0.1},
    "gmpo, on-policy": {"loss_type": "gmpo", "self_certainty_coef": 0.02},
    "gmpo, a weight for each token": {"loss_type": "gmpo", "old": True, "weights": True},
    "gmpo, on-policy, a weight for each token": {"loss_type": "gmpo", "weights": True},
    "cispo, corrected": {
        "loss_type": "cispo", "old": True, "ref": True, "beta": 0.4, "kl": "k3_corrected", "epsilon_high": 1.1,
    },
    "vespo, corrected": {"loss_type": "vespo", "old": True, "ref": True, "beta": 0.4, "kl": "k3_corrected"},
    "gmpo, corrected": {"loss_type": "gmpo", "old": True, "ref": True, "beta": 0.4, "kl": "k3_corrected"},
    "weights": {"old": True, "ref": True, "beta": 0.04, "entropy_coef": 0.02, "weights": True},
    "weights, sequence": {"importance_sampling_level": "sequence", "loss_type": "grpo", "weights": True},
    "high entropy": {
        "old": True, "ref": True, "beta": 0.04, "top_entropy_quantile": 0.4, "entropy_coef": 0.02,
        "self_certainty_coef": 0.01, "num_items_in_batch": 50,
    },
    "high entropy, gmpo": {"loss_type": "gmpo", "old": True, "top_entropy_quantile": 0.5},
    "Clip-Cov": {"old": True, "clip_cov_ratio": 1.0, "clip_cov_lb": 0.1, "clip_cov_ub": 0.8},
    "KL-Cov": {"old": True, "kl_cov_ratio": 0.3, "kl_cov_coef": 0.5, "weights": True},
}  # fmt: skip

# Between them they take every branch of the kernels.
FAST_LOSSES = ("on-policy", "two-sided clip", "corrected", "entropy and self-certainty", "sequence, all terms")


def loss_inputs(case: dict, logits: Tensor) -> tuple[tuple, dict]:
    """(targets, advantages, old_logprob, ref_logprob) and the other options of a case of `LOSSES` or `VARIANTS`.

    Targets are drawn from the (..., T, V) logits. One sequence has no advantage, some tokens are masked, and what
    stands in those is not a number.
    """
    options = dict(case)
    targets = random_targets(logits, outside=False)  # a token of probability 0 has no finite loss
    targets_shape = targets.shape
    shape = targets_shape if options.pop("per_token", False) else targets_shape[:-1]
    advantages = torch.randn(shape, device=DEVICE)
    advantages[1:2] = 0
    mask = torch.rand(targets_shape, device=DEVICE) > 0.25
    guess = -torch.rand(targets_shape, device=DEVICE) * 6
    old, ref = (
        (guess + 0.3 * torch.randn_like(guess)).where(mask, torch.nan) if options.pop(name, False) else None
        for name in ("old", "ref")
    )
    if options.pop("weights", False):
        weights = (2 * torch.rand(targets_shape, device=DEVICE)).where(mask, torch.nan)
        weights[..., -1:] *= 0  # as of a token that a sampler's correction leaves out
        options["token_weight"] = weights
    return (targets, advantages, old, ref), options | {"mask": mask}


def near(logprob: Tensor, arguments: tuple) -> tuple:
    """The arguments with old and reference log-probabilities near the policy's, so that some ratios are clipped."""
    targets, advantages, old, ref = arguments
    old, ref = (
        None if value is None else (logprob + 0.3 * torch.randn_like(logprob)).where(~value.isnan(), torch.nan)
        for value in (old, ref)
    )
    return targets, advantages, old, ref


def exact(arguments: tuple) -> tuple:
    """In float64, with a number where padding had none."""
    return tuple(
        value if value is None or not value.is_floating_point() else value.double().nan_to_num() for value in arguments
    )


def assert_losses_match(actual: GRPOLoss, expected: GRPOLoss) -> None:
    assert actual.loss.shape == ()
    for name, value, target in zip(GRPOLoss._fields, actual, expected, strict=True):
        assert (value is None) == (target is None), name
        if value is None:
            continue
        if name == "clipped":
            assert value.dtype == torch.bool
            assert torch.equal(value, target)
            continue
        assert value.dtype == torch.float32, name
        assert value.shape == target.shape, name
        # k3 is a difference of log-probabilities squared: those themselves are given in float32.
        bound = RELATIVE_TOLERANCE * target.abs().max().clamp(min=1e-3 if name == "kl" else 0.1)
        wrong = ~((value.double() - target).abs() <= bound)
        assert not wrong.any(), f"{name}: {value[wrong][:4]} != {target[wrong][:4]}"


def assert_gradient_matches(actual: Tensor, expected: Tensor) -> None:
    # Narrow gradients are rounded where they are stored. A vocabulary of one column has no gradient but rounding.
    bound = RELATIVE_TOLERANCE * expected.abs().max().clamp(min=1e-9) + ROUNDING[actual.dtype] * expected.abs()
    wrong = ~((actual.double() - expected).abs() <= bound)
    assert not wrong.any(), f"{actual[wrong][:4]} != {expected[wrong][:4]}"
