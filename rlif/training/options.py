"""Everything that a training run can be told, in one dataclass whose docstrings are the text of `rlif train --help`.

Imports neither torch nor transformers, so that the command line can answer at once.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal, get_args

from rlif.errors import UserError
from rlif.options.checks import require_integer
from rlif.options.groups import Dtype, Schedule
from rlif.rewards import Aggregation, load_rewards, reward_names
from rlif.training.guard import Action

LossType = Literal["dapo", "grpo", "bnpo", "dr_grpo"]
RewardScale = Literal["group", "batch", "none"]
ImportanceLevel = Literal["token", "sequence"]


@dataclasses.dataclass
class TrainConfig:
    """Train a language model on its own confidence with GRPO.

    Each step samples a group of completions for every prompt, scores them with the chosen reward, and moves the
    model towards those that scored above their group's mean. Names are those of TRL's GRPOConfig where it has one.
    """

    model: str
    """Model to start from: a directory saved by transformers, or a Hugging Face hub id."""

    data: str
    """Prompts to train on: a JSONL, JSON, Parquet or CSV file, a directory of them, or a Hugging Face hub id."""

    reward: tuple[str, ...] = ("self_certainty",)
    """What to maximise; several are added up. Each a name of rlif.rewards.REWARDS, package.module:function or
    file.py:function, followed by =WEIGHT where the weight is not 1."""

    multi_objective_aggregation: Aggregation = "sum_then_normalize"
    """How rewards are added up: weighted as they are, or each first normalised within its group."""

    run_dir: Path | None = None
    """New directory for metrics, samples and the trained model. None: runs/REWARD-DATE-TIME."""

    eval_data: str | None = None
    """Prompts to evaluate on, read like `data`. None: only the guard's, held out of `data`."""

    data_config: str | None = None
    """Configuration (subset) of the hub datasets, where they have several."""

    split: str | None = None
    """Split to train on, for data with splits; may be a slice, train[:1000]. None: the only one, or train."""

    eval_split: str | None = None
    """Split to evaluate on, likewise. None: the only one, or test."""

    prompt_column: str = "prompt"
    """Column with the prompt: text, or a conversation as a list of messages with `role` and `content`."""

    answer_column: str = "answer"
    """Column with the gold answer. Of a whole solution, what follows the last #### or stands in the last \\boxed{}."""

    chat: bool = False
    """Put prompts that are plain text into the tokenizer's chat template too. Conversations always are."""

    system_prompt: str | None = None
    """System message before every conversation. Implies chat."""

    max_steps: int = 100
    """Training steps; each samples, scores and learns from fresh completions."""

    prompts_per_step: int = 32
    """Prompts (groups) in a step."""

    num_generations: int = 8
    """Completions sampled for each prompt: the group that they are compared within. At least 2."""

    max_completion_length: int = 256
    """Longest completion, in tokens; a longer one is cut off."""

    temperature: float = 1.0
    """Sampling temperature. Rewards and the loss see the distribution at this temperature too."""

    top_k: int = 0
    """Sample from the k most likely tokens only; 0 from all. Rewards and the loss see the whole distribution."""

    top_p: float = 1.0
    """Sample from the most likely tokens that make up this probability only, likewise."""

    use_transformers_continuous_batching: bool = False
    """Sample training completions with transformers' continuous batching, meant for GPUs: no padding, and keys and
    values in pages. What is sampled then depends on how prompts share a batch, and so on the number of processes."""

    learning_rate: float = 3e-6
    """Peak learning rate of AdamW."""

    warmup_ratio: float = 0.1
    """Share of the steps in which the learning rate rises linearly to its peak."""

    lr_scheduler_type: Schedule = "cosine"
    """How the learning rate goes on after the warm-up: constant, or falling to 0 as a line or a half cosine."""

    loss_type: LossType = "dapo"
    """How token losses are averaged. dapo, bnpo: over the tokens of the step. grpo: over each completion's tokens, then
    over completions. dr_grpo: sum over completions x max_completion_length."""

    scale_rewards: RewardScale = "group"
    """What differences of rewards are divided by: the standard deviation in the group, in the batch, or nothing."""

    beta: float = 0.005
    """Weight of the KL divergence to the frozen start model. 0 switches it off: collapse comes sooner."""

    epsilon: float = 0.2
    """Clip range of the probability ratio; of consequence from the second update of a rollout on (num_iterations)."""

    epsilon_high: float | None = None
    """Upper clip range. None: epsilon."""

    delta: float | None = None
    """Upper bound of the ratio where the advantage is negative; greater than 1 + epsilon. None: no bound."""

    importance_sampling_level: ImportanceLevel = "token"
    """Whether each token has its probability ratio, or a completion one for all its tokens."""

    mask_truncated_completions: bool = False
    """Leave completions that were cut off out of the loss. They are rewarded and compared all the same."""

    entropy_coef: float = 0.0
    """The loss is lowered by this times the mean entropy, which raises the entropy; a negative one minimises it."""

    self_certainty_coef: float = 0.0
    """The loss is lowered by this times the mean self-certainty, as an objective that is differentiated."""

    num_iterations: int = 1
    """Updates from each rollout. At 1 the loop is strictly on-policy and needs one forward for reward and gradient."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""

    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""

    max_tokens_per_forward: int = 8192
    """Tokens in one forward and backward, padding included: fewer need less memory and change nothing but rounding."""

    gradient_checkpointing: bool = False
    """Compute activations again in the backward instead of keeping them: less memory, more time."""

    fused_head: bool = True
    """Apply the head in tiles, so that the logits of a step are never in memory. Off: the model's own logits."""

    attn_implementation: str | None = None
    """Attention, as transformers names it: eager, sdpa, flash_attention_2, … None: its own choice."""

    lora_rank: int = 0
    """Rank of a LoRA adapter to train instead of the model. 0: train the model."""

    lora_alpha: float = 32.0
    """The adapter's update is scaled by lora_alpha / lora_rank."""

    lora_target_modules: tuple[str, ...] = ("all-linear",)
    """Names of the modules that get an adapter. all-linear: every linear layer but the head."""

    eval_steps: int = 10
    """Steps between evaluations, which also happen before the first update and after the last."""

    eval_generations: int = 4
    """Completions sampled for each evaluation prompt."""

    eval_temperature: float = 1.0
    """Sampling temperature of the evaluation; 0 is greedy."""

    guard: Action = "stop"
    """What to do when the policy begins to fall, which is found without labels (see rlif.training.guard): stop, after
    guard_patience evaluations, with the best policy as the model; warn; or off. The best is kept in RUN_DIR/best. Runs
    that are rewarded for right answers are warned at most."""

    guard_patience: int = 3
    """Evaluations in a row below the best after which the guard stops the run."""

    guard_prompts: int = 128
    """Prompts whose majority answers the guard asks the start model for: the first of eval_data, or without it as many
    that are held out of `data`, a tenth at most; of fewer than 80 none, and the guard watches those trained on."""

    save_steps: int | None = None
    """Steps between checkpoints, RUN_DIR/checkpoint-STEP. None: only when stopped, and the model at the end."""

    save_total_limit: int | None = None
    """Checkpoints to keep, the newest. None: all."""

    resume: bool = False
    """Continue the run in run_dir from its newest intact checkpoint, as if it had never stopped."""

    report_to: tuple[str, ...] = ()
    """Trackers that get the metrics too: tensorboard, wandb, trackio, or another that accelerate knows."""

    device: str = "auto"
    """Device, as torch names it (cpu, cuda, cuda:1, mps). auto: cuda if there is one, else cpu."""

    dtype: Dtype = "float32"
    """Data type of weights and activations. bfloat16 weights round away updates of a small learning rate."""

    seed: int = 0
    """Seed of the prompt order and of sampling. On CPU, the same seed gives the same run."""

    @property
    def title(self) -> str:
        """What the run is about, in a few characters: its rewards."""
        return "+".join(reward_names(self.reward))

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        load_rewards(self.reward)
        for name, minimum, why in (
            ("max_steps", 1, ""),
            ("prompts_per_step", 1, ""),
            ("num_generations", 2, ": an advantage compares the completions of one prompt with each other"),
            ("max_completion_length", 1, ""),
            ("num_iterations", 1, ""),
            ("eval_steps", 1, ""),
            ("eval_generations", 1, ""),
            ("guard_patience", 1, ""),
            ("guard_prompts", 1, ""),
            ("max_tokens_per_forward", 1, ""),
            ("top_k", 0, ""),
            ("lora_rank", 0, ""),
            ("seed", 0, ""),
        ):
            require_integer(name, getattr(self, name), minimum, why)
        if self.seed >= 2**63:
            raise UserError(f"seed: got {self.seed!r}, expected an integer below 2**63")
        for name in ("save_steps", "save_total_limit"):
            if getattr(self, name) is not None:
                require_integer(name, getattr(self, name), 1)

        for name, low, low_included, high in (
            ("temperature", 0.0, False, math.inf),
            ("eval_temperature", 0.0, True, math.inf),
            ("learning_rate", 0.0, False, math.inf),
            ("warmup_ratio", 0.0, True, 1.0),
            ("beta", 0.0, True, math.inf),
            ("epsilon", 0.0, False, math.inf),
            ("epsilon_high", 0.0, False, math.inf),
            ("delta", 1.0, False, math.inf),
            ("top_p", 0.0, False, 1.0),
            ("entropy_coef", -math.inf, True, math.inf),
            ("self_certainty_coef", -math.inf, True, math.inf),
            ("lora_alpha", 0.0, False, math.inf),
            ("max_grad_norm", 0.0, False, math.inf),
            ("weight_decay", 0.0, True, math.inf),
        ):
            value = getattr(self, name)
            if value is None and name in ("epsilon_high", "delta"):
                continue
            in_range = isinstance(value, int | float) and math.isfinite(value) and low <= value <= high
            if not in_range or (value == low and not low_included):
                relation = f" {'at least' if low_included else 'greater than'} {low:g}" if low > -math.inf else ""
                limit = "" if high == math.inf else f" and at most {high:g}"
                raise UserError(f"{name}: got {value!r}, expected a finite number{relation}{limit}")
        if self.delta is not None and self.delta <= 1 + self.epsilon:
            raise UserError(f"delta: got {self.delta!r}, expected more than 1 + epsilon, which is {1 + self.epsilon:g}")

        if self.resume and self.run_dir is None:
            raise UserError("run_dir: got none, expected the directory of the run to resume")

        for name, choices in (
            ("lr_scheduler_type", get_args(Schedule)),
            ("dtype", get_args(Dtype)),
            ("multi_objective_aggregation", get_args(Aggregation)),
            ("loss_type", get_args(LossType)),
            ("guard", get_args(Action)),
            ("scale_rewards", get_args(RewardScale)),
            ("importance_sampling_level", get_args(ImportanceLevel)),
        ):
            if getattr(self, name) not in choices:
                raise UserError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(choices)}")
