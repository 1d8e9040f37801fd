"""Every snippet on a page runs as it stands there, or says which test runs it, or why none does."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pages import ROOT, SNIPPETS, Snippet
from rlif.cli import parse
from rlif_kernels import token_stats
from rlif_kernels.stats import FIELDS
from tiny_models import CHARACTERS, make_model

LANGUAGES = {"python", "bash", "yaml", "json", "text"}
# Commands of others, whose words are theirs to check.
OTHERS = {"source", "pre-commit"}


def those(language: str) -> list[Any]:
    return [pytest.param(each, id=each.place) for each in SNIPPETS if each.language == language and not elsewhere(each)]


def elsewhere(snippet: Snippet) -> bool:
    """Whether another test runs the snippet, or none can."""
    return snippet.kind in ("run by", "not run")


def test_every_snippet_says_what_it_is_written_in() -> None:
    assert [each.place for each in SNIPPETS if each.language not in LANGUAGES] == []


def test_every_python_snippet_says_what_it_is_given_or_who_runs_it() -> None:
    assert [each.place for each in SNIPPETS if each.language == "python" and not each.kind] == []


@pytest.mark.parametrize("snippet", [pytest.param(each, id=each.place) for each in SNIPPETS if each.kind == "run by"])
def test_a_snippet_that_another_test_runs_is_named_there(snippet: Snippet) -> None:
    assert snippet.page in (ROOT / snippet.value).read_text(encoding="utf-8")


@pytest.mark.parametrize("snippet", [pytest.param(each, id=each.place) for each in SNIPPETS if each.kind == "not run"])
def test_a_snippet_that_is_not_run_says_why(snippet: Snippet) -> None:
    assert len(snippet.value.split()) >= 2


# ---------------------------------------------------------------- Python


def names_to_give() -> dict[str, Any]:
    """What a snippet may be given: a tiny model, two sequences, and what goes with them."""
    model = make_model()
    input_ids = torch.randint(3, 3 + len(CHARACTERS), (2, 6))
    completion_mask = torch.tensor([[False, True, True, True, True], [False, True, True, False, False]])
    with torch.no_grad():
        logits = model(input_ids).logits[:, :-1]
        stats = token_stats(logits, input_ids[:, 1:], mask=completion_mask, outputs=FIELDS)
    return {
        "model": model,
        "input_ids": input_ids,
        "completion_mask": completion_mask,
        "stats": stats,
        "advantages": torch.tensor([1.0, -1.0]),
        "advantage": lambda reward: reward - reward.mean(),
        "old_logprob": -4 * torch.rand(2, 5),
        "ref_logprob": -4 * torch.rand(2, 5),
    }


@pytest.mark.parametrize("snippet", those("python"))
def test_a_python_snippet_runs(
    snippet: Snippet, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, given = snippet.text, [name for name in snippet.value.split(", ") if name]
    if "prompts.jsonl" in given:
        rows = [{"prompt": f"{number}+{number}=", "answer": 2 * number} for number in range(20)]
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if "MODEL" in given:
        assert text.count('"MODEL"') == 1
        text = text.replace('"MODEL"', repr(str(model_dir)))
    possible = names_to_give()
    names = {name: possible[name] for name in given if name not in ("MODEL", "prompts.jsonl")}
    exec(compile(text, snippet.place, "exec"), names)
    if "backward()" in text:
        head = names["model"].get_output_embeddings().weight.grad
        assert head.isfinite().all()
        assert head.any()


# ---------------------------------------------------------------- commands


def commands(text: str) -> list[list[str]]:
    """The words of each line, without comments; a line that ends with a backslash goes on."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that the commands of the pages name, where the command line reads them."""
    monkeypatch.chdir(tmp_path)
    for each in SNIPPETS:
        if each.language == "python" and (name := re.match(r"# (\w+\.py)\n", each.text)):
            (tmp_path / name[1]).write_text(each.text)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "runs/first/config.yaml").write_text("model: DIR\ndata: prompts.jsonl\nseed: 0\n")
    (tmp_path / "runs/sums/reward_model").mkdir(parents=True)
    (tmp_path / "runs/sums/reward_model/config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("snippet", those("bash"))
def test_the_command_line_takes_every_command(snippet: Snippet, workplace: Path) -> None:
    for words in commands(snippet.text):
        check(words)


def check(words: list[str]) -> None:
    """Fail on a command that nobody would understand."""
    if words[0] == "rlif":
        options = parse(words[1:])
        if hasattr(options, "validate"):
            options.validate()
    elif words[0] in ("accelerate", "torchrun"):
        assert words[words.index("-m") + 1] == "rlif"
        check(words[words.index("-m") + 1 :])
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, f"make has no {words[1]}"
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        match = re.fullmatch(r"(?:-e \.|rlif)(?:\[(\w+)\])?", " ".join(words[2:]))
        assert match
        assert match[1] is None or match[1] in extras
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), f"there is no module {words[2]}"
        if words[2] == "benchmarks" and len(words) > 3:
            known = importlib.import_module("benchmarks.__main__")
            assert words[3] in {*known.SUITE_NAMES, *known.TOOLS}
        paths = [word for word in words[3:] if re.match(r"(tests|benchmarks)/", word)]
        assert all((ROOT / path).exists() for path in paths), paths
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] in OTHERS, f"no test knows the command {words[0]}: give its snippet a marker"


def test_commands_that_nobody_would_understand_are_seen(workplace: Path) -> None:
    for text in (
        "rlif trian",
        "make nothing",
        "python nothing.py",
        "python -m nothing",
        "pip install -e '.[none]'",
        "pip install rlfi",
    ):
        with pytest.raises((AssertionError, SystemExit)):
            check(shlex.split(text))


# ---------------------------------------------------------------- data


@pytest.mark.parametrize("snippet", those("json"))
def test_every_line_of_json_is_json(snippet: Snippet) -> None:
    assert all(isinstance(json.loads(line), dict) for line in snippet.text.splitlines())


@pytest.mark.parametrize("snippet", those("yaml"))
def test_a_configuration_file_is_one_that_train_reads(snippet: Snippet, workplace: Path) -> None:
    assert yaml.safe_load(snippet.text)
    (workplace / "file.yaml").write_text(snippet.text)
    check(["rlif", "train", "--config", "file.yaml"])
