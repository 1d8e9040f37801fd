"""How the commands read each file: the functions that they call, on the path of a file that may hold anything."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rlif.cli import options_class


@dataclass(frozen=True)
class Models:
    """Directories of a model, of a reward model, of a model in several files; and what a checkpoint has beside it."""

    plain: Path
    reward: Path
    sharded: Path
    optimizer: bytes
    """State of AdamW for `plain`."""
    adapter: bytes
    """Weights of an adapter for it."""


def read_prompts(path: Path, models: Models) -> object:
    from rlif.data.prompts import read_prompts

    return read_prompts(path, need_answers=True), read_prompts(path)


def read_completions(path: Path, models: Models) -> object:
    from rlif.evaluation.completions import read_completions
    from rlif.evaluation.measure import evaluate_completions

    return evaluate_completions(read_completions(path)).to_json()


def read_finished(path: Path, models: Models) -> object:
    from rlif.evaluation.sampling import finished_rows
    from rlif.rollouts.encode import EncodedPrompt

    return finished_rows(path, [EncodedPrompt(text="1+2=", answer="3", ids=[4])])


def read_options(path: Path, models: Models, *, command: str) -> object:
    from rlif.options.command_line import parse_options
    from rlif.options.record import read_record

    read_record(path.parent, options_class(command), f"rlif {command}", old_name=path.name)
    words = ["--config", str(path)]
    try:
        config = parse_options(options_class(command), words, f"rlif {command}")
    except SystemExit:  # an option is missing in the file
        return None
    for check in ("resolved", "validate"):
        if hasattr(config, check):
            return getattr(config, check)()
    return config


def read_metrics(path: Path, models: Models) -> object:
    from rlif.files.jsonl import read_metrics
    from rlif.training.options import TrainConfig
    from rlif.training.setup import _guard_of

    rows = read_metrics(path, argument="resume", growing=True)
    return _guard_of(TrainConfig(model="m", data="d"), rows, None)


def read_state(path: Path, models: Models) -> object:
    from rlif.training.checkpoint import RunState

    return RunState.load(path.parent)


def read_outcome(path: Path, models: Models) -> object:
    """As of a finished run, whose other files are as they were."""
    from rlif.files.directories import write_directory
    from rlif.training.outcome import read_outcome

    for name in ("model", "best"):
        write_directory(path.parent / name, lambda directory: (directory / "config.json").write_text("{}") and None)
    (path.parent / "metrics.jsonl").write_text('{"step": 0, "eval/accuracy": 0.5}\n')
    for name in ("samples.jsonl", "config.yaml"):
        (path.parent / name).write_text("")
    return read_outcome(path.parent)


def read_reading(path: Path, models: Models) -> object:
    from rlif.files.directories import write_directory
    from rlif.training.run_dir import best_reading

    content = path.read_bytes()
    write_directory(path.parent, lambda directory: (directory / path.name).write_bytes(content) and None)
    return best_reading(path.parent.parent)


def read_manifest(path: Path, models: Models) -> object:
    from rlif.files.directories import damage

    assert damage(path.parent) is not None
    return None


def read_parts(path: Path, models: Models) -> object:
    from rlif.files.parts import PartsFile

    return PartsFile(path, {"model": "a"}).rows


def read_discriminator(path: Path, models: Models) -> object:
    from rlif.retry.discriminator import read_discriminator
    from rlif.retry.report import show_discriminator

    found = read_discriminator(path)
    show_discriminator(found, ["1+1"], Console(file=io.StringIO()), threshold=0.5)
    return found.probabilities({name: [1.0] for name in found.scores})


def read_attempts(path: Path, models: Models) -> object:
    from rlif.retry.measure import measure, read_attempts

    return measure(read_attempts(path, max_rounds=2)).to_json()


def read_turns(path: Path, models: Models) -> object:
    from rlif.introspection.collect import describe, read_turns
    from rlif.introspection.learn import attempts_to_learn

    rows = read_turns(path)
    describe(rows)
    return attempts_to_learn(rows, "all", 0.4)


def read_taken(path: Path, models: Models) -> object:
    from rlif.introspection.measure import measure, read_taken

    return measure({"start": read_taken(path, turns=2)}, resamples=10).to_json()


def read_unfinished(path: Path, models: Models) -> object:
    from rlif.training.run_dir import unfinished_row

    return unfinished_row(path.parent, 1)


def read_step(path: Path, models: Models) -> object:
    from rlif.options.checks import read_checked
    from rlif.training.items import StepFile

    return read_checked(StepFile, path, argument="output_dir")


def read_samples(path: Path, models: Models) -> object:
    from rlif.self_feedback.measure import measures
    from rlif.self_feedback.options import RankOptions
    from rlif.self_feedback.rank import rank
    from rlif.self_feedback.sample import read_samples

    rows = read_samples(path)
    options = RankOptions(confidence="self_certainty", threshold=0.0)
    rank(rows, options)
    return measures(rows) if any(row["answer"] is not None for row in rows) else None


def read_settings(path: Path, models: Models) -> object:
    from rlif.files.jsonl import StageFile

    rows = path.with_name("samples.jsonl")
    rows.write_text('{"a": 1}\n')
    return StageFile(rows, {"model": "a", "seed": 0})


def read_preferences(path: Path, models: Models) -> object:
    from rlif.self_feedback.rank import read_preferences

    return read_preferences(path, language_model(models))


def read_conditioned(path: Path, models: Models) -> object:
    from rlif.self_feedback.length_prompts import read_conditioned
    from rlif.self_feedback.options import LengthOptions, SelfFeedbackConfig

    length = LengthOptions(length_conditioned=True, length_instructions=("{prompt}#{n}", "{prompt}+{n}"))
    config = SelfFeedbackConfig(stage="train", model="m", data="d", length=length).resolved()
    return read_conditioned(path, language_model(models), config)


def read_reference(path: Path, models: Models) -> object:
    from rlif.scoring.scorer import Scorer
    from rlif.self_feedback.reference_logprobs import reference_logprobs

    settings = {"model": "a"}
    path.with_suffix(".settings.json").write_text(json.dumps(settings))
    model = language_model(models)
    sequences = [([4, 5], [6]), ([4, 5], [7])]
    return reference_logprobs(
        Scorer(model.model, None), model, sequences, path, settings=settings, max_tokens_per_forward=64
    )


def read_trial(path: Path, models: Models) -> object:
    from rlif.lab.report import conclusions
    from rlif.lab.trials import read_result

    return conclusions([read_result(path)], path.parent)


def read_diagnoses(path: Path, models: Models) -> object:
    from rlif.lab.report import pairs_of

    return pairs_of([trial()], path)


def read_run(path: Path, models: Models) -> object:
    """As of a run whose other files are as they were."""
    from made_runs import CONFIG, RISE_AND_FALL
    from rlif.reporting.page import render
    from rlif.reporting.report import read_subjects

    rows = "".join(json.dumps(row) + "\n" for row in RISE_AND_FALL)
    for name, text in (("metrics.jsonl", rows), ("samples.jsonl", ""), ("config.yaml", CONFIG)):
        if name != path.name:
            (path.parent / name).write_text(text)
    return render(read_subjects([path.parent]))


def read_lab(path: Path, models: Models) -> object:
    from rlif.reporting.page import render
    from rlif.reporting.report import read_subjects

    return render(read_subjects([path.parent]))


def read_evaluation(path: Path, models: Models) -> object:
    """As of an evaluation whose other files are as they were."""
    import made_evaluations
    from rlif.reporting.page import render
    from rlif.reporting.report import read_subjects

    rows = "".join(json.dumps(row) + "\n" for row in made_evaluations.ROWS[:2])
    results = json.dumps(made_evaluations.results())
    for name, text in (("completions.jsonl", rows), ("eval.json", results), ("config.yaml", made_evaluations.CONFIG)):
        if name != path.name:
            (path.parent / name).write_text(text)
    return render(read_subjects([path.parent]))


def read_figure(path: Path, models: Models) -> object:
    from rlif.reporting.pictures import picture

    return picture(path)


def read_policies(path: Path, models: Models) -> object:
    from rlif.lab.plan import Trial
    from rlif.lab.report import draw_trials_reliability

    planned = Trial(0, 0.0, "self_certainty")
    place = path.parent / "runs" / planned.name / path.name
    place.parent.mkdir(parents=True)
    path.rename(place)
    return draw_trials_reliability(path.parent, [planned])


def read_adapter(path: Path, models: Models) -> object:
    from rlif.models.lora import add_lora, load_lora

    model = language_model(models).model
    add_lora(model, rank=2, alpha=4.0, target_modules=("all-linear",), seed=0)
    return load_lora(model, path.parent)


def read_measured(path: Path, models: Models) -> object:
    from rlif.files.jsonl import StageFile
    from rlif.self_feedback.sample import check_samples

    path.with_suffix(".settings.json").write_text("{}")
    rows = StageFile(path, {}).rows
    check_samples(rows, path)
    return rows


def read_steps(path: Path, models: Models) -> object:
    from rlif.files.jsonl import StageFile, check_metrics

    path.with_suffix(".settings.json").write_text("{}")
    rows = StageFile(path, {}).rows
    return check_metrics(rows, path, argument="output_dir", needed=("loss", "accuracy"))


def read_origin(path: Path, models: Models) -> object:
    from rlif.files.json_values import read_json

    return read_json(path) == {"seed": 0}


def read_model(path: Path, models: Models) -> object:
    from rlif.models.language_model import load_language_model
    from rlif.rollouts.decoding_check import check_decoding

    loaded = load_language_model(str(path.parent), device="cpu", dtype="float32")
    return check_decoding(loaded, [4, 5])


def read_weights(path: Path, models: Models) -> object:
    from rlif.mixing.weight_files import WeightFiles

    found = WeightFiles(str(path.parent), "base")
    return [sum(piece.numel() for piece in found.pieces(name)) for name in found.names]


def read_reward_model(path: Path, models: Models) -> object:
    import torch

    from rlif.models.reward_model import load_reward_model

    return load_reward_model(str(path.parent), device=torch.device("cpu"), dtype=torch.float32, pad_token_id=0)


def read_optimizer(path: Path, models: Models) -> object:
    import torch

    from rlif.training.checkpoint import load_optimizer

    model = language_model(models).model
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    load_optimizer(model, optimizer, path.parent)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    return optimizer


def language_model(models: Models) -> Any:
    from rlif.models.language_model import load_language_model

    return load_language_model(str(models.plain), device="cpu", dtype="float32")


def trial() -> dict[str, Any]:
    from made_up_trials import RISING_AND_FALLING, made_up

    return made_up(0.0, "self_certainty", RISING_AND_FALLING, 0.8, 20)
