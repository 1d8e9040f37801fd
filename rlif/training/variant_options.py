"""What some losses alone are told, a sampler's correction and the adaptive weight of the entropy: options and checks.

Imports neither torch nor transformers, so that the command line can answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from rlif.errors import UserError
from rlif.options.checks import AtLeast, Positive, Share

if TYPE_CHECKING:
    from rlif.training.options import TrainConfig

SamplerCorrection = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

# The losses that clip a ratio, and those whose weight is a whole completion's at any level.
CLIPPED = ("dapo", "grpo", "bnpo", "dr_grpo", "luspo")
OF_COMPLETIONS = ("vespo", "gmpo")


@dataclass(kw_only=True)
class LossVariantOptions:
    """What some losses alone are told. Names are those of TRL's GRPOConfig, or of verl where TRL has none."""

    heading: ClassVar[str] = "variants of the loss"

    sapo_temperature_pos: Positive = 1.0
    """Of sapo where the advantage is positive: the larger, the faster a ratio away from 1 loses its gradient."""

    sapo_temperature_neg: Positive = 1.05
    """Of sapo where the advantage is not positive."""

    vespo_k_pos: Annotated[float, AtLeast(0)] = 2.0
    """Of vespo where the advantage is at least 0: the larger, the less a completion of small ratios weighs."""

    vespo_lambda_pos: Annotated[float, AtLeast(0)] = 3.0
    """Of vespo where the advantage is at least 0: the larger, the less a completion of large ratios weighs."""

    vespo_k_neg: Annotated[float, AtLeast(0)] = 3.0
    """vespo_k_pos where the advantage is negative."""

    vespo_lambda_neg: Annotated[float, AtLeast(0)] = 2.0
    """vespo_lambda_pos where the advantage is negative."""

    top_entropy_quantile: Share = 1.0
    """The share of tokens that learn: those of the highest entropy among the tokens of a forward (arXiv 2506.01939,
    which takes 0.2). Of these alone are also the means of entropy_coef and self_certainty_coef. 1: all."""

    clip_cov_ratio: Share = 0.0
    """Clip-Cov (arXiv 2505.22617, which takes 0.0002): the share of tokens, at least one in a forward, that do not
    learn, drawn among those of high covariance of log-probability and advantage. 0: none."""

    clip_cov_lb: float = 1.0
    """The covariance that such a token exceeds."""

    clip_cov_ub: float = 5.0
    """The covariance that such a token stays below."""

    kl_cov_ratio: Share = 0.0
    """KL-Cov (arXiv 2505.22617, which takes 0.0002): the share of tokens, at least one in a forward, those of the
    highest covariance, that are held to the policy that sampled; the ratio is then not clipped. Of consequence from the
    second update of a rollout on (num_iterations). 0: none."""

    kl_cov_coef: Annotated[float, AtLeast(0)] = 1.0
    """Weight of the absolute log-ratio of such a token."""


@dataclass(kw_only=True)
class SamplerCorrectionOptions:
    """How the loss allows for a sampler whose probabilities are not those of the forward that learns."""

    heading: ClassVar[str] = "correction of the sampler"

    importance_sampling_mode: Annotated[SamplerCorrection | None, tyro.conf.arg(metavar="MODE")] = None
    """Weigh tokens by the ratio of their probability in the forward that learns to that in sampling: each by its own
    (token_), or by the product of the completion's (sequence_), held within the bounds (truncate), or 0 outside them
    (mask). Values are those of TRL's vllm_importance_sampling_mode. None: no weights."""

    importance_sampling_clip_max: Positive | None = 3.0
    """Upper bound of that ratio. None: none."""

    importance_sampling_clip_min: Annotated[float, AtLeast(0)] | None = None
    """Lower bound of that ratio. None: none."""


@dataclass(kw_only=True)
class AdaptiveEntropyOptions:
    """How the weight of the entropy follows the entropy (Skywork-OR1, arXiv 2505.22312)."""

    heading: ClassVar[str] = "adaptive entropy"

    use_adaptive_entropy: bool = False
    """Add entropy_coef_delta to entropy_coef after an update whose mean entropy was at most entropy_target, and take it
    off after any other. The coefficient counts only after an update at or below the target."""

    entropy_target: Annotated[float, AtLeast(0)] = 0.2
    """Mean entropy of the tokens that learn, nats. Take one near that of the first steps: at 0.2 most models say
    nearly the same every time."""

    entropy_coef_delta: Annotated[float, AtLeast(0)] = 0.005
    """By how much entropy_coef moves."""

    entropy_coef_min: float = 0.0
    """The least that entropy_coef becomes."""

    entropy_coef_max: float = 1.0
    """The most that entropy_coef becomes."""


def check_loss(config: TrainConfig) -> None:
    """Check which options of the loss go together.

    Raises:
        UserError: naming the argument that does not, what came and what was expected.
    """
    if config.loss_type not in CLIPPED and config.delta is not None:
        raise UserError(f"delta: got {config.delta!r}, expected None with loss_type {config.loss_type}")
    if config.delta is not None and config.delta <= 1 + config.epsilon:
        limit = 1 + config.epsilon
        raise UserError(f"delta: got {config.delta!r}, expected more than 1 + epsilon, which is {limit:g}")
    level = config.importance_sampling_level
    if config.loss_type in OF_COMPLETIONS and level != "token":
        raise UserError(
            f"importance_sampling_level: got {level!r}, expected 'token' with loss_type {config.loss_type}, which "
            "weighs whole completions at any level"
        )
    if config.loss_type == "luspo" and level != "sequence":
        raise UserError(f"importance_sampling_level: got {level!r}, expected 'sequence' with loss_type luspo")
    if config.loss_type == "cispo" and config.epsilon_high is None:
        raise UserError(
            "epsilon_high: got None, expected with loss_type cispo the largest ratio itself, such as 5.0 (arXiv "
            "2510.13786)"
        )
    if config.kl_estimator != "k3" and config.beta == 0:
        given = config.kl_estimator
        raise UserError(f"kl_estimator: got {given!r}, expected 'k3' with beta 0, which asks no start model")
    _check_covariances(config)
    _check_sampler(config)
    if config.entropy_coef_min > config.entropy_coef_max:
        raise UserError(
            f"entropy_coef_min: got {config.entropy_coef_min!r}, expected at most entropy_coef_max, which is "
            f"{config.entropy_coef_max!r}"
        )


def _check_covariances(config: TrainConfig) -> None:
    if config.clip_cov_lb >= config.clip_cov_ub:
        raise UserError(
            f"clip_cov_lb: got {config.clip_cov_lb!r}, expected less than clip_cov_ub, which is {config.clip_cov_ub!r}"
        )
    if config.clip_cov_ratio > 0 and config.kl_cov_ratio > 0:
        raise UserError(f"kl_cov_ratio: got {config.kl_cov_ratio!r}, expected 0 with a clip_cov_ratio")
    for name in ("clip_cov_ratio", "kl_cov_ratio"):
        share = getattr(config, name)
        if share > 0 and (config.loss_type not in CLIPPED or config.importance_sampling_level != "token"):
            raise UserError(
                f"{name}: got {share!r}, expected 0, or a loss_type out of {', '.join(CLIPPED[:4])} with "
                "importance_sampling_level token"
            )
    if config.kl_cov_ratio > 0 and config.delta is not None:
        raise UserError(f"delta: got {config.delta!r}, expected None with a kl_cov_ratio, which bounds no ratio")


def _check_sampler(config: TrainConfig) -> None:
    mode, low, high = (
        config.importance_sampling_mode, config.importance_sampling_clip_min, config.importance_sampling_clip_max,
    )  # fmt: skip
    if mode is None:
        return
    if low is not None and high is not None and low >= high:
        raise UserError(
            f"importance_sampling_clip_min: got {low!r}, expected less than importance_sampling_clip_max, which is "
            f"{high!r}"
        )
    if config.top_k or config.top_p < 1:
        raise UserError(
            f"importance_sampling_mode: got {mode!r}, expected None with top_k or top_p, which leave tokens out of "
            "sampling that the loss counts"
        )
    if config.loss_type == "vespo" and mode.startswith("sequence"):
        raise UserError(
            f"importance_sampling_mode: got {mode!r}, expected a mode of tokens with loss_type vespo, which takes "
            "their product itself"
        )
