"""`rlif plot` draws every run in every panel for which there is anything to draw."""

import json
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from rlif import cli
from rlif.errors import UserError
from rlif.plots.runs import compare_runs

BIG = f'{{"step": 1, "reward": {10**400}}}'


def make_run(path: Path, *rows: dict[str, float | None], tail: str = "") -> Path:
    path.mkdir()
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def test_held_out_metrics_come_before_those_of_training_and_a_half_written_line_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_run(
        tmp_path / "first",
        {"step": 0, "eval/accuracy": 0.25},
        {"step": 1, "reward": 1.0, "accuracy": 0.5},
        {"step": 2, "reward": None, "eval/accuracy": 0.75},
    )
    second = make_run(tmp_path / "second", {"step": 1, "reward": 3.0}, tail='{"step": 2, "rew')
    output = tmp_path / "both.png"
    monkeypatch.setattr(sys, "argv", ["rlif", "plot", str(first), str(second), "--output", str(output)])
    cli.main()
    assert str(output) in capsys.readouterr().out
    assert output.read_bytes().startswith(b"\x89PNG")
    panels = {axes.get_title(loc="left"): axes for axes in drawn[0].axes}
    assert list(panels) == ["accuracy, share right (held out)", "reward"]
    accuracy, reward = panels.values()
    assert [list(line.get_ydata()) for line in accuracy.lines] == [[0.25, 0.75], []]
    assert [list(line.get_xdata()) for line in reward.lines] == [[1, 2], [1]]
    assert all(float(tick).is_integer() for axes in panels.values() for tick in axes.get_xticks())
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [str(first), str(second)]


def test_what_cannot_be_drawn_is_one_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"step": 1, "reward": 1.0})
    (tmp_path / "folder.png").mkdir()
    for runs, output, message in (
        ([], "a.png", "runs: got none"),
        ([tmp_path], "a.png", "runs: cannot read .*metrics.jsonl: No such file"),
        ([make_run(tmp_path / "new")], "a.png", "runs: .* have no metrics yet"),
        ([make_run(tmp_path / "damaged", tail="\0\0\n")], "a.png", "runs: .*metrics.jsonl, line 1: not valid JSON"),
        ([run], "missing/a.png", "output: cannot write"),
        ([run], "a.unknown", "output: cannot write"),
        ([run], "", "output: got .*, expected a file whose name ends with .png"),
        ([run], "name", "output: got .*name', expected a file whose name ends with .png"),
        ([run], "folder.png", "output: cannot write .*folder.png: Is a directory"),
        *(
            ([make_run(tmp_path / f"bad-{number}", tail=line + "\n")], "a.png", "runs: .*metrics.jsonl, (line|row) 1: ")
            for number, line in enumerate(("[]", "3", "[" * 3000, '{"reward": 1}', '{"step": 1, "reward": [1]}', BIG))
        ),
    ):
        with pytest.raises(UserError, match=message):
            compare_runs(runs, tmp_path / output)
    assert not list(tmp_path.glob("*a.*")) + list(tmp_path.glob(".*"))


def test_names_of_runs_are_what_they_are(tmp_path: Path, drawn: list[Figure]) -> None:
    names = ["_hidden", "$x^2$ and $", "back\\slash$", "e\x1b[2Jsc", "größer"]
    runs = [make_run(tmp_path / name, {"step": 1, "reward": 1.0}) for name in names]
    compare_runs(runs, tmp_path / "figure.png")
    (legend,) = drawn[0].legends
    texts = [text._preprocess_math(text.get_text()) for text in legend.get_texts()]  # as matplotlib draws them
    shown = [name.replace("\x1b", "\N{REPLACEMENT CHARACTER}") for name in names]
    assert texts == [(str(tmp_path / name), False) for name in shown]
