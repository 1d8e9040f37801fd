"""`rlif diagnose`: its options, and what it prints.

Needs no torch at import, so that the command line can show the options at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlif.config import Dtype, require_integer
from rlif.errors import UserError
from rlif.rewards import load_rewards

if TYPE_CHECKING:
    from rlif.bootstrap import Estimate
    from rlif.diagnose import Diagnosis

INTERNAL_REWARDS = ("self_certainty", "token_entropy", "trajectory_entropy", "majority_vote")
# How the measures of a model are printed.
MEASURES = {
    "entropy": ("policy entropy", "nats a token", "{:.3f}"),
    "self_certainty": ("self-certainty", "nats a token", "{:.3f}"),
    "completion_length": ("completion length", "tokens", "{:.1f}"),
    "eos_rate": ("ended by themselves", "of completions", "{:.1%}"),
    "parse_rate": ("state an answer", "of completions", "{:.1%}"),
    "repetition": ("repetition", "of 4-token pieces", "{:.1%}"),
    "agreement": ("agreement", "of a group with its majority answer", "{:.1%}"),
    "common_answer": ("most frequent answer", "of prompts", "{:.1%}"),
}
# And those of a reward.
REWARD_MEASURES = {
    "separation": ("AUROC", "{:.2f}"),
    "separation_std": ("std", "{:+.2f}"),
    "alignment": ("alignment", "{:+.2f}"),
    "frac_reward_zero_std": ("equal", "{:.0%}"),
    "length_correlation": ("length", "{:+.2f}"),
}


@dataclass
class DiagnoseConfig:
    """Say before any training, and without labels, whether a reward is likely to help a model.

    Samples a group of completions of each prompt once, and measures how unsure the model is, how far its answers
    agree, and whether each reward prefers the answers that most of a group agree on.
    """

    model: str
    """Model directory or Hugging Face hub id."""

    data: str
    """Prompts: a JSONL, JSON, Parquet or CSV file, a directory of them, or a Hugging Face hub id. Gold answers, where
    there are any, are reported beside and not used."""

    reward: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="NAME", help_behavior_hint=f"(default: {', '.join(INTERNAL_REWARDS)})"),
    ] = ()
    """Reward to judge, as of rlif train; repeat the option for several. Each is judged by itself."""

    data_config: str | None = None
    """Configuration (subset) of a hub dataset, where it has several."""

    split: str | None = None
    """Split of data with splits; may be a slice, train[:1000]. None: the only one, or train."""

    prompt_column: str = "prompt"
    """Column with the prompt: text, or a conversation as a list of messages with `role` and `content`."""

    answer_column: str = "answer"
    """Column with the gold answer. Of a whole solution, what follows the last #### or stands in the last \\boxed{}."""

    chat: bool = False
    """Put prompts that are plain text into the tokenizer's chat template too. Conversations always are."""

    system_prompt: str | None = None
    """System message before every conversation. Implies chat."""

    num_prompts: int = 128
    """Prompts to sample for, drawn from the data if it has more. Intervals shrink with their square root."""

    num_generations: int = 8
    """Completions sampled for each prompt: the group within which answers agree. At least 2."""

    max_completion_length: int = 256
    """Longest completion, in tokens; a longer one is cut off."""

    temperature: float = 1.0
    """Sampling temperature: that of the training. Measures see the distribution at this temperature too."""

    batch_size: int = 32
    """Prompts sampled at a time: fewer need less memory."""

    max_tokens_per_forward: int = 8192
    """Tokens in one forward of the scoring, padding included: fewer need less memory."""

    fused_head: bool = True
    """Apply the head in tiles, so that logits are never in memory. Off: the model's own logits."""

    attn_implementation: str | None = None
    """Attention, as transformers names it: eager, sdpa, flash_attention_2, … None: its own choice."""

    device: str = "auto"
    """Device, as torch names it (cpu, cuda, cuda:1, mps). auto: cuda if there is one, else cpu."""

    dtype: Dtype = "float32"
    """Data type of weights and activations."""

    seed: int = 0
    """Seed of the choice of prompts, of sampling and of the intervals."""

    json: str | None = None
    """File to write everything to as JSON too; - writes it to the standard output, and nothing else."""

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        load_rewards(self.reward or INTERNAL_REWARDS)
        for name, minimum, why in (
            ("num_prompts", 1, ""),
            ("num_generations", 2, ": agreement is within a group"),
            ("max_completion_length", 1, ""),
            ("batch_size", 1, ""),
            ("max_tokens_per_forward", 1, ""),
            ("seed", 0, ""),
        ):
            require_integer(name, getattr(self, name), minimum, why)
        if not (isinstance(self.temperature, int | float) and 0 < self.temperature < math.inf):
            raise UserError(f"temperature: got {self.temperature!r}, expected a finite number greater than 0")
        if self.json not in (None, "-") and not Path(self.json).expanduser().absolute().parent.is_dir():
            raise UserError(f"json: cannot write {self.json}: there is no such directory")


def run_diagnose(config: DiagnoseConfig) -> None:
    """`rlif diagnose`: measure, and print tables and sentences or JSON.

    Raises:
        UserError: bad input, before any work starts where it shows by then.
    """
    config.validate()
    from rlif.data import read_prompts
    from rlif.diagnose import diagnose
    from rlif.models import load_language_model

    rewards = config.reward or INTERNAL_REWARDS
    prompts = read_prompts(
        config.data,
        need_answers=load_rewards(rewards).needs_answers,
        data_config=config.data_config,
        split=config.split,
        prompt_column=config.prompt_column,
        answer_column=config.answer_column,
    )
    if len(prompts) > config.num_prompts:
        prompts = random.Random(config.seed).sample(prompts, config.num_prompts)
    language_model = load_language_model(
        config.model, device=config.device, dtype=config.dtype, attn_implementation=config.attn_implementation
    )
    diagnosis = diagnose(
        language_model,
        prompts,
        reward=rewards,
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        chat=config.chat,
        system_prompt=config.system_prompt,
        batch_size=config.batch_size,
        max_tokens_per_forward=config.max_tokens_per_forward,
        fused_head=config.fused_head,
        seed=config.seed,
        console=Console(stderr=True),
    )
    if config.json != "-":
        show(diagnosis, Console())
    if config.json is not None:
        write_json(config, diagnosis)


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print the tables, and the verdicts in sentences."""
    shape = f"{diagnosis.num_prompts} prompts x {diagnosis.num_generations} completions"
    table = Table(title=f"The model, {shape} at temperature {diagnosis.temperature:g}")
    for header, justify in (("measure", "left"), ("value", "right"), ("95% interval", "right"), ("", "left")):
        table.add_column(header, justify=justify)  # type: ignore[arg-type]
    for name, (title, unit, form) in MEASURES.items():
        table.add_row(title, *_with_interval(diagnosis.measures[name], form), unit)
    table.add_row("different answers", str(diagnosis.distinct_answers), "", "majority answers of all prompts")
    if diagnosis.accuracy is not None:
        table.add_row("accuracy", *_with_interval(diagnosis.accuracy, "{:.1%}"), "by gold answers; not used below")
    console.print(table)

    labelled = any(each.correctness_auroc is not None for each in diagnosis.rewards.values())
    table = Table(
        title="The rewards, within groups",
        caption="AUROC, std: how well the reward tells the majority answer from the others, as a chance and in "
        "standard deviations. alignment: its correlation with agreeing, over all completions. equal: groups with one "
        "reward for all. length: correlation with it."
        + (" right: AUROC for right against wrong by gold answers, not used." if labelled else ""),
    )
    titles = [title for title, _ in REWARD_MEASURES.values()]
    for header in ["reward", *titles, *(["right"] if labelled else [])]:
        table.add_column(header, justify="left" if header == "reward" else "right")
    for name, found in diagnosis.rewards.items():
        cells = [_form(found.measures[key].value, form) for key, (_, form) in REWARD_MEASURES.items()]
        if found.correctness_auroc is not None:
            cells.append(_form(found.correctness_auroc.value, "{:.2f}"))
        table.add_row(name, *cells)
    console.print(table)

    for name, found in diagnosis.rewards.items():
        ruling = found.verdict
        sentences = [f"{ruling.outlook} (sure: {ruling.sureness:.0%})", *ruling.reasons]
        if ruling.lab:
            sentences.append(f"in the lab this came true in {ruling.lab.agreed} of {ruling.lab.pairs} trainings")
        sentences = [sentence[0].upper() + sentence[1:] for sentence in sentences]
        say(console, f"{name}: {'. '.join(sentences)}.", bold=len(name))
        for warning in ruling.warnings:
            say(console, f"Warning: {warning}.")
    for warning in diagnosis.warnings:
        say(console, f"Warning: {warning}.")
    say(
        console,
        "Sure: the share of resamples of the prompts with the same outlook, which knows nothing of what other models "
        "would do. Nats a token compare models of like vocabulary on like text only. Whatever the outlook, "
        "training on confidence ruins a model in the end: stop early.",
    )


def say(console: Console, sentence: str, bold: int = 0) -> None:
    """Print a sentence, wrapped by words, with its first characters bold."""
    text = Text(sentence)
    text.stylize("bold", 0, bold)
    console.print(text)


def write_json(config: DiagnoseConfig, diagnosis: Diagnosis) -> None:
    """Write everything that was found to the file, or for - to the standard output.

    Raises:
        UserError: the file cannot be written.
    """
    from rlif.versions import versions

    document = {
        "model": config.model,
        "data": config.data,
        "seed": config.seed,
        **plain(dataclasses.asdict(diagnosis)),
        "made_with": versions(),
    }
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    if config.json == "-":
        print(text, end="")
        return
    try:
        Path(str(config.json)).expanduser().write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"json: cannot write {config.json}: {error.strerror}") from error


def plain(value: Any) -> Any:
    """Numbers that are not finite as None, wherever they are: JSON has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return value


def _with_interval(estimate: Estimate, form: str) -> tuple[str, str]:
    return _form(estimate.value, form), f"{_form(estimate.low, form)} to {_form(estimate.high, form)}"


def _form(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)
