"""The options of the loss: its types, the numbers that belong to some of them, and their checks.

A loss type is two decisions: what the probability ratio does to the loss of a token, its *policy term*, and how tokens
add up. With A the advantage, r the ratio to the policy that sampled (of the token, or of the sequence), and sg what
carries no gradient:

| term | loss of a token | source |
| --- | --- | --- |
| clip | -min(min(r, delta) A, clamp(r, 1 - epsilon_low, 1 + epsilon_high) A) | PPO 1707.06347; delta 2505.07291 |
| cispo | -sg(min(r, epsilon_high)) A logprob | MiniMax-M1 2506.13585 |
| sapo | -sigmoid(t (r - 1)) (4 / t) A, t by the sign of A | 2511.20347 |
| vespo | -sg(phi(W)) A logprob, phi(W) = exp(lambda + k log W - lambda W), W the sequence's ratio | 2602.10693 |
| gmpo | -G A, G the geometric mean of the sequence's clipped ratios | 2507.20673 |

| loss types | term | how tokens add up |
| --- | --- | --- |
| grpo, sapo, gmpo | clip, sapo, gmpo | the mean over sequences of the mean over a sequence's tokens |
| bnpo | clip | the mean over tokens |
| dr_grpo | clip | the sum, divided by the number of sequences and by `max_completion_length` |
| dapo, cispo, vespo | clip, cispo, vespo | the sum, divided by `num_items_in_batch` |
| luspo | clip | the mean over sequences of the sum over a sequence's tokens |
"""

import math
from typing import Any, NamedTuple, TypedDict

from rlif_kernels.checks import finite_number

# The types whose term is "clip"; every other type is named like its term.
CLIPPED_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
LOSS_TYPES = (*CLIPPED_TYPES, "cispo", "sapo", "vespo", "gmpo")
IMPORTANCE_SAMPLING_LEVELS = ("token", "sequence")
# What the penalty for leaving the reference is: two estimates, and the divergence itself.
KL_KINDS = ("k3", "k3_corrected", "full")
# "vespo" holds the logarithm of a sequence's weight between these, and its decay above the third.
LOWEST_LOG_WEIGHT, HIGHEST_LOG_WEIGHT = math.log(1e-8), 20.0
LEAST_DECAY = 1e-4


class LossVariant(TypedDict, total=False):
    """Options of some losses alone, by TRL's names, and by verl's where TRL has none (Clip-Cov, KL-Cov).

    The last six choose tokens by what all tokens say, so that statistics come first and the loss after them: see
    `rlif_kernels.token_selection`.
    """

    sapo_temperature_pos: float
    """Of "sapo" where the advantage is positive; 1.0."""
    sapo_temperature_neg: float
    """Of "sapo" elsewhere; 1.05."""
    vespo_k_pos: float
    """Exponent of "vespo" where the advantage is at least 0; 2.0."""
    vespo_lambda_pos: float
    """Decay of "vespo" there; 3.0."""
    vespo_k_neg: float
    """Exponent of "vespo" where the advantage is negative; 3.0."""
    vespo_lambda_neg: float
    """Decay of "vespo" there; 2.0."""
    top_entropy_quantile: float
    """The share of tokens, those of the highest entropy, that the policy term, and the mean entropy and self-certainty
    of the coefficients, are of (arXiv 2506.01939); 1.0: all. 0.2 in the paper."""
    clip_cov_ratio: float
    """Clip-Cov (arXiv 2505.22617): the share of tokens, at least one, whose policy term is left out; 0.0: none. They
    are drawn by torch's generator among those whose covariance of log-probability and advantage lies between the next
    two, and whose ratio is not clipped. 0.0002 in the paper."""
    clip_cov_lb: float
    """The covariance that such a token exceeds; 1.0."""
    clip_cov_ub: float
    """The covariance that such a token stays below; 5.0."""
    kl_cov_ratio: float
    """KL-Cov (arXiv 2505.22617): the share of tokens, at least one, those of the largest covariance, that are held to
    the policy that sampled; 0.0: none, and the ratio is clipped; else it is not. 0.0002 in the paper."""
    kl_cov_coef: float
    """Weight of |log r| in the loss of such a token; 1.0. On-policy it has no gradient."""


VARIANT_DEFAULTS = {
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0,
    "vespo_lambda_neg": 2.0,
    "top_entropy_quantile": 1.0,
    "clip_cov_ratio": 0.0,
    "clip_cov_lb": 1.0,
    "clip_cov_ub": 5.0,
    "kl_cov_ratio": 0.0,
    "kl_cov_coef": 1.0,
}


class LossOptions(NamedTuple):
    """The numbers that the loss is told, the same for every token; kernels read the first six."""

    epsilon_low: float
    epsilon_high: float
    delta: float
    """Infinite where the ratio has no upper bound of its own."""
    beta: float
    entropy_coef: float
    self_certainty_coef: float
    sapo_temperature_pos: float = VARIANT_DEFAULTS["sapo_temperature_pos"]
    sapo_temperature_neg: float = VARIANT_DEFAULTS["sapo_temperature_neg"]
    vespo_k_pos: float = VARIANT_DEFAULTS["vespo_k_pos"]
    vespo_lambda_pos: float = VARIANT_DEFAULTS["vespo_lambda_pos"]
    vespo_k_neg: float = VARIANT_DEFAULTS["vespo_k_neg"]
    vespo_lambda_neg: float = VARIANT_DEFAULTS["vespo_lambda_neg"]
    kl_ratio: float = 0.0
    """1 where the ratio multiplies the penalty, as in "k3_corrected", else 0."""


def policy_term(loss_type: str) -> str:
    """Return what the ratio does in a loss of this type: "clip", "cispo", "sapo", "vespo" or "gmpo"."""
    return "clip" if loss_type in CLIPPED_TYPES else loss_type


def variant_numbers(variant: LossVariant) -> dict[str, Any]:
    """Return the options of `LossVariant`, with their defaults where they were not given.

    Raises:
        TypeError: a name is none of them.
    """
    for name in variant:
        if name not in VARIANT_DEFAULTS:
            raise TypeError(f"got an unexpected keyword argument {name!r}; expected one out of {[*VARIANT_DEFAULTS]}")
    return {**VARIANT_DEFAULTS, **variant} if variant else VARIANT_DEFAULTS


def selects_tokens(numbers: dict[str, Any]) -> bool:
    """Tell whether tokens are chosen by what all tokens say."""
    return numbers["top_entropy_quantile"] < 1 or numbers["clip_cov_ratio"] > 0 or numbers["kl_cov_ratio"] > 0


def check_loss_options(
    loss_type: str, importance_sampling_level: str, delta: float | None, numbers: dict[str, Any]
) -> None:
    """Check what the loss is told but for tensors, in the ops and in `policy_loss`.

    Raises:
        ValueError: a type or level is not known, a number out of its range, or two options do not go together.
        TypeError: a number is none.
    """
    for name, given, choices in (
        ("loss_type", loss_type, LOSS_TYPES),
        ("importance_sampling_level", importance_sampling_level, IMPORTANCE_SAMPLING_LEVELS),
    ):
        if given not in choices:
            raise ValueError(f"{name} is {given!r}; expected one of {choices}")
    if loss_type not in CLIPPED_TYPES and delta is not None:
        raise ValueError(f"delta is {delta}; expected None with loss_type {loss_type!r}, which has no such bound")
    if loss_type in ("vespo", "gmpo") and importance_sampling_level != "token":
        raise ValueError(
            f"importance_sampling_level is {importance_sampling_level!r}; expected 'token' with loss_type "
            f"{loss_type!r}, whose weight is a sequence's at any level"
        )
    if numbers is not VARIANT_DEFAULTS:
        _check_variant(loss_type, importance_sampling_level, delta, numbers)


def check_kl_kind(kl: str) -> None:
    """Check that the kind of the penalty is known.

    Raises:
        ValueError: it is not.
    """
    if kl not in KL_KINDS:
        raise ValueError(f"kl is {kl!r}; expected one of {KL_KINDS}")


def _check_variant(
    loss_type: str, importance_sampling_level: str, delta: float | None, numbers: dict[str, Any]
) -> None:
    """Check the numbers of `LossVariant`, and what goes with them."""
    for names, least, most, expected in (
        (("sapo_temperature_pos", "sapo_temperature_neg"), 1e-30, 1e30, "a positive number"),
        (
            ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg", "kl_cov_coef"),
            0.0, 1e30, "a finite number, 0 or more",
        ),
        (("top_entropy_quantile", "clip_cov_ratio", "kl_cov_ratio"), 0.0, 1.0, "a number from 0 to 1"),
        (("clip_cov_lb", "clip_cov_ub"), -1e30, 1e30, "a finite number"),
    ):  # fmt: skip
        for name in names:
            if not least <= finite_number(name, numbers[name]) <= most:
                raise ValueError(f"{name} is {numbers[name]}; expected {expected}")
    if numbers["clip_cov_lb"] >= numbers["clip_cov_ub"]:
        raise ValueError(
            f"clip_cov_lb is {numbers['clip_cov_lb']}; expected less than clip_cov_ub, {numbers['clip_cov_ub']}"
        )
    if numbers["clip_cov_ratio"] > 0 and numbers["kl_cov_ratio"] > 0:
        raise ValueError(f"kl_cov_ratio is {numbers['kl_cov_ratio']}; expected 0 with a clip_cov_ratio")
    for name in ("clip_cov_ratio", "kl_cov_ratio"):
        if numbers[name] > 0 and (loss_type not in CLIPPED_TYPES or importance_sampling_level != "token"):
            raise ValueError(
                f"{name} is {numbers[name]}; expected 0, or a loss_type out of {CLIPPED_TYPES} with a ratio for each "
                "token"
            )
    if numbers["kl_cov_ratio"] > 0 and delta is not None:
        raise ValueError(f"delta is {delta}; expected None with a kl_cov_ratio, which bounds no ratio")
