"""Every file that the program reads: hostile contents for it, and the function by which a command reads it."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import yaml
from hypothesis import strategies as st

from hostile import SMALL_VALUES, broken, changed, csv_file, json_file, jsonl_file, parquet_file, safetensors_file
from rlif.cli import COMMANDS, options_class
from rlif.lab.report import POLICIES

ROOT = Path(__file__).parents[2]
PROMPTS: list[dict[str, object]] = [
    {"prompt": "1+2=", "answer": "3"},
    {"prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+2="}], "answer": 3.5},
]
COMPLETIONS: list[dict[str, object]] = [
    {
        "prompt": "1+2=",
        "answer": "3",
        "completions": ["#### 3", "4"],
        "finished": [True, False],
        "scores": {"a": [0.5, 1]},
    },
    {"prompt": "1+3=", "answer": None, "answers": ["3", None], "scores": {"a": [0.5, 1]}},
]
METRICS: list[dict[str, object]] = [
    {"step": 0, "eval/accuracy": 0.5, "eval/entropy": None},
    {"step": 1, "loss": 0.25, "accuracy": 1, "reward": -1.5},
]
COMPLETION = {"finished": True, "span": [0, 1]}
SAMPLE: dict[str, object] = {
    "index": 0, "prompt": "1+1=", "prompt_ids": [4, 5], "answer": "2", "completions": [
        COMPLETION | {"text": text, "ids": ids, "answer": text, "confidence": {"self_certainty": score}}
        for text, ids, score in (("2", [5, 6], 0.75), ("3", [6, 7], 0.5))
    ],
}  # fmt: skip
PAIR: dict[str, object] = {
    "prompt": "1+1=", "chosen": "2", "rejected": "3", "gap": 0.25, "confidence": 0.75, "prompt_ids": [4, 5],
    "chosen_ids": [5], "rejected_ids": [6],
}  # fmt: skip
STATE = {"data_fingerprint": "a", "model_fingerprint": "b", "step": 4, "skipped_updates": 0, "metrics_bytes": 9}
READING = {"step": 3, "score": 0.5, "error": 0.01, "fault": None}
MANIFEST = {"sha256": {"config.json": "0" * 64, "model.safetensors": "1" * 64}}


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


@dataclass(frozen=True)
class ReadFile:
    """A file that a command reads."""

    contents: Callable[[Models], st.SearchStrategy[bytes]]
    read: Callable[[Path, Models], object]
    """Reads the file of that path, as its command does."""
    beside: Callable[[Models], Path] | None = None
    """A directory whose other files lie beside it."""
    name: str = ""
    """Of the file, where it is not that of the row; a path in a directory."""
    costs: int = 1
    """Reading costs about that many times what JSON does."""


# ---------------------------------------------------------------- readers, as the commands call them


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


def read_step(path: Path, models: Models) -> object:
    from rlif.options.checks import read_checked
    from rlif.self_feedback.train import StepFile

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


# ---------------------------------------------------------------- the files


def prompts_as(write: Callable[[list[Any]], st.SearchStrategy[bytes]]) -> ReadFile:
    rows: list[dict[str, object]] = [{"prompt": "1+2=", "answer": "3"}, {"prompt": "1+3=", "answer": "4"}]
    return ReadFile(lambda models: write(rows), read_prompts)


def as_parquet(columns: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def yaml_file(command: str) -> st.SearchStrategy[bytes]:
    """A configuration with hostile values of any of a command's options, or a broken one."""
    from rlif.options.fields import options_of

    names = [*options_of(options_class(command)), "nonsense"]
    document = {name: None for name in names}
    text = changed(document).map(
        lambda value: yaml.safe_dump(_plain(value), allow_unicode=True).encode("utf-8", "replace")
    )
    return st.one_of(text, broken(b"seed: 1\nreward: [a, b]\nmodel: &x {y: *x}\n"), st.just(b"a: &a [*a]\n"))


def _plain(value: Any) -> Any:
    return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value


def of_model(name: str, read: Callable[[Path, Models], object] = read_model, *, folder: str = "plain") -> ReadFile:
    def contents(models: Models) -> st.SearchStrategy[bytes]:
        content = (getattr(models, folder) / name).read_bytes()
        if name.endswith(".safetensors"):
            return safetensors_file(content)
        return json_file(json.loads(content), SMALL_VALUES)

    return ReadFile(contents, read, beside=lambda models: getattr(models, folder), name=name, costs=10)


def trial() -> dict[str, Any]:
    from made_up_trials import RISING_AND_FALLING, made_up

    return made_up(0.0, "self_certainty", RISING_AND_FALLING, 0.8, 20)


def diagnoses() -> dict[str, Any]:
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75}
    measures = {name: estimate for name in ("entropy", "agreement", "separation", "alignment")}
    verdict = {"outlook": "likely to help", "sureness": 0.75}
    rewards = {"self_certainty": {"measures": measures, "verdict": verdict}}
    return {"base": {"measures": measures, "rewards": rewards}}


def policies() -> bytes:
    stream = io.BytesIO()
    arrays = {f"{name}/{key}": np.array([0.25, 1.0]) for name in POLICIES for key in ("probability", "correct")}
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


READ: dict[str, ReadFile] = {
    "prompts.jsonl": ReadFile(lambda models: jsonl_file(PROMPTS), read_prompts),
    "prompts.json": ReadFile(lambda models: json_file(PROMPTS), read_prompts),
    "prompts.csv": prompts_as(csv_file),
    "prompts.tsv": prompts_as(partial(csv_file, delimiter="\t")),
    "prompts.parquet": prompts_as(partial(parquet_file, write=as_parquet)),
    "completions.jsonl": ReadFile(lambda models: jsonl_file(COMPLETIONS), read_completions),
    "completions.jsonl, resumed": ReadFile(
        lambda models: jsonl_file(COMPLETIONS[:1]), read_finished, name="completions.jsonl"
    ),
    "metrics.jsonl": ReadFile(lambda models: jsonl_file(METRICS), read_metrics),
    "state.json": ReadFile(lambda models: json_file(STATE), read_state, name="checkpoint-4/state.json"),
    "guard.json": ReadFile(lambda models: json_file(READING), read_reading, name="best/guard.json"),
    "manifest.json": ReadFile(lambda models: json_file(MANIFEST), read_manifest),
    "step.json": ReadFile(lambda models: json_file({"step": 3}), read_step),
    "samples.jsonl": ReadFile(lambda models: jsonl_file([SAMPLE]), read_samples),
    "samples.settings.json": ReadFile(lambda models: json_file({"model": "a", "seed": 0}), read_settings),
    "preferences.jsonl": ReadFile(lambda models: jsonl_file([PAIR]), read_preferences, costs=5),
    "reference_logprobs-a.jsonl": ReadFile(lambda models: jsonl_file([{"logprob": [-1.5]}]), read_reference, costs=5),
    "result.json": ReadFile(lambda models: json_file(trial()), read_trial),
    "diagnoses.json": ReadFile(lambda models: json_file(diagnoses()), read_diagnoses),
    "policies.npz": ReadFile(lambda models: broken(policies()), read_policies, costs=10),
    "measure-a.jsonl": ReadFile(lambda models: jsonl_file([SAMPLE]), read_measured),
    "metrics.jsonl, of self-feedback": ReadFile(
        lambda models: jsonl_file(METRICS[1:]), read_steps, name="metrics.jsonl"
    ),
    "self_feedback.json": ReadFile(lambda models: json_file({"seed": 0}), read_origin),
    "adapter_model.safetensors": ReadFile(lambda models: safetensors_file(models.adapter), read_adapter, costs=10),
    "optimizer.safetensors": ReadFile(lambda models: safetensors_file(models.optimizer), read_optimizer, costs=10),
    "config.json": of_model("config.json"),
    "generation_config.json": of_model("generation_config.json"),
    "tokenizer_config.json": of_model("tokenizer_config.json"),
    "tokenizer.json": of_model("tokenizer.json"),
    "model.safetensors": of_model("model.safetensors"),
    "config.json, mixed": of_model("config.json", read_weights),
    "model.safetensors, mixed": of_model("model.safetensors", read_weights),
    "model.safetensors.index.json": of_model("model.safetensors.index.json", read_weights, folder="sharded"),
    "config.json, of a reward model": of_model("config.json", read_reward_model, folder="reward"),
    "model.safetensors, of a reward model": of_model("model.safetensors", read_reward_model, folder="reward"),
    **{
        f"config.yaml, {command}": ReadFile(
            partial(lambda models, command: yaml_file(command), command=command),
            partial(read_options, command=command),
            name="config.yaml",
            costs=3,
        )
        for command in COMMANDS
    },
}


# ---------------------------------------------------------------- the files that the code names

FILE = re.compile(r"[\w.*-]*\.(jsonl?|ndjson|csv|tsv|parquet|yaml|safetensors|npz|png|md|txt|jinja)")


def named_in_code() -> dict[str, str]:
    """The files and endings that rlif's code names, each with a module that does; * stands for what is put in."""
    found = {}
    for path in sorted((ROOT / "rlif").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ""
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            name = text.rpartition("/")[2]
            if FILE.fullmatch(name):
                found[name] = path.relative_to(ROOT).as_posix()
    return found
