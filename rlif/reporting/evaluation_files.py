"""The files of an evaluation as a report reads them: its numbers, and the completions that a page shows of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlif.answers.math_verification import RUN_SECONDS, limited_cost
from rlif.errors import UserError
from rlif.evaluation.completions import AGREEMENT, Completions, read_completions
from rlif.evaluation.extremes import SHOWN, End, ends_of, order_score
from rlif.evaluation.options import EvalConfig
from rlif.files.json_values import read_json
from rlif.files.jsonl import Row, read_rows
from rlif.files.lock import LOCK_FILE, is_locked
from rlif.options.record import CONFIG_FILE
from rlif.reporting.completions import Shown, shown
from rlif.reporting.records import Record, read_record
from rlif.reporting.run_files import Sample, read_tokens

RESULTS, COMPLETIONS = "eval.json", "completions.jsonl"
# Of these files the completions are read a second time, for their texts.
TEXT_FILES = frozenset({".jsonl", ".ndjson"})


@dataclass(frozen=True)
class EvaluationFiles:
    """What the directory of an evaluation holds."""

    path: Path
    results: dict[str, Any] | None
    """What eval.json holds; None of an evaluation that is not finished."""
    record: Record
    sampled: int
    """Prompts with completions in the directory, where it is not finished."""
    is_running: bool
    order: str
    """The score that says which completions are sure."""
    ends: Mapping[End, list[Shown]]
    """The most extreme completions of each end, of different prompts, the most extreme first."""
    note: str | None
    """Why there are no completions, where there are none."""

    @property
    def title(self) -> str:
        """The model, or the file of completions, by its last name; else that of the directory."""
        named = self.record.options.get("model") or self.record.options.get("completions") or self.path.resolve()
        return Path(str(named)).name


def is_evaluation(path: Path) -> bool:
    """Tell whether a directory is that of an evaluation, finished or not."""
    return (path / RESULTS).is_file() or all((path / name).is_file() for name in (COMPLETIONS, CONFIG_FILE))


def read_evaluation(path: Path) -> EvaluationFiles:
    """Read the files of an evaluation.

    Raises:
        UserError: they are damaged, or another command wrote them.
    """
    record = read_record(path, EvalConfig, "rlif eval")
    own, results = path / COMPLETIONS, None
    ends: dict[End, list[Shown]] = {}
    order, sampled, note = AGREEMENT, 0, None
    if not (path / RESULTS).is_file():
        sampled = len(read_rows(own, argument="runs", made_by="rlif eval", growing=True))
    else:
        results = read_json(path / RESULTS, argument="runs")
        given = record.options.get("completions")
        source = own if own.is_file() or given is None else Path(given).expanduser()
        if source.suffix.lower() not in TEXT_FILES:
            note = f"Completions are shown of .jsonl files, and {source} is none."
        elif not source.is_file():
            note = f"The completions are not here: there is no {source}."
        else:
            completions = read_completions(
                source, argument="runs", answer_style=record.option("answer_style") or "strict"
            )
            size = {"prompts": len(completions.prompts), "num_generations": completions.num_generations}
            measured = results if isinstance(results, dict) else size
            if source != own and {name: measured.get(name) for name in size} != size:
                note = f"{source} has changed since it was measured, so that its completions are not shown."
            else:
                order, ends = _ends(source, completions, source == own)
                note = None if ends else f"{source} has answers in place of completions: there are none to show."
    return EvaluationFiles(path, results, record, sampled, is_locked(path / LOCK_FILE), order, ends, note)


def _ends(path: Path, completions: Completions, is_own: bool) -> tuple[str, dict[End, list[Shown]]]:
    """The score that sorts the completions of a file, and the most extreme ones of each end.

    A file that is not the evaluation's own may be of another program.
    """
    name = order_score(completions.scores)
    scores = completions.agreement if name is None else completions.scores[name]
    found: dict[End, list[tuple[int, int]]] = {}
    with limited_cost(RUN_SECONDS):
        correct = completions.correct()
        for row, (gold, values) in enumerate(zip(completions.golds, scores.tolist(), strict=True)):
            kinds = [None] * len(values) if gold is None else correct[row].tolist()
            for end, place in ends_of(values, kinds).items():
                found.setdefault(end, []).append((row, place))
        rows = (
            read_rows(path, argument="runs", made_by="rlif eval")
            if is_own
            else [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        )
        ends = {}
        for end, places in found.items():
            places.sort(key=lambda at: scores[at], reverse=end.is_sure)
            ends[end] = [
                _shown(path, rows, completions, at, f"{name or AGREEMENT} {_compared(scores, at, end.is_sure)}")
                for at in places[:SHOWN]
                if isinstance(rows[at[0]].get("completions"), list)
            ]
    return name or AGREEMENT, {end: each for end, each in ends.items() if each}


def _compared(scores: NDArray[np.float64], at: tuple[int, int], is_sure: bool) -> str:
    """A score among those of all completions; nothing is surer than all of them."""
    beyond = scores < scores[at] if is_sure else scores > scores[at]
    percent = 100 * int(beyond.sum()) // beyond.size
    return f"{scores[at]:.4g}, {'surer' if is_sure else 'less sure'} than {percent}% of all"


def _shown(path: Path, rows: list[Row], completions: Completions, at: tuple[int, int], heading: str) -> Shown:
    row, place = rows[at[0]], at[1]
    text, kept = row["completions"][place], row.get("token_confidence")
    where = f"runs: {path}, row {at[0] + 1}"
    tokens = None
    if kept is not None:
        if not isinstance(kept, list) or len(kept) != completions.num_generations:
            raise UserError(f"{where}: got `token_confidence` {str(kept)[:40]}, expected one for each completion")
        tokens = None if kept[place] is None else read_tokens(text, kept[place], where)
    finished = row.get("finished")
    return shown(
        Sample(
            step=0,
            split="eval",
            prompt=completions.prompts[at[0]],
            completion=text,
            stated=completions.answers[at[0]][place],
            answer=completions.golds[at[0]],
            finished=not (isinstance(finished, list) and len(finished) > place and finished[place] is False),
            reward=None,
            tokens=tokens,
        ),
        heading,
    )
