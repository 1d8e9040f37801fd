"""Whatever a file holds, the command that reads it comes to a result, or to an error in one line."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from peft import get_peft_model_state_dict
from safetensors.torch import save
from transformers import Qwen3ForSequenceClassification

from fault_contents import files
from fault_rows import ROWS, Shared
from faults import Unhurt
from read_files import READ, Models, named_in_code
from rlif.errors import UserError
from rlif.models.lora import add_lora
from rlif.training.checkpoint import optimizer_tensors
from tiny_models import make_model, make_tokenizer, one_torch_thread, save_model

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

EXAMPLES = 100  # of a file that is read in a millisecond

# Of the files and endings that the code names, those that no command reads again, and those read under another name.
ONLY_WRITTEN = {
    "comparison.png", "confidence.png", "diagnosis.json", "explanation.json", "explanation.png",
    "figure.png", "guard.png", "introspect.json", "introspect.png", "lab.json", "length.json", "majority.jsonl",
    "measure.json", "mixes.png", "ranking.json", "reliability.png", "report.html", "report.md", "retry.json",
    "retry.png", "risk_coverage.png", "training.png",
}  # fmt: skip
BY_OTHER_NAME = {
    "*.safetensors": "model.safetensors",
    "*.safetensors.index.json": "model.safetensors.index.json",
    "*token*.json": "tokenizer_config.json",
    ".csv": "prompts.csv",
    ".json": "prompts.json",
    ".jsonl": "prompts.jsonl",
    ".ndjson": "prompts.jsonl",
    ".parquet": "prompts.parquet",
    ".settings.json": "samples.settings.json",
    ".tsv": "prompts.tsv",
    ".txt": "prompts.jsonl",
    "config.yaml": "config.yaml, train",
    "eval-*.jsonl": "eval-a.jsonl",
    "eval.jsonl": "prompts.jsonl",
    "introspection.json": "self_feedback.json",
    "measure-*.jsonl": "measure-a.jsonl",
    "reference_logprobs-*.jsonl": "reference_logprobs-a.jsonl",
    "sampled.json": "config.yaml, self-feedback",
    "settings.json": "config.yaml, lab",
    "test.jsonl": "prompts.jsonl",
    "train-*.jsonl": "prompts.jsonl",
    "train.jsonl": "prompts.jsonl",
    "turns-*.jsonl": "turns-a.jsonl",
    "unfinished-evaluation.jsonl": "consensus.jsonl",
}
# Read by libraries, which raise what `loading` and `read_table` make one line of; or our own, beside the code.
OF_LIBRARIES = {"adapter_config.json", "dataset_dict.json", "merges.txt", "tekken.json", "chat_template.jinja"}
OURS = {"lab_findings.json", "page.css", "page.html"}


def missing(names: set[str]) -> set[str]:
    """Those that have no row."""
    return names - READ.keys() - BY_OTHER_NAME.keys() - ONLY_WRITTEN - OF_LIBRARIES - OURS


def test_every_file_that_the_code_names_has_a_row() -> None:
    named = named_in_code()
    assert {name: named[name] for name in missing(set(named))} == {}
    assert BY_OTHER_NAME.keys() | ONLY_WRITTEN | OURS <= named.keys()
    assert set(BY_OTHER_NAME.values()) <= READ.keys()
    assert missing({"news.json"}) == {"news.json"}


@pytest.mark.parametrize("command", ROWS)
def test_every_file_that_a_command_leaves_has_a_row(
    command: str, unhurt: Callable[[str], tuple[Shared, Unhurt]]
) -> None:
    known = {name for name in (*READ, *BY_OTHER_NAME, *ONLY_WRITTEN, *OF_LIBRARIES) if not name.startswith(".")}
    known |= {"*.settings.json"}
    names = {Path(name).name for name in files(unhurt(command)[1].out)}
    assert {name for name in names if not any(fnmatch(name, pattern) for pattern in known)} == set()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    directory = tmp_path_factory.mktemp("models")
    plain = save_model(directory / "plain")
    model = make_model()
    model.save_pretrained(directory / "sharded", max_shard_size=4000)
    make_tokenizer().save_pretrained(directory / "sharded")
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    Qwen3ForSequenceClassification(config).save_pretrained(directory / "reward")
    make_tokenizer().save_pretrained(directory / "reward")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    saved = save(optimizer_tensors(model, optimizer))
    add_lora(model, rank=2, alpha=4.0, target_modules=("all-linear",), seed=0)
    adapter = save({name: value.contiguous() for name, value in get_peft_model_state_dict(model).items()})
    return Models(plain, directory / "reward", directory / "sharded", saved, adapter)


@pytest.mark.parametrize("key", READ)
def test_a_hostile_file_is_read_or_refused_in_one_line(
    key: str, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # a hostile name is no reason to ask the hub
    row, full = READ[key], request.config.option.full
    seen: list[str] = []

    @settings(
        max_examples=max(8, EXAMPLES // row.costs) * (20 if full else 1),
        derandomize=not full,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(content=row.contents(models))
    def read(content: bytes) -> None:
        directory = tmp_path / "hostile"
        shutil.rmtree(directory, ignore_errors=True)
        path = directory / (row.name or key)
        if row.beside is not None:
            shutil.copytree(row.beside(models), directory)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        try:
            row.read(path, models)
            seen.append("read")
        except UserError:
            seen.append("refused")

    with warnings.catch_warnings(), one_torch_thread():
        warnings.simplefilter("ignore")
        read()
    assert "refused" in seen or key == "manifest.json"
