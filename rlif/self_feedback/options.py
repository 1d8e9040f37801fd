"""Options of `rlif self-feedback`, stage by stage; their docstrings are the text of its help.

Imports neither torch nor transformers, so that the command line can answer at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rlif.errors import UserError
from rlif.options.checks import AtLeast, Below, Count, Positive, check
from rlif.options.fields import Formerly, options_of
from rlif.options.groups import (
    BatchOptions,
    HeldOutOptions,
    HeldOutSamplingOptions,
    LoadingOptions,
    LoraOptions,
    MemoryOptions,
    OptimizerOptions,
    OutputOptions,
    ReadingOptions,
    SamplingOptions,
    Schedule,
    SeedOptions,
    Temperature,
)
from rlif.tasks.arithmetic import LENGTH_INSTRUCTIONS

Stage = Literal["all", "sample", "rank", "train", "measure", "length"]
Sampling = Literal["branch", "independent"]
AnswerSpan = Literal["elicited", "marker", "trace"]
Confidence = Literal[
    "probability_disparity", "token_probability", "entropy_confidence", "inverse_perplexity", "self_certainty", "p_true"
]
ObjectiveName = Literal["dpo", "nft", "reward_model"]
PreferenceLossType = Literal["sigmoid", "robust", "hinge", "ipo"]
LengthUnit = Literal["words", "characters", "tokens"]

# The values that fields at None take. A model of the user's gets the paper's.
PAPER: dict[str, object] = {
    "sampling": "branch",
    "answer_span": "elicited",
    "confidence": "probability_disparity",
    "learning_rate": 1e-6,
    "beta": 0.2,
    "length_unit": "words",
}
# The built-in model gets others. The prompt determines its first token, so it cannot branch there. It cannot be asked
# for its answer in words, nor told in words how long to be. Its confidence varies in its steps, not in its answers. It
# is ten thousand times smaller.
BUILT_IN: dict[str, object] = {
    "sampling": "independent",
    "answer_span": "trace",
    "confidence": "inverse_perplexity",
    "learning_rate": 1e-4,
    "beta": 5.0,
    "length_unit": "tokens",
    "length_instructions": LENGTH_INSTRUCTIONS,
}


@dataclass(kw_only=True)
class SampleOptions(SamplingOptions, BatchOptions):
    """Several chains of thought for every prompt, each with the confidence in its answer."""

    num_generations: Annotated[int, AtLeast(2)] = 10
    """Chains of thought of a prompt. At least 2."""

    sampling: Sampling | None = None
    """branch: each begins with another of the num_generations most likely first tokens. independent: ordinary samples.
    None: branch; independent for the built-in model."""

    temperature: Temperature | None = None
    """Of sampled tokens; 0 takes the most likely one. None: 0 after a branch, 1 for independent samples."""

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

    prompts_per_batch: Annotated[Count | None, Formerly("questions_per_batch")] = None
    """Prompts sampled at a time, and written to samples.jsonl at a time: fewer need less memory. None: 32; on a CPU no
    more than make 2^40 / parameters tokens (8,000 at 135M), completions included, for results about each minute."""


@dataclass(kw_only=True)
class RankOptions:
    """Preference pairs: the more confident of two chains of thought of one prompt is chosen, the other rejected."""

    confidence: Confidence | None = None
    """Mean over the answer's tokens of: p(token) - second-largest p; p(token); 1 - entropy / log V; exp of the mean of
    log p(token); KL(Uniform ‖ p) in nats, which is not in [0, 1]. p_true: how likely the model is to call the whole
    right, where it was asked (judge). None: probability_disparity; inverse_perplexity for the built-in model."""

    threshold: float = 0.9
    """Least confidence of a chosen chain of thought."""

    min_gap: Annotated[float, AtLeast(0)] = 0.0
    """Pairs differ in confidence by more than this; equal ones never make a pair."""

    best_only: bool = False
    """Only a prompt's most confident chain of thought is chosen, against each other one (CORE-PO, 2505.17454)."""

    choose_unfinished: bool = False
    """Choose chains of thought that were cut off, too: for models that never end. They state no answer, and what they
    seem to come to may be copied from the prompt."""

    answered_only: bool = False
    """Only chains of thought that state an answer make pairs. One without an answer has confidence 0, hence the largest
    gap: where many have none, most pairs teach to state an answer, and few teach which."""

    max_pairs_per_prompt: Annotated[Count | None, Formerly("max_pairs_per_question")] = None
    """Pairs of a prompt to keep, those with the largest gaps. None: all."""


@dataclass(kw_only=True)
class TrainOptions(OptimizerOptions, LoraOptions):
    """Learn the preferences."""

    objective: ObjectiveName = "dpo"
    """dpo: the model itself, from pairs. nft: the model itself, from samples above and below the threshold (arXiv
    2505.18116). reward_model: a copy with a scalar head, from pairs, for `rlif train --reward reward_model:DIR`."""

    loss_type: PreferenceLossType = "sigmoid"
    """Of dpo: sigmoid, robust (to flipped pairs), hinge or ipo."""

    beta: Positive | None = None
    """Of dpo: how closely the model is held to where it started. None: 0.2; 5 for the built-in model."""

    label_smoothing: Annotated[float, AtLeast(0), Below(0.5)] = 0.0
    """Of sigmoid and robust: the share of pairs taken to be the wrong way round."""

    use_margin: bool | None = None
    """Whether the preference has to exceed exp(gap in confidence). None: for a reward model, as in the paper."""

    learning_rate: Positive | None = None
    """Peak learning rate of AdamW. None: 1e-6; 1e-4 for the built-in model."""

    num_train_epochs: Count = 3
    """Times that each pair is learned from."""

    pairs_per_step: Count = 32
    """Pairs in a step; with nft, samples."""

    lr_scheduler_type: Schedule = "linear"
    """How the learning rate goes on after the warm-up."""

    save_steps: Count = 100
    """Steps between checkpoints, from which an interrupted training goes on."""


@dataclass(kw_only=True)
class LengthOptions:
    """Tell length from quality: the same completion under prompts whose length instruction it keeps, or breaks."""

    length_conditioned: bool = False
    """Rc-DPO and Rc-BT (arXiv 2502.00814): beside each pair, the chosen completion is worse under an instruction that
    it breaks, and the rejected one is better under one that it keeps. Of rank and train, dpo and reward_model."""

    lam: Annotated[float, AtLeast(0)] = 1.0
    """Weight of these two comparisons in the loss, beside the pair's own 1."""

    length_balanced: bool = False
    """Of rank: keep as many pairs with a longer chosen completion as with a shorter one, and all others. Ours."""

    length_unit: LengthUnit | None = None
    """What instructions count, of a completion. words: what white space parts. tokens: the end included. None: words;
    tokens for the built-in model."""

    length_instructions: tuple[str, str] | None = None
    """Prompts that ask for n or less, and for n or more, with {prompt} and {n} in them; of a conversation, the user's
    last message. None: the prompt, an empty line, and "Answer in {n} words or less." or "… or more."; for the built-in
    model what it has symbols for."""


@dataclass(kw_only=True)
class MeasureOptions(HeldOutSamplingOptions):
    """Accuracy and calibration on held-out prompts, of the start model and of the tuned one."""


@dataclass(kw_only=True)
class SelfFeedbackConfig(HeldOutOptions, OutputOptions, SeedOptions, ReadingOptions, LoadingOptions, MemoryOptions):
    """Let a model rank its own chains of thought by its confidence in their answers, and learn the ranking (RLSF).

    Without labels: gold answers, where the data has them, are only measured against. The stages follow one another,
    each reading what the one before wrote into output_dir; an interrupted one goes on when the command is repeated.
    Defaults are those of the paper, arXiv 2507.21931.
    """

    stage: tyro.conf.Positional[Stage] = "all"
    """One stage alone: sample, rank, train, measure or length. all: one after the other; length, which says what a
    learned reward has to do with length, where preferences are length_conditioned."""

    model: str | None = None
    """Model to start from: a directory saved by transformers, or a Hugging Face hub id. None: the built-in base model
    and its additions."""

    data: str | None = None
    """Prompts: a JSONL, JSON, Parquet or CSV file, a directory of them, a Hugging Face hub id, or
    word_problems:level=2,n=256."""

    eval_data: str | None = None
    """Held-out prompts with gold answers, read like `data`. None: nothing is measured."""

    output_dir: Path = Path("runs/self-feedback")
    """Directory of everything: samples, preferences, checkpoints, the tuned model in model/, figures."""

    preferences: Path | None = None
    """Of train: pairs from another file, in TRL's format: JSONL with prompt, chosen, rejected. None: those of rank."""

    tuned_model: str | None = None
    """Of measure and length: the model, or the reward model, to compare with the start model. None: the trained one."""

    built_in_prompts: Annotated[int, AtLeast(2), Formerly("built_in_questions")] = 400
    """Prompts of the built-in task to sample from, where there is no `data`; half as many are held out."""

    sample: Annotated[SampleOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=SampleOptions)
    rank: Annotated[RankOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RankOptions)
    train: Annotated[TrainOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=TrainOptions)
    length: Annotated[LengthOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=LengthOptions)
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
        for option in options_of(self).values():
            option.value(self)  # an error where a group of options is something else
        defaults = BUILT_IN if self.built_in else PAPER
        groups: dict[str, Any] = {}
        for name in ("sample", "rank", "train", "length"):
            group = getattr(self, name)
            missing = [each for each in vars(group) if each in defaults and getattr(group, each) is None]
            groups[name] = dataclasses.replace(group, **{each: defaults[each] for each in missing})
        if groups["sample"].temperature is None:
            groups["sample"].temperature = 0.0 if groups["sample"].sampling == "branch" else 1.0
        if groups["train"].use_margin is None:
            groups["train"].use_margin = groups["train"].objective == "reward_model"
        if groups["length"].length_instructions is None:
            asked = f"{{prompt}}\n\nAnswer in {{n}} {groups['length'].length_unit} or"
            groups["length"].length_instructions = (f"{asked} less.", f"{asked} more.")
        config = dataclasses.replace(self, **groups)
        config.validate()
        return config

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        sample, rank, train = self.sample, self.rank, self.train
        if (self.model is None) != (self.data is None) and self.stage in ("all", "sample"):
            came, other = ("data", "model") if self.model is None else ("model", "data")
            raise UserError(f"{other}: got none with {came}, expected both, or neither for the built-in task")
        check(self)
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
        check_length_options(self.length, train.objective)


def check_length_options(length: LengthOptions, objective: str) -> None:
    """Check what length-conditioned preferences are told.

    Raises:
        UserError: an objective that has no such loss, or instructions that say no number or do not differ.
    """
    if length.length_conditioned and objective == "nft":
        raise UserError("length_conditioned: got the objective nft, expected dpo or reward_model: it has no pairs")
    texts = length.length_instructions
    for text in texts or ():
        if "{prompt}" not in text or "{n}" not in text:
            raise UserError(f"length_instructions: got {text!r}, expected text with {{prompt}} and {{n}}")
    if texts is not None and texts[0] == texts[1]:
        raise UserError(f"length_instructions: got {texts[0]!r} twice, expected one for less and one for more")
