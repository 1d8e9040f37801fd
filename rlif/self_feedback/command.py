"""`rlif self-feedback`: the stages, one after the other or each alone, in one output directory."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from rlif.answers.advice import FEW_ANSWERED, how_to_get_answers
from rlif.data.prompts import Prompt, answer_style_of
from rlif.errors import UserError
from rlif.files.json_values import without_nan, write_json
from rlif.files.jsonl import Row, settings_of, write_rows
from rlif.files.lock import Lock
from rlif.models.language_model import LanguageModel, load_with_options
from rlif.models.sources import check_model_path
from rlif.options.fields import options_of
from rlif.options.record import CONFIG_FILE, read_record, write_record
from rlif.options.yaml_file import with_changes
from rlif.self_feedback.length_prompts import (
    balanced_pairs,
    check_early,
    condition,
    longer_chosen,
    pair_lengths,
    read_conditioned,
)
from rlif.self_feedback.length_report import held_out, length_table, measure_length
from rlif.self_feedback.length_rewards import instructed_sequences, learned_model, learned_rewards
from rlif.self_feedback.measure import draw_models_reliability, measures
from rlif.self_feedback.nft import judged_completions
from rlif.self_feedback.options import SampleOptions, SelfFeedbackConfig
from rlif.self_feedback.prompts import held_out_prompts, start_model, training_prompts
from rlif.self_feedback.rank import Ranking, check_confidence, rank, read_preferences
from rlif.self_feedback.sample import RENAMED, read_samples, sample_completions
from rlif.self_feedback.train import FOLDERS, Items, train_model
from rlif.terminal import make_console

SAMPLES, PREFERENCES, FIGURE = "samples.jsonl", "preferences.jsonl", "reliability.png"
PROG = "rlif self-feedback"
# Of directories that the last release made.
OLD_RECORD = "sampled.json"
# What was sampled, from what, beside how: a later stage alone need not be told again.
RECORDED = frozenset(
    {"model", "data", "eval_data", "data_config", "split", "eval_split", "prompt_column", "answer_column", "chat"}
    | {"system_prompt", "answer_style", "built_in_prompts", "seed", "dtype"}
)
# Likewise, of preferences that have instructions.
OF_LENGTHS = frozenset({"length_unit", "length_instructions"})
# Stages that are told whether preferences are to be length-conditioned, and how.
TOLD_OF_LENGTHS = ("rank", "train", "length")


def run(config: SelfFeedbackConfig) -> None:
    """Run one stage, or all of them, and say what came of it.

    Raises:
        UserError: bad input; what earlier stages wrote stays as it is.
        KeyboardInterrupt: Ctrl-C. What is computed is kept, and the same command goes on from there.
    """
    config = with_recorded(config).resolved()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("self-feedback: got several processes, expected one; the launcher is for `rlif train`")
    for argument in ("model", "tuned_model"):
        if (name := getattr(config, argument)) is not None:
            check_model_path(name, argument)
    with Lock(config.output_dir) as lock:
        lock.make()
        run_stages(config, make_console())


def run_stages(config: SelfFeedbackConfig, console: Console) -> None:
    """Run the stages that are wanted, one after the other."""
    stages = {
        "sample": run_sample,
        "rank": run_rank,
        "train": run_train,
        "measure": run_measure,
        "length": run_length,
    }
    for name, run_stage in stages.items():
        if config.stage not in (name, "all"):
            continue
        if config.stage == "all" and name == "length" and not config.length.length_conditioned:
            continue
        try:
            run_stage(config, console)
            remember(config, name)
        except KeyboardInterrupt as interrupt:
            place = f": {interrupt}" if interrupt.args else ""
            raise KeyboardInterrupt(
                f"interrupted in stage {name}{place}; the same command goes on from what is in {config.output_dir}"
            ) from None


def with_recorded(config: SelfFeedbackConfig) -> SelfFeedbackConfig:
    """For a stage after sampling: what the options leave at their defaults is as it was when sampling.

    Raises:
        UserError: the stage needs a model, and there is neither an option nor a record of one.
    """
    if config.stage in ("all", "sample"):
        return config
    saved = read_record(config.output_dir, SelfFeedbackConfig, PROG, old_name=OLD_RECORD)
    if saved is None:
        if config.model is None and config.stage != "rank":
            path = config.output_dir / CONFIG_FILE
            raise UserError(f"model: got none, and no record of one in {path}; expected the model to start from")
        return config
    default = SelfFeedbackConfig()
    # Instructions in words are none in tokens: either is told, or both are as they were.
    told = config.length.length_unit is not None or config.length.length_instructions is not None
    known = RECORDED if told else RECORDED | OF_LENGTHS
    kept = {
        name: saved[name]
        for name, option in options_of(SelfFeedbackConfig).items()
        if name in saved
        and (name in known or option.group == "sample")
        and option.value(config) == option.value(default)
    }
    return with_changes(config, kept)


def remember(config: SelfFeedbackConfig, stage: str) -> None:
    """Write what a stage was told into config.yaml, beside what earlier stages were.

    Nothing where nobody knows what was sampled from what.
    """
    saved = read_record(config.output_dir, SelfFeedbackConfig, PROG, old_name=OLD_RECORD)
    if stage != "sample":
        if saved is None:
            return
        groups = {name: option.group for name, option in options_of(config).items()}
        told = {stage, "length"} if stage in TOLD_OF_LENGTHS else {stage}
        kept = {name for name in saved if groups[name] not in {None, *told} or name in RECORDED}
        config = with_changes(config, {name: saved[name] for name in kept})
    write_record(config.output_dir, config, leave_out=("output_dir", "stage"))


def run_sample(config: SelfFeedbackConfig, console: Console) -> None:
    """Stage 1: completions with their confidence, in samples.jsonl."""
    prompts = training_prompts(config)
    config.answer_style = config.answer_style or answer_style_of(
        prompts, chat=config.chat, system_prompt=config.system_prompt
    )
    if config.stage == "all":
        held_out_prompts(config)  # what is wrong with them is better known now than after hours of sampling

    language_model = load_with_options(config, start_model(config))
    if config.stage == "all" and config.length.length_conditioned:
        check_early(language_model, config, prompts)

    def before_rows() -> None:  # what there is when sampling is interrupted can be used too
        remember(config, "sample")

    rows = sample_completions(config, language_model, prompts, config.output_dir / SAMPLES, before_rows=before_rows)
    completions = [completion for row in rows for completion in row["completions"]]
    answered = sum(completion["answer"] is not None for completion in completions)
    console.print(
        f"sample: {len(completions)} completions of {len(rows)} prompts, {answered / len(completions):.1%} with answer",
        highlight=False,
        soft_wrap=True,
    )
    if answered < FEW_ANSWERED * len(completions):
        ended = sum(completion["finished"] for completion in completions) / len(completions)
        # Where answers are elicited, prose is read whatever the style.
        style = "lenient" if config.sample.answer_span == "elicited" else config.answer_style
        advice = how_to_get_answers(style, ended)
        console.print(
            f"sample: few completions state an answer; {advice}", highlight=False, soft_wrap=True, markup=False
        )


def run_rank(config: SelfFeedbackConfig, console: Console) -> None:
    """Stage 2: preference pairs, in preferences.jsonl and, in numbers, in ranking.json."""
    rows = read_samples(config.output_dir / SAMPLES)
    if not rows:
        raise UserError(f"output_dir: {config.output_dir / SAMPLES} has no prompts, expected `sample` to have run")
    wanted = settings_of(config.output_dir / SAMPLES, RENAMED).get("num_prompts", len(rows))
    if len(rows) < wanted:
        note = f"rank: `sample` was interrupted after {len(rows)} of {wanted} prompts; these are ranked"
        console.print(note, highlight=False, soft_wrap=True)
    pairs, ranking = rank(rows, config.rank)
    numbers = dataclasses.asdict(ranking) | {"pair_accuracy": ranking.pair_accuracy}
    said = describe_ranking(ranking)
    if config.length.length_balanced or config.length.length_conditioned:
        pairs, found, more = with_lengths(config, pairs)
        numbers, said = numbers | found, f"{said}; {more}"
    write_rows(config.output_dir / PREFERENCES, pairs)
    write_json(config.output_dir / "ranking.json", numbers)
    console.print(f"rank: {said}", highlight=False, soft_wrap=True)


def with_lengths(config: SelfFeedbackConfig, pairs: list[Row]) -> tuple[list[Row], dict[str, Any], str]:
    """Return ranked pairs balanced and conditioned as is wanted, with numbers and a sentence about their lengths."""
    ids = [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs]
    assert config.length.length_unit is not None
    lengths = pair_lengths(pairs, ids, config.length.length_unit)
    share = longer_chosen(lengths)
    said = (
        "all are of like length" if share is None else f"{share:.1%} of those of unlike length have a longer chosen one"
    )
    if config.length.length_balanced:
        places = balanced_pairs(lengths, config.seed)
        if not places:
            raise UserError(
                f"length_balanced: {said}, which leaves no pair; expected some whose chosen completion is the longer, "
                "and some whose is the shorter"
            )
        pairs, ids = [pairs[place] for place in places], [ids[place] for place in places]
        said += f", and {len(pairs)} are kept so that half do"
    if config.length.length_conditioned:
        file = f"output_dir: {config.output_dir / PREFERENCES}"
        pairs = condition(pairs, ids, config.length, seed=config.seed, file=file)
        said += "; each comes with an instruction that the chosen one breaks, and one that the rejected one keeps"
    return pairs, {"longer_chosen": share, "kept": len(pairs)}, said


def run_train(config: SelfFeedbackConfig, console: Console) -> None:
    """Stage 3: the model, in model/."""
    name = start_model(config)
    start = load_with_options(config, name)
    if config.train.objective == "nft":
        if config.preferences:
            raise UserError("preferences: got a file of pairs with the objective nft, which learns from samples.jsonl")
        items: Items = judged_completions(read_samples(config.output_dir / SAMPLES), config.rank)
    else:
        path = config.preferences or config.output_dir / PREFERENCES
        argument = "preferences" if config.preferences else "output_dir"
        if config.length.length_conditioned:
            items = read_conditioned(path, start, config, argument=argument)
        else:
            items = read_preferences(path, start, argument=argument)
    rows = train_model(config, start, name, items, config.output_dir)
    first, last = rows[: max(1, len(rows) // 10)], rows[-max(1, len(rows) // 10) :]
    losses, shares = ([_mean(part, key) for part in (first, last)] for key in ("loss", "accuracy"))
    unit = "samples" if config.train.objective == "nft" else "pairs"
    console.print(
        f"train: {len(rows)} steps on {len(items)} {unit}; from the first to the last tenth the loss went from "
        f"{losses[0]:.3f} to {losses[1]:.3f}, {unit} told apart from {shares[0]:.1%} to {shares[1]:.1%}; "
        f"saved in {config.output_dir / FOLDERS[config.train.objective]}",
        highlight=False,
        soft_wrap=True,
    )


def run_measure(config: SelfFeedbackConfig, console: Console) -> None:
    """Stage 4: accuracy and calibration on held-out prompts before and after, in measure.json and a figure."""
    prompts = held_out_prompts(config)
    if not prompts:
        if config.stage == "measure":
            raise UserError("eval_data: got none, expected held-out prompts with gold answers to measure on")
        console.print("measure: no eval_data, nothing to measure on")
        return
    tuned = config.tuned_model or str(config.output_dir / "model")
    if config.tuned_model is None and not (config.output_dir / "model").is_dir():
        raise UserError(f"tuned_model: got none, and {tuned} does not exist; expected `train` to have run")
    models = {"start model": start_model(config), "tuned model": tuned}
    rows = {
        label: held_out_samples(config, label, load_with_options(config, name), prompts)
        for label, name in models.items()
    }
    numbers = {label: measures(each) for label, each in rows.items()}
    shown = config.rank.confidence
    assert shown is not None
    write_json(config.output_dir / "measure.json", {"confidence": shown, "models": without_nan(numbers)})
    console.print(models_table(numbers, shown, len(prompts) * config.measure.eval_generations))
    silent = [label for label, row in numbers.items() if not row["answered"]]
    if silent:
        note = (
            f"measure: no completion of the {' and the '.join(silent)} states an answer, so that 0% is no measurement"
        )
        console.print(note, highlight=False, soft_wrap=True)
    if shown != "self_certainty":
        draw_models_reliability(rows, shown, config.output_dir / FIGURE)
        console.print(f"Reliability diagrams: {config.output_dir / FIGURE}", highlight=False, soft_wrap=True)


def run_length(config: SelfFeedbackConfig, console: Console) -> None:
    """Stage 5: what the learned reward has to do with length, on the start model's held-out completions."""
    prompts = held_out_prompts(config)
    if not prompts:
        if config.stage == "length":
            raise UserError("eval_data: got none, expected held-out prompts with gold answers to measure on")
        return
    tuned, start = learned_model(config), load_with_options(config, start_model(config))
    rows = held_out_samples(config, "start model", start, prompts)
    unit, confidence = config.length.length_unit, config.rank.confidence
    assert unit is not None
    assert confidence is not None
    check_confidence(rows, config.rank)
    samples = held_out(rows, unit=unit, confidence=confidence, seed=config.seed)
    sequences = instructed_sequences(rows, samples.instructions, start, config)
    rewards = learned_rewards(config, start, tuned, sequences).reshape(*samples.lengths.shape, 3)
    report = measure_length(samples, rewards, objective=config.train.objective, unit=unit, seed=config.seed)
    write_json(config.output_dir / "length.json", report.to_json() | {"confidence": confidence})
    console.print(length_table(report, confidence))


def held_out_samples(
    config: SelfFeedbackConfig, label: str, language_model: LanguageModel, prompts: Sequence[Prompt]
) -> list[Row]:
    """The completions of held-out prompts by the start model or the tuned one, from a file as far as it is there."""
    evaluation = dataclasses.replace(config, sample=evaluation_options(config))
    path = config.output_dir / f"measure-{label.split()[0]}.jsonl"
    return sample_completions(
        evaluation, language_model, prompts, path, argument="eval_data", title=f"Measuring the {label}"
    )


def evaluation_options(config: SelfFeedbackConfig) -> SampleOptions:
    """How completions are sampled to be measured: independently, and otherwise as for training."""
    return dataclasses.replace(
        config.sample,
        sampling="independent",
        num_generations=config.measure.eval_generations,
        temperature=config.measure.eval_temperature,
    )


def describe_ranking(ranking: Ranking) -> str:
    """Return a ranking in a sentence."""
    text = f"{ranking.pairs} pairs from {ranking.prompts_with_pairs} of {ranking.prompts} prompts"
    if ranking.unanswered > ranking.pairs / 2:
        text += (
            f", {ranking.unanswered} of them against a completion that states no answer: these teach to state one, and "
            "answered_only leaves them out; a longer max_completion_length leaves fewer"
        )
    if ranking.pair_accuracy is None:
        return text
    return (
        f"{text}; of the {ranking.judged} of a right and a wrong completion, the right one is preferred in "
        f"{ranking.pair_accuracy:.1%}"
    )


def models_table(numbers: dict[str, dict[str, float]], confidence: str, count: int) -> Table:
    """Accuracy and calibration of each model."""
    table = Table(
        title="Held-out prompts",
        caption=f"{count} answers; confidence is {confidence.replace('_', ' ')}",
    )
    table.add_column("")
    for label in numbers:
        table.add_column(label, justify="right")

    def number(name: str, form: str) -> Callable[[dict[str, float]], str]:
        # Of a model that states no answer nothing is measured.
        return lambda row: f"{row[name]:{form}}" if row["answered"] and not math.isnan(row[name]) else "-"

    accuracy, error = number("accuracy", ".1%"), number("accuracy_se", ".1%")
    lines = {
        "accuracy": lambda row: accuracy(row) if error(row) == "-" else f"{accuracy(row)} ± {error(row)}",
        "state an answer": lambda row: f"{row['answered']:.1%}",
        "mean confidence": number(f"{confidence}/mean", ".3f"),
        "ECE": number(f"{confidence}/ece", ".3f"),
        "Brier": number(f"{confidence}/brier", ".3f"),
        "AUROC": number(f"{confidence}/auroc", ".3f"),
    }
    for name, cell in lines.items():
        if confidence == "self_certainty" and name in ("ECE", "Brier"):  # nats are no probabilities
            continue
        table.add_row(name, *(cell(row) for row in numbers.values()))
    return table


def _mean(rows: Sequence[Row], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)
