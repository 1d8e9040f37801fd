"""What `rlif diagnose` prints and writes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlif.diagnosis.options import DiagnoseConfig
from rlif.files.json_values import json_text, write_json
from rlif.files.versions import versions

if TYPE_CHECKING:
    from rlif.diagnosis.diagnose import Diagnosis
    from rlif.metrics.bootstrap import Estimate


DIAGNOSIS_FILE = "diagnosis.json"
# How the measures of a model are printed.
MEASURES = {
    "entropy": ("policy entropy", "nats a token", "{:.3f}"),
    "untempered_entropy": ("the same at temperature 1", "nats a token", "{:.3f}"),
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


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print the tables, and the verdicts in sentences."""
    shape = f"{diagnosis.num_prompts} prompts x {diagnosis.num_generations} completions"
    table = Table(title=f"The model, {shape} at temperature {diagnosis.temperature:g}")
    for header, justify in (("measure", "left"), ("value", "right"), ("95% interval", "right"), ("", "left")):
        table.add_column(header, justify=justify)  # type: ignore[arg-type]
    for name, (title, unit, form) in MEASURES.items():
        if name in diagnosis.measures:
            table.add_row(title, *_with_interval(diagnosis.measures[name], form), unit)
    table.add_row("different answers", str(diagnosis.distinct_answers), "", "majority answers of all prompts")
    if diagnosis.accuracy is not None:
        table.add_row("accuracy", *_with_interval(diagnosis.accuracy, "{:.1%}"), "by gold answers; not used below")
    console.print(table)

    labelled = any(each.correctness_auroc is not None for each in diagnosis.rewards.values())
    trained = any(each.short_training for each in diagnosis.rewards.values())
    table = Table(
        title="The rewards, within groups",
        caption="AUROC, std: how well the reward tells the majority answer from the others, as a chance and in "
        "standard deviations. alignment: its correlation with agreeing, over all completions. equal: groups with one "
        "reward for all. length: correlation with it."
        + (" right: AUROC for right against wrong by gold answers, not used." if labelled else "")
        + (" collapse step: of a short training, by which half of the best consensus is lost." if trained else ""),
    )
    titles = [title for title, _ in REWARD_MEASURES.values()]
    for header in ["reward", *titles, *(["right"] if labelled else []), *(["collapse step"] if trained else [])]:
        table.add_column(header, justify="left" if header == "reward" else "right")
    for name, found in diagnosis.rewards.items():
        cells = [_form(found.measures[key].value, form) for key, (_, form) in REWARD_MEASURES.items()]
        if found.correctness_auroc is not None:
            cells.append(_form(found.correctness_auroc.value, "{:.2f}"))
        if training := found.short_training:
            cells.append(f"> {training.steps}" if training.collapse_step is None else str(training.collapse_step))
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
    if any(found.verdict.outlook == "cannot tell" for found in diagnosis.rewards.values()):
        say(console, f"Completions without an answer, {diagnosis.answer_style} style, end like this:")
        for text in diagnosis.unanswered:
            say(console, f"  {text or '(nothing)'}")
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


def write_diagnosis(config: DiagnoseConfig, diagnosis: Diagnosis, output_dir: Path) -> None:
    """Write everything that was found into the directory, and to the file of `json`, or for - to the standard output.

    Raises:
        UserError: a file cannot be written.
    """
    document = {
        "model": config.model,
        "data": config.data,
        "seed": config.seed,
        **dataclasses.asdict(diagnosis),
        "made_with": versions(),
    }
    write_json(output_dir / DIAGNOSIS_FILE, document)
    if config.json == "-":
        print(json_text(document))
    elif config.json is not None:
        write_json(Path(str(config.json)).expanduser(), document, argument="json")


def _with_interval(estimate: Estimate, form: str) -> tuple[str, str]:
    return _form(estimate.value, form), f"{_form(estimate.low, form)} to {_form(estimate.high, form)}"


def _form(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)
