"""Groups of options that several commands have, each defined once. A command's dataclass inherits those that it needs.

A command declares a field again only where its default or its meaning differs. Docstrings are the text of `--help`, and
those of groups with several options stand under
their headings. Where each command has a default of its own, that of the group is None. Loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from rlif.answers.extract import AnswerStyle
from rlif.options.checks import Above, AtLeast, AtMost, Below, Count, Positive

Schedule = Literal["constant", "linear", "cosine"]
Dtype = Literal["float32", "bfloat16"]
LogitsDtype = Literal["float32"]
# What tells right answers from wrong ones: gold answers, or what most completions of the prompt agree on.
Labels = Literal["gold", "majority"]
Temperature = Annotated[float, AtLeast(0)]
Seed = Annotated[int, AtLeast(0), Below(2**63)]


class RewardNames:
    """Commands with rewards, each of which has an option of its own: a lone name, as Python and files may have it, is a
    tuple of one."""

    reward: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.reward, str):
            self.reward = (self.reward,)


@dataclass(kw_only=True)
class LoadingOptions:
    """How the model is loaded."""

    heading: ClassVar[str] = "model loading"

    attn_implementation: str | None = None
    """Attention, as transformers names it: eager, sdpa, flash_attention_2, … None: its own choice."""

    device: str = "auto"
    """Device, as torch names it (cpu, cuda, cuda:1, mps). auto: cuda if there is one, else cpu."""

    dtype: Dtype = "float32"
    """Data type of weights and activations. In training, bfloat16 weights alone are too coarse to take the updates of
    a small learning rate: see master_weights."""

    logits_dtype: LogitsDtype | None = None
    """float32: logits of bfloat16 weights stay in float32, in sampling and scoring alike; they take twice the memory.
    None: they are rounded to the weights' data type, bfloat16 by up to 1/256 of each."""

    vocab_size: Annotated[int, AtLeast(2)] | None = None
    """Tokens, the first ones, that the model draws from and is measured on: the head's other columns are left out.
    `rlif diagnose` says where a head has columns that are no tokens. None: all."""

    trust_remote_code: bool = False
    """Run the Python code that comes with the model, where transformers has no such model or tokenizer of its own.
    It can do anything that you can: read it first. Off: such a model is refused."""


@dataclass(kw_only=True)
class ModelOptions:
    """The model."""

    model: str
    """Model: a directory saved by transformers, a GGUF file, a directory with a LoRA adapter, which is merged, or a
    Hugging Face hub id."""


@dataclass(kw_only=True)
class ReadingOptions:
    """How prompts are read from the data."""

    heading: ClassVar[str] = "data"

    data_config: str | None = None
    """Configuration (subset) of hub datasets, where they have several."""

    split: str | None = None
    """Split of `data` with splits; may be a slice, train[:1000]. None: the only one, or train."""

    prompt_column: str = "prompt"
    """Column with the prompt: text, or a conversation as a list of messages with `role` and `content`."""

    answer_column: str = "answer"
    """Column with the gold answer. Of a whole solution, what follows the last #### or stands in the last \\boxed{}."""

    chat: bool = False
    """Put prompts that are plain text into the tokenizer's chat template too. Conversations always are."""

    system_prompt: str | None = None
    """System message before every conversation. Implies chat."""

    answer_style: AnswerStyle | None = None
    """Where a completion's answer is looked for. strict: after the last ####, in the last \\boxed{} or between
    the last <answer> tags. lenient: also in prose, as in "The answer is 42." None: lenient where prompts go through a
    chat template, else strict."""


@dataclass(kw_only=True)
class DataOptions:
    """The prompts."""

    data: str
    """Prompts: a JSONL, JSON, Parquet or CSV file, a directory of them, a Hugging Face hub id, or
    word_problems:level=2,n=256."""


@dataclass(kw_only=True)
class NumPromptsOptions:
    """How many prompts are sampled for."""

    num_prompts: Count = 128
    """Prompts to sample for, drawn from the data if it has more. Intervals shrink with their square root."""


@dataclass(kw_only=True)
class HeldOutOptions:
    """Held-out prompts."""

    heading: ClassVar[str] = "held-out data"

    eval_data: str | None = None
    """Held-out prompts to evaluate on, read like `data`. None: there are none."""

    eval_split: str | None = None
    """Split of `eval_data`; may be a slice. None: the only one, or test."""


@dataclass(kw_only=True)
class HeldOutSamplingOptions:
    """How completions of held-out prompts are sampled."""

    heading: ClassVar[str] = "held-out sampling"

    eval_generations: Count = 4
    """Completions sampled for each held-out prompt."""

    eval_temperature: Temperature = 1.0
    """Their sampling temperature; 0 is greedy."""


@dataclass(kw_only=True)
class NumGenerationsOptions:
    """How many completions a prompt has."""

    num_generations: Count = 8
    """Completions sampled for each prompt."""


@dataclass(kw_only=True)
class CompletionOptions:
    """How a completion is sampled."""

    heading: ClassVar[str] = "sampling"

    max_completion_length: Count = 256
    """Longest completion, in tokens; a longer one is cut off."""

    temperature: Temperature | None = None
    """Sampling temperature; 0 is greedy."""


@dataclass(kw_only=True)
class SamplingOptions(CompletionOptions, NumGenerationsOptions):
    """How completions are sampled."""

    heading: ClassVar[str] = "sampling"


@dataclass(kw_only=True)
class TruncationOptions:
    """How completions are sampled."""

    heading: ClassVar[str] = "sampling"

    top_k: Annotated[int, AtLeast(0)] = 0
    """Sample from the k most likely tokens only; 0 from all. What is measured is that of the whole distribution."""

    top_p: Annotated[float, Above(0), AtMost(1)] = 1.0
    """Sample from the most likely tokens that make up this probability only; 1 from all. What is measured is that
    of the whole distribution."""


@dataclass(kw_only=True)
class BatchOptions:
    """How many prompts are sampled at a time."""

    prompts_per_batch: Count | None = None
    """Prompts sampled at a time: fewer need less memory. None: 32; on a CPU no more than make 2^40 / parameters tokens
    (8,000 at 135M), completions included, for results about each minute."""


@dataclass(kw_only=True)
class MemoryOptions:
    """What a forward may take of memory."""

    heading: ClassVar[str] = "memory"

    max_tokens_per_forward: Count = 8192
    """Tokens in one forward, and in its backward, padding included: fewer need less memory and change nothing but
    rounding. A prompt that completions share counts once."""

    share_prompts: bool = True
    """Compute a prompt once for all its completions when they are scored and learned from, which changes nothing but
    rounding. A model that cannot is named in a warning, and computes it for each. Off: it is computed for each."""

    fused_head: bool = True
    """Apply the head in tiles, so that logits are never in memory. Off: the model's own logits."""


@dataclass(kw_only=True)
class StepOptions:
    """How many steps there are, and how large they are."""

    heading: ClassVar[str] = "step"

    max_steps: Count = 100
    """Training steps; each samples, scores and learns from fresh completions."""

    prompts_per_step: Count = 32
    """Prompts (groups) in a step."""


@dataclass(kw_only=True)
class OptimizerOptions:
    """How weights are updated."""

    heading: ClassVar[str] = "optimizer"

    learning_rate: Positive | None = None
    """Peak learning rate of AdamW."""

    warmup_ratio: Annotated[float, AtLeast(0), AtMost(1)] = 0.1
    """Share of the steps in which the learning rate rises linearly to its peak."""

    lr_scheduler_type: Schedule = "cosine"
    """How the learning rate goes on after the warm-up: constant, or falling to 0 as a line or a half cosine."""

    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this global norm."""

    weight_decay: Annotated[float, AtLeast(0)] = 0.0
    """Decoupled weight decay of AdamW."""

    master_weights: bool = True
    """Update weights of half precision in float32 copies, which keep what rounding would lose: 8 bytes a weight more
    than without, 4 for the copy and 4 because AdamW's two moments are float32 too. Weights in float32 have none."""

    gradient_checkpointing: bool = False
    """Compute activations again in the backward instead of keeping them: less memory, more time."""


@dataclass(kw_only=True)
class LoraOptions:
    """A LoRA adapter to train instead of the model."""

    heading: ClassVar[str] = "LoRA"

    lora_rank: Annotated[int, AtLeast(0)] = 0
    """Rank of the adapter. 0: train the model itself."""

    lora_alpha: Positive = 32.0
    """The adapter's update is scaled by lora_alpha / lora_rank."""

    lora_target_modules: tuple[str, ...] = ("all-linear",)
    """Names of the modules that get an adapter. all-linear: every linear layer but the head."""

    lora_modules_to_save: tuple[str, ...] = ()
    """Names of modules that are trained whole, beside the adapter and saved with it, such as lm_head."""


@dataclass(kw_only=True)
class SeedOptions:
    """What random numbers come from."""

    seed: Seed = 0
    """Seed of everything that is drawn at random. On CPU, the same seed gives the same results."""


@dataclass(kw_only=True)
class WeightFileOptions:
    """How a model is written."""

    max_shard_size: str = "5GB"
    """Largest file of weights, such as 500MB."""


@dataclass(kw_only=True)
class OutputOptions:
    """Where everything is written."""

    output_dir: Path | None = None
    """New directory for everything that the command writes. None: runs/COMMAND-DATE-TIME."""


@dataclass(kw_only=True)
class ResumeOptions:
    """Whether to go on."""

    resume: bool = False
    """Go on in output_dir, from where it stopped, as if it never had."""
