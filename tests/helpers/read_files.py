"""Every file that the program reads: hostile contents for it, and the function by which a command reads it."""

from __future__ import annotations

import ast
import hashlib
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

from file_readers import (
    Models,
    read_adapter,
    read_attempts,
    read_completions,
    read_conditioned,
    read_diagnoses,
    read_discriminator,
    read_evaluation,
    read_figure,
    read_finished,
    read_lab,
    read_manifest,
    read_measured,
    read_metrics,
    read_model,
    read_optimizer,
    read_options,
    read_origin,
    read_outcome,
    read_parts,
    read_policies,
    read_preferences,
    read_prompts,
    read_reading,
    read_reference,
    read_reward_model,
    read_run,
    read_samples,
    read_settings,
    read_state,
    read_step,
    read_steps,
    read_taken,
    read_trial,
    read_turns,
    read_unfinished,
    read_weights,
    trial,
)
from hostile import SMALL_VALUES, broken, changed, csv_file, json_file, jsonl_file, parquet_file, safetensors_file
from made_evaluations import ROWS as EVALUATED
from made_evaluations import results
from made_runs import RISE_AND_FALL, SAMPLES
from rlif.cli import COMMANDS, options_class
from rlif.lab.report import POLICIES
from rlif.reporting.pictures import PNG

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
DISCRIMINATOR: dict[str, object] = {
    "scores": ["self_certainty", "token_entropy"], "means": [5.0, -0.5], "scales": [1.0, 0.25],
    "coefficients": [1, 0.5], "intercept": -0.5, "temperature": 1.0, "confidence_window": 64,
    "held_out": {"auroc": 0.75, "brier": 0.25},
}  # fmt: skip
ATTEMPTS: dict[str, object] = {
    "prompt": "1+1=", "answer": "2", "completions": ["#### 3", "#### 2"], "stated": ["3", "2"], "tokens": [3, 3],
    "finished": [True, True], "probabilities": [0.25, 0.75], "end": "accepted", "scores": {"self_certainty": [1, 2]},
}  # fmt: skip
TURNS: dict[str, object] = {
    "prompt": "1+1=", "answer": "2", "label": "2", "turns": [
        {"prompt_ids": [4, 5], "ids": [6], "text": "#### 3", "answer": "3", "finished": True, "reward": 0.0,
         "rewards": [0.0]},
        {"prompt_ids": [4, 5, 6, 4, 5], "ids": [7], "text": "#### 2", "answer": "2", "finished": True, "reward": 1.0,
         "rewards": [1.0, -1.0]},
    ],
}  # fmt: skip
TAKEN: dict[str, object] = {
    "prompt": "1+1=", "answer": "2", "completions": ["#### 3", "#### 2"], "stated": ["3", "2"], "tokens": [3, 3],
    "finished": [True, True], "end": None, "samples": ["#### 2", ""], "samples_stated": ["2", None],
    "samples_tokens": [3, 1], "scores": {},
}  # fmt: skip
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
INSTRUCTED = {"prompt_ids": [4, 13, 4, 14], "broken_prompt": "1+1=+9", "kept_prompt": "1+1=#9"}
STATE = {"data_fingerprint": "a", "model_fingerprint": "b", "step": 4, "skipped_updates": 0, "metrics_bytes": 9}
READING = {"step": 3, "score": 0.5, "error": 0.01, "fault": None}
OUTCOME = {
    "guard_step": 3,
    # Of what `read_outcome` puts beside it.
    "metrics_sha256": hashlib.sha256(b'{"step": 0, "eval/accuracy": 0.5}\n').hexdigest(),
    "samples_sha256": hashlib.sha256(b"").hexdigest(),
    "config_sha256": hashlib.sha256(b"").hexdigest(),
}
MANIFEST = {"sha256": {"config.json": "0" * 64, "model.safetensors": "1" * 64}}


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


def diagnoses() -> dict[str, Any]:
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75}
    measures = {name: estimate for name in ("entropy", "agreement", "separation", "alignment")}
    verdict = {"outlook": "likely to help", "sureness": 0.75}
    rewards = {"self_certainty": {"measures": measures, "verdict": verdict}}
    return {"base": {"measures": measures, "rewards": rewards}}


def lab() -> dict[str, Any]:
    """A lab of one trial."""
    finding = {"title": "Rise", "claim": "It rises.", "seen": "`a` rose.", "agreement": "seen"}
    pair = {"start": "base", "reward": "a", "verdict": "likely to help", "outcome": "a", "gain": 0.1, "end": -0.5}
    return {
        "versions": "rlif 1", "quick": True, "size": {"max_steps": 20}, "findings": [finding], "pairs": [pair],
        "guard_rules": [{"rule": "guard", "regret": 0.01, "worst": 0.02, "gain": 0.1}], "trials": [trial()],
    }  # fmt: skip


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
    "discriminator.json": ReadFile(lambda models: json_file(DISCRIMINATOR), read_discriminator),
    "attempts.jsonl": ReadFile(lambda models: jsonl_file([ATTEMPTS]), read_attempts),
    "turns-a.jsonl": ReadFile(lambda models: jsonl_file([TURNS]), read_turns),
    "eval-a.jsonl": ReadFile(lambda models: jsonl_file([TAKEN]), read_taken),
    "metrics.jsonl": ReadFile(lambda models: jsonl_file(METRICS), read_metrics),
    "consensus.jsonl": ReadFile(lambda models: jsonl_file([{"work": {"model": "a"}}, {"majority": "3"}]), read_parts),
    "unfinished_step.jsonl": ReadFile(lambda models: jsonl_file(METRICS[1:]), read_unfinished),
    "state.json": ReadFile(lambda models: json_file(STATE), read_state, name="checkpoint-4/state.json"),
    "guard.json": ReadFile(lambda models: json_file(READING), read_reading, name="best/guard.json"),
    "outcome.json": ReadFile(lambda models: json_file(OUTCOME), read_outcome),
    "manifest.json": ReadFile(lambda models: json_file(MANIFEST), read_manifest),
    "step.json": ReadFile(lambda models: json_file({"step": 3}), read_step),
    "samples.jsonl": ReadFile(lambda models: jsonl_file([SAMPLE]), read_samples),
    "samples.jsonl, of a run": ReadFile(lambda models: jsonl_file(SAMPLES[::5]), read_run, name="samples.jsonl"),
    "metrics.jsonl, reported": ReadFile(lambda models: jsonl_file(RISE_AND_FALL), read_run, name="metrics.jsonl"),
    "config.yaml, reported": ReadFile(lambda models: yaml_file("train"), read_run, name="config.yaml", costs=3),
    "eval.json": ReadFile(lambda models: json_file(results()), read_evaluation),
    "completions.jsonl, reported": ReadFile(
        lambda models: jsonl_file(EVALUATED[:2]), read_evaluation, name="completions.jsonl", costs=2
    ),
    "lab.json": ReadFile(lambda models: json_file(lab()), read_lab, costs=3),
    "guard.png": ReadFile(lambda models: broken(PNG + 16 * b"picture"), read_figure),
    "samples.settings.json": ReadFile(lambda models: json_file({"model": "a", "seed": 0}), read_settings),
    "preferences.jsonl": ReadFile(lambda models: jsonl_file([PAIR]), read_preferences, costs=5),
    "preferences.jsonl, length-conditioned": ReadFile(
        lambda models: jsonl_file([PAIR | INSTRUCTED]), read_conditioned, name="preferences.jsonl", costs=10
    ),
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

FILE = re.compile(r"[\w.*-]*\.(jsonl?|ndjson|csv|tsv|parquet|yaml|safetensors|npz|png|md|html|css|txt|jinja)")


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
