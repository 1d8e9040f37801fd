"""Options of `rlif self-feedback`, stage by stage; their docstrings are the text of its help.

Imports neither torch nor transformers, so that the command line can answer at once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from rlif.errors import UserError
from rlif.options.groups import Dtype, Schedule

Stage = Literal["all", "sample", "rank", "train", "measure"]
Sampling = Literal["branch", "independent"]
AnswerSpan = Literal["elicited", "marker", "trace"]
Confidence = Literal[
    "probability_disparity", "token_probability", "entropy_confidence", "inverse_perplexity", "self_certainty", "p_true"
]
Objective = Literal["dpo", "nft", "reward_model"]
LossType = Literal["sigmoid", "robust", "hinge", "ipo"]

# What fields left at None stand for: the paper's choice; and what suits the built-in model, which knows no words to be
# asked for its answer, whose first token the question settles, whose doubts show in its steps rather than in its
# answers, and which is ten thousand times smaller.
PAPER: dict[str, object] = {
    "sampling": "branch",
    "answer_span": "elicited",
    "confidence": "probability_disparity",
    "learning_rate": 1e-6,
    "beta": 0.2,
}
BUILT_IN: dict[str, object] = {
    "sampling": "independent",
    "answer_span": "trace",
    "confidence": "inverse_perplexity",
    "learning_rate": 1e-4,
    "beta": 5.0,
}


@dataclass
class SampleOptions:
    """Several chains of thought for every question, each with the confidence in its answer."""

    num_generations: int = 10
    """Chains of thought of a question. At least 2."""

    sampling: Sampling | None = None
    """branch: each begins with another of the num_generations most likely first tokens. independent: ordinary samples.
    None: branch; independent for the built-in model."""

    temperature: float | None = None
    """Of sampled tokens; 0 takes the most likely one. None: 0 after a branch, 1 for independent samples."""

    max_completion_length: int = 256
    """Longest chain of thought, in tokens; a longer one is cut off."""

    answer_span: AnswerSpan | None = None
    """Tokens whose confidence counts. elicited: those that the model repeats when it is asked for the answer. marker:
    what follows the last #### or stands in the last \\boxed{}. trace: all. None: elicited; trace for the built-in
    model."""

    elicitation: str = " So the answer is"
    """What asks for the answer, after the chain of thought."""

    judge: str | None = None
    """Ask the model, with this text after it, whether a chain of thought is right; gives the score p_true. None: do not
    ask."""

    verdicts: tuple[str, str] = (" True", " False")
    """Of judge: the words for right and for wrong, whose first tokens are compared."""

    questions_per_batch: int = 32
    """Questions sampled at a time, and written to samples.jsonl at a time."""


@dataclass
class RankOptions:
    """Preference pairs: the more confident of two chains of thought of one question is chosen, the other rejected."""

    confidence: Confidence | None = None
    """Mean over the answer's tokens of: p(token) - second-largest p; p(token); 1 - entropy / log V; exp of the mean of
    log p(token); KL(Uniform ‖ p) in nats, which is not in [0, 1]. p_true: how likely the model is to call the whole
    right, where it was asked (judge). None: probability_disparity; inverse_perplexity for the built-in model."""

    threshold: float = 0.9
    """Least confidence of a chosen chain of thought."""

    min_gap: float = 0.0
    """Pairs differ in confidence by more than this; equal ones never make a pair."""

    best_only: bool = False
    """Only a question's most confident chain of thought is chosen, against each other one (CORE-PO, 2505.17454)."""

    max_pairs_per_question: int | None = None
    """Pairs of a question to keep, those with the largest gaps. None: all."""


@dataclass
class TrainOptions:
    """Learn the preferences."""

    objective: Objective = "dpo"
    """dpo: the model itself, from pairs. nft: the model itself, from samples above and below the threshold (arXiv
    2505.18116). reward_model: a copy with a scalar head, from pairs, for `rlif train --reward reward_model:DIR`."""

    loss_type: LossType = "sigmoid"
    """Of dpo: sigmoid, robust (to flipped pairs), hinge or ipo."""

    beta: float | None = None
    """Of dpo: how closely the model is held to where it started. None: 0.2; 5 for the built-in model."""

    label_smoothing: float = 0.0
    """Of sigmoid and robust: the share of pairs taken to be the wrong way round."""

    use_margin: bool | None = None
    """Whether the preference has to exceed exp(gap in confidence). None: for a reward model, as in the paper."""

    learning_rate: float | None = None
    """Peak learning rate of AdamW. None: 1e-6; 1e-4 for the built-in model."""

    num_train_epochs: int = 3
    """Times that each pair is learned from."""

    pairs_per_step: int = 32
    """Pairs in a step; with nft, samples."""

    warmup_ratio: float = 0.1
    """Share of the steps in which the learning rate rises linearly to its peak."""

    lr_scheduler_type: Schedule = "linear"
    """How the learning rate goes on after the warm-up."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""

    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""

    lora_rank: int = 0
    """Rank of a LoRA adapter to train instead of the model. 0: train the model."""

    lora_alpha: float = 32.0
    """The adapter's update is scaled by lora_alpha / lora_rank."""

    lora_target_modules: tuple[str, ...] = ("all-linear",)
    """Names of the modules that get an adapter. all-linear: every linear layer but the head."""

    gradient_checkpointing: bool = False
    """Compute activations again in the backward instead of keeping them: less memory, more time."""

    save_steps: int = 100
    """Steps between checkpoints, from which an interrupted training goes on."""


@dataclass
class MeasureOptions:
    """Accuracy and calibration on held-out questions, of the start model and of the tuned one."""

    eval_generations: int = 4
    """Chains of thought of each held-out question."""

    eval_temperature: float = 1.0
    """Their sampling temperature; 0 takes the most likely token."""


@dataclass
class SelfFeedbackConfig:
    """Let a model rank its own chains of thought by its confidence in their answers, and learn the ranking (RLSF).

    Without labels: gold answers, where the data has them, are only measured against. The stages follow one another,
    each reading what the one before wrote into output_dir; an interrupted one goes on when the command is repeated.
    Defaults are those of the paper, arXiv 2507.21931.
    """

    stage: tyro.conf.Positional[Stage] = "all"
    """One stage alone: sample, rank, train or measure. all: one after the other."""

    model: str | None = None
    """Model to start from: a directory saved by transformers, or a Hugging Face hub id. None: the built-in base model
    and its additions."""

    data: str | None = None
    """Questions: a JSONL, JSON, Parquet or CSV file, a directory of them, or a Hugging Face hub id."""

    eval_data: str | None = None
    """Held-out questions with gold answers, read like `data`. None: nothing is measured."""

    output_dir: Path = Path("runs/self-feedback")
    """Directory of everything: samples, preferences, checkpoints, the tuned model in model/, figures."""

    preferences: Path | None = None
    """Of train: pairs from another file, in TRL's format: JSONL with prompt, chosen, rejected. None: those of rank."""

    tuned_model: str | None = None
    """Of measure: the model to compare with the start model. None: the trained one."""

    data_config: str | None = None
    """Configuration (subset) of the hub datasets, where they have several."""

    split: str | None = None
    """Split of `data` to sample from; may be a slice, train[:1000]. None: the only one, or train."""

    eval_split: str | None = None
    """Split of `eval_data`, likewise. None: the only one, or test."""

    prompt_column: str = "prompt"
    """Column with the question: text, or a conversation as a list of messages with `role` and `content`."""

    answer_column: str = "answer"
    """Column with the gold answer. Of a whole solution, what follows the last #### or stands in the last \\boxed{}."""

    chat: bool = False
    """Put questions that are plain text into the tokenizer's chat template too. Conversations always are."""

    system_prompt: str | None = None
    """System message before every conversation. Implies chat."""

    built_in_questions: int = 400
    """Questions of the built-in task to sample from, where there is no `data`; half as many are held out."""

    max_tokens_per_forward: int = 8192
    """Tokens in one forward and backward, padding included: fewer need less memory and change nothing but rounding."""

    fused_head: bool = True
    """Apply the head in tiles, so that logits are never in memory. Off: the model's own logits."""

    attn_implementation: str | None = None
    """Attention, as transformers names it: eager, sdpa, flash_attention_2, … None: its own choice."""

    device: str = "auto"
    """Device, as torch names it (cpu, cuda, cuda:1, mps). auto: cuda if there is one, else cpu."""

    dtype: Dtype = "float32"
    """Data type of weights and activations. bfloat16 weights round away updates of a small learning rate."""

    seed: int = 0
    """Seed of sampling and of the order of the pairs."""

    sample: Annotated[SampleOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=SampleOptions)
    rank: Annotated[RankOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RankOptions)
    train: Annotated[TrainOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=TrainOptions)
    measure: Annotated[MeasureOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=MeasureOptions)

    @property
    def built_in(self) -> bool:
        """Whether the built-in model learns its own task."""
        return self.model is None

    def resolved(self) -> SelfFeedbackConfig:
        """The same with a value for every field whose None stands for one, checked.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        defaults = BUILT_IN if self.built_in else PAPER
        groups: dict[str, Any] = {}
        for name in ("sample", "rank", "train"):
            group = getattr(self, name)
            missing = [each for each in vars(group) if each in defaults and getattr(group, each) is None]
            groups[name] = dataclasses.replace(group, **{each: defaults[each] for each in missing})
        if groups["sample"].temperature is None:
            groups["sample"].temperature = 0.0 if groups["sample"].sampling == "branch" else 1.0
        if groups["train"].use_margin is None:
            groups["train"].use_margin = groups["train"].objective == "reward_model"
        config = dataclasses.replace(self, **groups)
        config.validate()
        return config

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        sample, rank, train, measure = self.sample, self.rank, self.train, self.measure
        if (self.model is None) != (self.data is None) and self.stage in ("all", "sample"):
            came, other = ("data", "model") if self.model is None else ("model", "data")
            raise UserError(f"{other}: got none with {came}, expected both, or neither for the built-in task")
        for name, value, minimum in (
            ("num_generations", sample.num_generations, 2),
            ("max_completion_length", sample.max_completion_length, 1),
            ("questions_per_batch", sample.questions_per_batch, 1),
            ("max_pairs_per_question", rank.max_pairs_per_question, 1),
            ("num_train_epochs", train.num_train_epochs, 1),
            ("pairs_per_step", train.pairs_per_step, 1),
            ("lora_rank", train.lora_rank, 0),
            ("save_steps", train.save_steps, 1),
            ("eval_generations", measure.eval_generations, 1),
            ("built_in_questions", self.built_in_questions, 2),
            ("max_tokens_per_forward", self.max_tokens_per_forward, 1),
            ("seed", self.seed, 0),
        ):
            if value is not None and value < minimum:
                raise UserError(f"{name}: got {value!r}, expected an integer of at least {minimum}")
        for name, number, low, low_included, high in (
            ("temperature", sample.temperature, 0.0, True, math.inf),
            ("eval_temperature", measure.eval_temperature, 0.0, True, math.inf),
            ("threshold", rank.threshold, -math.inf, True, math.inf),
            ("min_gap", rank.min_gap, 0.0, True, math.inf),
            ("beta", train.beta, 0.0, False, math.inf),
            ("learning_rate", train.learning_rate, 0.0, False, math.inf),
            ("warmup_ratio", train.warmup_ratio, 0.0, True, 1.0),
            ("max_grad_norm", train.max_grad_norm, 0.0, False, math.inf),
            ("weight_decay", train.weight_decay, 0.0, True, math.inf),
            ("lora_alpha", train.lora_alpha, 0.0, False, math.inf),
        ):
            if number is None:
                continue
            if not math.isfinite(number) or not low <= number <= high or (number == low and not low_included):
                relation = f" {'at least' if low_included else 'greater than'} {low:g}" if low > -math.inf else ""
                limit = "" if high == math.inf else f" and at most {high:g}"
                raise UserError(f"{name}: got {number!r}, expected a finite number{relation}{limit}")
        if not 0 <= train.label_smoothing < 0.5:
            raise UserError(f"label_smoothing: got {train.label_smoothing!r}, expected a number in [0, 0.5)")
        if train.label_smoothing and train.loss_type not in ("sigmoid", "robust"):
            raise UserError(f"label_smoothing: got {train.label_smoothing!r} with {train.loss_type}, expected 0")
        if rank.confidence == "p_true" and sample.judge is None and self.stage in ("all", "measure"):
            raise UserError("confidence: got p_true without a judge, expected the text that asks for it (judge)")
        if sample.sampling == "independent" and sample.temperature == 0:
            raise UserError("temperature: got 0 for independent samples, which would all be the same; expected above 0")
        if train.objective == "reward_model" and self.stage == "all":
            raise UserError(
                "objective: got reward_model with every stage, expected `train` alone: it makes no model to measure"
            )
        for name, choice, choices in (
            ("sampling", sample.sampling, get_args(Sampling)),
            ("answer_span", sample.answer_span, get_args(AnswerSpan)),
            ("confidence", rank.confidence, get_args(Confidence)),
            ("objective", train.objective, get_args(Objective)),
            ("loss_type", train.loss_type, get_args(LossType)),
            ("lr_scheduler_type", train.lr_scheduler_type, get_args(Schedule)),
            ("dtype", self.dtype, get_args(Dtype)),
        ):
            if choice is not None and choice not in choices:
                raise UserError(f"{name}: got {choice!r}, expected one of {', '.join(choices)}")
