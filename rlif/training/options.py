"""Everything that a training run can be told, in one dataclass whose docstrings are the text of `rlif train --help`.

Imports neither torch nor transformers, so that the command line can answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from rlif.options.checks import Above, AtLeast, AtMost, Count, Positive, check
from rlif.options.fields import Formerly
from rlif.options.groups import (
    DataOptions,
    HeldOutOptions,
    HeldOutSamplingOptions,
    Labels,
    LoadingOptions,
    LoraOptions,
    MemoryOptions,
    ModelOptions,
    OptimizerOptions,
    OutputOptions,
    ReadingOptions,
    ResumeOptions,
    RewardNames,
    SamplingOptions,
    SeedOptions,
    StepOptions,
    TruncationOptions,
)
from rlif.options.record import check_resume
from rlif.options.verification import VerificationOptions, check_verification
from rlif.rewards import REWARDS, Aggregation, read_specs, reward_names
from rlif.training.guard import Action, GuardLabels
from rlif.training.variant_options import (
    AdaptiveEntropyOptions,
    LossVariantOptions,
    SamplerCorrectionOptions,
    check_loss,
)

LossType = Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "vespo", "luspo", "gmpo"]
RewardScale = Literal["group", "batch", "none"]
ImportanceLevel = Literal["token", "sequence"]
KLEstimator = Literal["k3", "k3_corrected", "full"]

REWARD_HELP = (
    "What to maximise. Repeat the option to add several rewards up, weighted (1 where no weight is given): "
    f"{', '.join(REWARDS)} (verifiable, rise and rlcr need gold answers); or a function of your own, "
    "package.module:function or file.py:function; or reward_model:DIRECTORY, as `rlif self-feedback train --objective "
    "reward_model` makes it."
)


@dataclass(kw_only=True)
class PolicyLossOptions:
    """What an update minimises. Names are those of TRL's GRPOConfig where it has one."""

    heading: ClassVar[str] = "loss"

    loss_type: Annotated[LossType, tyro.conf.arg(metavar="TYPE")] = "dapo"
    """How token losses are averaged, and what the probability ratio does. dapo, bnpo: over the tokens of the step.
    grpo: over each completion's tokens, then over completions. dr_grpo: sum over completions x max_completion_length.
    luspo: sum over each completion's tokens, then over completions. These clip the ratio. cispo: as dapo, the ratio a
    bounded weight. sapo: as grpo, with a sigmoid of the ratio. vespo: as dapo, with a weight by the product of a
    completion's ratios. gmpo: as grpo, with the geometric mean of a completion's clipped ratios."""

    scale_rewards: RewardScale = "group"
    """What differences of rewards are divided by: the standard deviation in the group, in the batch, or nothing."""

    beta: Annotated[float, AtLeast(0)] = 0.005
    """Weight of the KL divergence to the frozen start model. 0 switches it off: collapse comes sooner."""

    kl_estimator: KLEstimator = "k3"
    """k3: estimate that divergence from the log-probabilities of each token drawn. k3_corrected: times the probability
    ratio, so that the gradient of the estimate is unbiased too (TRL's use_bias_correction_kl, arXiv 2512.02556). full:
    compute it over the whole vocabulary, from the start model's hidden states: exact, with a gradient that varies less
    and is 0 at the start. With num_iterations above 1 the hidden states of a step are kept."""

    epsilon: Positive = 0.2
    """Clip range of the probability ratio; of consequence from the second update of a rollout on (num_iterations). Of
    gmpo that of the ratio's logarithm, 0.4 in its paper."""

    epsilon_high: Positive | None = None
    """Upper clip range; of cispo the largest ratio itself. None: epsilon."""

    delta: Annotated[float, Above(1)] | None = None
    """Upper bound of the ratio where the advantage is negative; greater than 1 + epsilon. None: no bound."""

    importance_sampling_level: ImportanceLevel = "token"
    """Whether each token has its probability ratio, or a completion one for all its tokens."""

    mask_truncated_completions: bool = False
    """Leave completions that were cut off out of the loss. They are rewarded and compared all the same."""

    entropy_coef: float = 0.0
    """The loss is lowered by this times the mean entropy, which raises the entropy; a negative one minimises it."""

    self_certainty_coef: float = 0.0
    """The loss is lowered by this times the mean self-certainty, as an objective that is differentiated."""

    num_iterations: Count = 1
    """Updates from each rollout. At 1 the loop is strictly on-policy and needs one forward for reward and gradient."""


@dataclass(kw_only=True)
class SolveAndVerifyOptions(VerificationOptions):
    """How a step trains to verify what it has just sampled, beside solving (RISE, arXiv 2505.13445)."""

    heading: ClassVar[str] = "solve and verify"

    verify: bool = False
    """Ask the policy too whether some of a step's completions are right: num_generations verifications of each, which
    are rewarded as `rise` rewards for stating the right rating, and learned from in the same update."""

    verify_share: Annotated[float, Above(0), AtMost(1)] = 0.125
    """Completions that are verified in a step, as a share of prompts_per_step. They are drawn in pairs, at least one: a
    right completion and one that is not, so fewer where one kind is lacking."""

    verify_labels: Labels = "gold"
    """What tells which completions are right. gold: the gold answers. majority: the most common answer of the group,
    where two agree, which needs no labels."""


@dataclass(kw_only=True)
class EvaluationOptions(HeldOutSamplingOptions, HeldOutOptions):
    """How the policy is measured on held-out prompts as training goes on."""

    heading: ClassVar[str] = "evaluation"

    eval_data: str | None = None
    """Held-out prompts to evaluate on, read like `data`. None: only the guard's, held out of `data`."""

    eval_steps: Count = 10
    """Steps between evaluations, which also happen before the first update and after the last."""


@dataclass(kw_only=True)
class GuardOptions:
    """What finds, without labels where the run has none, that the policy begins to fall (see rlif.training.guard)."""

    heading: ClassVar[str] = "guard"

    guard: Action = "stop"
    """What to do when the policy begins to fall: stop, after guard_patience evaluations, with the best policy as the
    model; warn; or off. The best is kept in OUTPUT_DIR/best. A run that learns from gold answers is warned at most,
    unless the guard goes by them too."""

    guard_labels: GuardLabels = "auto"
    """What the guard compares completions of held-out prompts with: gold answers; the majority answers of the start
    model, which need no labels; or auto, gold answers in a run that learns from them, if at least half of the held-out
    prompts have one, and else the majority."""

    guard_patience: Count = 3
    """Evaluations in a row below the best after which the guard stops the run."""

    guard_prompts: Count = 128
    """Prompts whose majority answers the guard asks the start model for: the first of eval_data, or without it as many
    that are held out of `data`, a tenth at most; of fewer than 80 none, and the guard watches those trained on."""


@dataclass(kw_only=True)
class SavingOptions:
    """What is saved and told on the way."""

    heading: ClassVar[str] = "saving"

    save_steps: Count | None = None
    """Steps between checkpoints, OUTPUT_DIR/checkpoint-STEP. None: only when stopped, and the model at the end."""

    save_total_limit: Count | None = None
    """Checkpoints to keep, the newest. None: all."""

    report_to: tuple[str, ...] = ()
    """Trackers that get the metrics too: tensorboard, wandb, trackio, or another that accelerate knows. Those three get
    a table of completions with every evaluation."""


@dataclass(kw_only=True)
class TrainConfig(
    RewardNames,
    ModelOptions,
    DataOptions,
    OutputOptions,
    ResumeOptions,
    SeedOptions,
    StepOptions,
    ReadingOptions,
    SamplingOptions,
    TruncationOptions,
    PolicyLossOptions,
    LossVariantOptions,
    SamplerCorrectionOptions,
    AdaptiveEntropyOptions,
    SolveAndVerifyOptions,
    OptimizerOptions,
    LoraOptions,
    LoadingOptions,
    MemoryOptions,
    EvaluationOptions,
    GuardOptions,
    SavingOptions,
):
    """Train a language model on its own confidence with GRPO.

    Each step samples a group of completions for every prompt, scores them with the chosen reward, and moves the
    model towards those that scored above their group's mean. Names are those of TRL's GRPOConfig where it has one.
    """

    output_dir: Annotated[Path | None, Formerly("run_dir")] = None
    """New directory for metrics, samples and the trained model. None: runs/REWARD-DATE-TIME."""

    reward: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="NAME[=WEIGHT]", help=REWARD_HELP, help_behavior_hint="(default: self_certainty)"),
    ] = ("self_certainty",)

    multi_objective_aggregation: Aggregation = "sum_then_normalize"
    """How rewards are added up: weighted as they are, or each first normalised within its group."""

    learning_rate: Positive = 3e-6
    """Peak learning rate of AdamW."""

    num_generations: Annotated[
        int, AtLeast(2, why=": an advantage compares the completions of one prompt with each other")
    ] = 8
    """Completions sampled for each prompt: the group that they are compared within. At least 2."""

    max_num_gen_batches: Count = 1
    """How often a step samples at most: completions of prompts whose rewards are all equal, which teach nothing, are
    drawn anew until they differ (DAPO's dynamic sampling, arXiv 2503.14476). Where rewards read statistics, those are
    drawn anew that are all the same. 1: once. The name is verl's."""

    temperature: Positive = 1.0
    """Sampling temperature. Rewards and the loss see the distribution at this temperature too."""

    top_k: Annotated[int, AtLeast(0)] = 0
    """Sample from the k most likely tokens only; 0 from all. Rewards and the loss see the whole distribution."""

    use_transformers_continuous_batching: bool = False
    """Sample training completions with transformers' continuous batching, meant for GPUs: no padding, and keys and
    values in pages. What is sampled then depends on how prompts share a batch, and so on the number of processes."""

    @property
    def title(self) -> str:
        """What the run is about, in a few characters: its rewards."""
        return "+".join(reward_names(self.reward))

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        check(self)
        read_specs(self.reward)
        check_loss(self)
        check_verification(self)
        check_resume(self, "run")
