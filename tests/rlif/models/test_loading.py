"""A model directory brings no code into a process unless an option says so, whatever stdin answers."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import rlif
from rlif.errors import UserError
from rlif.mixing.weight_files import WeightFiles
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.models.reward_model import load_reward_model

OWN_CODE = """
from pathlib import Path

from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

Path({mark!r}).write_text("ran")


class OwnConfig(Qwen3Config):
    model_type = "a_kind_of_its_own"


class OwnModel(Qwen3ForCausalLM):
    config_class = OwnConfig


class OwnClassifier(Qwen3ForSequenceClassification):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def _language_model(directory: Path, **settings: bool) -> LanguageModel:
    return load_language_model(str(directory), device="cpu", dtype="float32", **settings)


def _reward_model(directory: Path) -> object:
    return load_reward_model(
        str(directory), device=torch.device("cpu"), dtype=torch.float32, pad_token_id=0, new_head=True
    )


LOADERS: dict[str, Callable[[Path], object]] = {
    "model": _language_model,
    "reward_model": _reward_model,
    "base": lambda directory: WeightFiles(str(directory), "base"),
}


@pytest.fixture
def with_own_code(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of a kind that transformers does not have, with its code, which leaves a file where it runs; on stdin
    somebody says yes to everything."""
    monkeypatch.setattr("builtins.input", lambda prompt="": "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    directory = Path(shutil.copytree(model_dir, tmp_path / "own"))
    (directory / "own.py").write_text(OWN_CODE.format(mark=str(tmp_path / "mark")))
    config = json.loads((directory / "config.json").read_text())
    config |= {
        "model_type": "a_kind_of_its_own",
        "auto_map": {
            "AutoConfig": "own.OwnConfig",
            "AutoModelForCausalLM": "own.OwnModel",
            "AutoModelForSequenceClassification": "own.OwnClassifier",
        },
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("argument", LOADERS)
def test_no_loader_runs_a_models_own_code(argument: str, with_own_code: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{argument}: .*own loads only by running Python code of its own, which is"):
        LOADERS[argument](with_own_code)
    assert not (tmp_path / "mark").exists()


def test_an_adapter_does_not_bring_the_code_of_its_model(with_own_code: Path, model_dir: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(model_dir, tmp_path / "adapter", ignore=shutil.ignore_patterns("config.json")))
    written = {"base_model_name_or_path": str(with_own_code), "peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"^model: .*adapter loads only by running Python code of its own"):
        _language_model(adapter)
    assert not (tmp_path / "mark").exists()


def test_a_tokenizer_that_transformers_can_read_runs_no_code_either(
    with_own_code: Path, model_dir: Path, tmp_path: Path
) -> None:
    shutil.copyfile(model_dir / "config.json", with_own_code / "config.json")
    path = with_own_code / "tokenizer_config.json"
    written = json.loads(path.read_text())
    written |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    path.write_text(json.dumps(written))
    assert type(_language_model(with_own_code).tokenizer).__name__ != "OwnTokenizer"  # its tokenizer.json will do
    assert not (tmp_path / "mark").exists()


def test_the_option_lets_a_models_own_code_run(with_own_code: Path, tmp_path: Path) -> None:
    _language_model(with_own_code, trust_remote_code=True)
    assert (tmp_path / "mark").read_text() == "ran"


def test_every_loader_of_transformers_is_told_whose_code_may_run() -> None:
    files = [*Path(rlif.__file__).parent.rglob("*.py"), *(Path(__file__).parents[3] / "examples").glob("*.py")]
    calls = [
        (path.name, node)
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config")
    ]
    assert len(calls) >= 5
    for name, call in calls:
        assert "trust_remote_code" in {keyword.arg for keyword in call.keywords}, f"{name}, line {call.lineno}"
