"""Metrics and completions reach the trackers that were asked for; one that is not there is found before any work."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rlif.errors import UserError
from rlif.training.trackers import TABLE, _markdown
from runs import MakeConfig, train


def needs(package: str) -> pytest.MarkDecorator:
    reason = f"{package} is not installed: `make test-release` installs the extra `trackers`"
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)


def logged(directory: Path) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """The metrics and the completions that a run has in its own files."""
    files = (directory / name for name in ("metrics.jsonl", "samples.jsonl"))
    metrics, samples = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert metrics
    assert samples
    return metrics, samples


def columns_of(samples: list[dict[str, Any]]) -> list[str]:
    """What a table shows of a completion: not the step, which the tracker knows, nor the numbers of every token."""
    return [name for name in samples[0] if name not in ("step", "tokens")]


def cells_of(samples: list[dict[str, Any]], step: int) -> list[list[str]]:
    """The rows of the table of a step."""
    chosen = [each for each in samples if each["step"] == step]
    return [["" if each[name] is None else str(each[name]) for name in columns_of(samples)] for each in chosen]


class Cells(HTMLParser):
    """The texts of a table's cells, line breaks as such."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "br":
            self.rows[-1][-1] += "\n"

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and data.strip("\n"):
            self.rows[-1][-1] += data


@needs("tensorboard")
def test_tensorboard_gets_every_metric_of_every_step_and_a_table_of_completions(make_config: MakeConfig) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugin_util import markdown_to_safe_html

    config = make_config(report_to=("tensorboard",))
    rows = train(config).rows
    events = EventAccumulator(str(config.output_dir / "rlif")).Reload()
    for name in ("reward", "entropy", "loss"):
        scalars = [(event.step, event.value) for event in events.Scalars(name)]
        assert scalars == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]  # float32 in the file
    _, samples = logged(config.output_dir)
    tables = events.Tensors(f"{TABLE}/text_summary")
    assert [event.step for event in tables] == sorted({each["step"] for each in samples})
    for event in tables:
        shown = Cells(markdown_to_safe_html(event.tensor_proto.string_val[0])).rows
        assert shown[0] == columns_of(samples)
        assert [[each.strip() for each in row] for row in shown[1:]] == [
            [each.strip() for each in row] for row in cells_of(samples, event.step)
        ]


@needs("tensorboard")
def test_a_table_shows_every_character_of_a_completion(make_config: MakeConfig) -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    text = "a|b *bold* _it_ `code` <answer>7</answer> &lt; [x](y) \\(z\\) # - 1. ~ é\nsecond <script>line</script>"
    assert Cells(markdown_to_safe_html(_markdown(["text", "n"], [[text, "1"]]))).rows == [["text", "n"], [text, "1"]]


def train_by_command(make_config: MakeConfig, tracker: str, **environment: str) -> Path:
    """Run `rlif train --report-to TRACKER` in a process of its own, and return its directory."""
    config = make_config()
    given = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"} | environment
    options = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name
        in ("model", "data", "output_dir", "max_steps", "prompts_per_step", "num_generations", "eval_steps", "guard")
    } | {"max_completion_length": 6, "report_to": tracker, "device": "cpu"}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "rlif", "train", *words]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    return config.output_dir


@needs("wandb")
def test_wandb_offline_gets_every_metric_of_every_step_and_a_table_of_completions(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    directory = train_by_command(make_config, "wandb", WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    metrics, samples = logged(directory)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    history = wandb_history(next(run.glob("*.wandb")))
    assert [each["_step"] for each in history] == [row["step"] for row in metrics]
    for row, mine in zip(history, metrics, strict=True):
        assert {name: row[name] for name in ("reward", "entropy", "loss")} == {
            name: pytest.approx(mine[name]) for name in ("reward", "entropy", "loss")
        }
        table = json.loads((run / "files" / row[f"{TABLE}.path"]).read_text())
        assert table["columns"] == columns_of(samples)
        assert table["data"] == cells_of(samples, row["_step"])


def wandb_history(file: Path) -> list[dict[str, Any]]:
    """What was logged, from the file that an offline run leaves."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for data in leveldb_records(file.read_bytes(), header=7):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {each.key or ".".join(each.nested_key): json.loads(each.value_json) for each in record.history.item}
            found.append({"_step": record.history.step.num} | items)
    return found


def leveldb_records(data: bytes, header: int) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: pieces in blocks of 32 KiB, each with its length and kind before it."""
    place, pieces = header, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:  # a block's end that is too short for a piece is not used
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        pieces += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield pieces
            pieces = b""


@needs("trackio")
def test_trackio_gets_every_metric_of_every_step_and_a_table_of_completions(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    directory = train_by_command(make_config, "trackio", TRACKIO_DIR=str(tmp_path / "trackio"))
    metrics, samples = logged(directory)
    (database,) = (tmp_path / "trackio").rglob("*.db")
    with sqlite3.connect(database) as opened:
        history = [
            {"step": step} | json.loads(values)
            for step, values in opened.execute("SELECT step, metrics FROM metrics ORDER BY id")
        ]
    for name in ("reward", "entropy", "loss"):
        assert [each[name] for each in history if name in each] == [pytest.approx(row[name]) for row in metrics]
    tables = [each[TABLE] for each in history if TABLE in each]
    assert len(tables) == len({each["step"] for each in samples})
    for step, table in zip(sorted({each["step"] for each in samples}), tables, strict=True):
        assert [[*map(str, row.values())] for row in table["_value"]] == cells_of(samples, step)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbored", r"report_to: got 'tensorbored', expected one of .*tensorboard"),
        ("comet_ml", r"report_to: got 'comet_ml', whose package is not installed"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused(name: str, message: str, make_config: MakeConfig) -> None:
    config = make_config(report_to=(name,))
    with pytest.raises(UserError, match=message):
        train(config)
    assert not config.output_dir.exists()
