"""Rows of prompts, wherever they are: text files, Parquet, directories, the Hugging Face hub, or made on the spot.

Text files are read here, alone or in a directory, so that an error can name the line and a number keeps the form in
which it was written; everything else is read by the `datasets` library, which is imported where it is needed: that
takes a second.
"""

from __future__ import annotations

import csv
import io
import json
import re
import stat
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import HfApi

from rlif.data.folders import split_files, split_rows
from rlif.data.rows import TableRow, as_written
from rlif.errors import UserError
from rlif.files.hub import HUB_SECONDS, ask_hub
from rlif.tasks.word_problems.problems import is_spec, read_spec, word_problem_rows

if TYPE_CHECKING:
    from datasets import Dataset

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_READABLE = frozenset({".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv"})
_FILE_SUFFIXES = _READABLE | {".txt"}
# Floats whose shortest digits those of a Python float are not: 0.1 in float32 is 0.10000000149011612 to it.
NARROW = {"float32": np.float32, "float16": np.float16}


def read_table(
    data: str | Path, *, argument: str, columns: tuple[str, ...], config: str | None, split: str | None, default: str
) -> Iterator[TableRow]:
    """Yield the rows of a table.

    Args:
        data: a JSONL, JSON, CSV, TSV or Parquet file (other names are taken for JSONL), a directory of such files or
            one written by `save_to_disk`, a hub id, or "word_problems:level=2,n=256" (`rlif.tasks.word_problems`).
        argument: that `data` came by, for error messages.
        columns: to read where columns are stored apart; a row of a text file has all of its own.
        config: configuration of a hub dataset.
        split: of a directory, a hub dataset or word problems, or of the former two a slice, "train[:100]". None: the
            only one, or `default`.
        default: see `split`.

    Raises:
        UserError: naming the argument, and the line where one is at fault.
    """
    path = Path(data).expanduser()
    mode = _file_mode(path) if str(data) else None  # an empty path would be the working directory
    if mode is None and is_spec(str(data)):
        problems = read_spec(str(data), argument=argument, split=split, default_split=default)
        return (TableRow(f"problem {number}", row) for number, row in enumerate(word_problem_rows(problems), start=1))
    if mode is None and _is_hub_id(str(data)):
        return _dataset_rows(
            _load_from_hub(str(data), argument, config, split, default), columns, f"{argument}: {data}"
        )
    if mode is not None and stat.S_ISDIR(mode):
        return _directory_rows(path, argument, split, default, columns)
    _check_file(data, mode, argument, ", a directory, a hub id or word_problems:level=1")
    if split is not None:
        name = "eval_split" if argument == "eval_data" else "split"
        raise UserError(f"{name}: got {split!r}, but {path} is a single file, which has no splits")
    return _file_rows(path, argument, columns)


def read_file(data: str | Path, *, argument: str, columns: tuple[str, ...]) -> Iterator[TableRow]:
    """Yield the rows of a single file, whatever else might have its name; see `read_table` for all else.

    Raises:
        UserError: naming the argument, and the line where one is at fault.
    """
    path = Path(data).expanduser()
    _check_file(data, _file_mode(path), argument)
    return _file_rows(path, argument, columns)


def _check_file(data: str | Path, mode: int | None, argument: str, or_else: str = "") -> None:
    if mode is not None and stat.S_ISREG(mode):
        return
    if mode is None:
        what = "not a file"
    elif stat.S_ISDIR(mode):
        what = "a directory, not a file"
    else:
        what = "a pipe or a device, not a file that can be read again"
    raise UserError(f"{argument}: got {str(data)!r}, which is {what}; expected JSONL, JSON, Parquet or CSV{or_else}")


def _file_rows(path: Path, argument: str, columns: tuple[str, ...]) -> Iterator[TableRow]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _dataset_rows(_load_parquet(path, argument), columns, f"{argument}: {path}")
    if suffix in (".csv", ".tsv"):
        text = _read_text(path, argument, newline="")  # a line break in a cell is part of it
        return _csv_rows(text, f"{argument}: {path}", "\t" if suffix == ".tsv" else ",")
    text = _read_text(path, argument)
    if suffix == ".json" and text.lstrip().startswith("["):
        return _json_array_rows(text, f"{argument}: {path}")
    return _jsonl_rows(text, f"{argument}: {path}")


def shorten(text: str, limit: int = 60) -> str:
    """The text, cut off where it is too long to be repeated in an error message."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _file_mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:  # there is no such file, or the name is too long for one
        return None


def _is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and Path(name).suffix.lower() not in _FILE_SUFFIXES


def _read_text(path: Path, argument: str, newline: str | None = None) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{argument}: {path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise UserError(f"{argument}: cannot read {path}: {error.strerror}") from error


def _jsonl_rows(text: str, where: str) -> Iterator[TableRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        try:
            values = _parse_json(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: got {shorten(line)}, expected a JSON object ({error})") from error
        if not isinstance(values, dict):
            raise UserError(f"{place}: got {shorten(line)}, expected a JSON object")
        yield TableRow(f"line {number}", values)


def _json_array_rows(text: str, where: str) -> Iterator[TableRow]:
    try:
        items = _parse_json(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: expected a JSON array of objects ({error})") from error
    for number, values in enumerate(items, start=1):
        if not isinstance(values, dict):
            came = shorten(json.dumps(values, default=str))
            raise UserError(f"{where}, row {number}: got {came}, expected a JSON object")
        yield TableRow(f"row {number}", values)


def _parse_json(text: str) -> Any:
    return json.loads(text, parse_int=as_written, parse_float=as_written, parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _csv_rows(text: str, where: str, delimiter: str) -> Iterator[TableRow]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    # Lines end where a stream ends them: splitlines() would cut a cell at U+2028 and others of its kind.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    start = 1
    try:
        for fields in reader:
            if fields and not columns:
                columns = fields
            elif fields:
                if len(fields) != len(columns):
                    raise UserError(
                        f"{where}, line {start}: got {len(fields)} fields, expected {len(columns)} as in the first line"
                    )
                yield TableRow(f"line {start}", dict(zip(columns, fields, strict=True)))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{where}, line {start}: {error}") from error


def _dataset_rows(dataset: Dataset, columns: tuple[str, ...], where: str) -> Iterator[TableRow]:
    if columns[0] not in dataset.column_names:
        columns = tuple(dataset.column_names)
    # Other columns may be images or sound, which would be decoded for nothing.
    dataset = dataset.select_columns([column for column in columns if column in dataset.column_names])
    narrow = {column: NARROW[kind] for column, kind in _kinds(dataset).items() if kind in NARROW}
    try:
        for number, values in enumerate(dataset, start=1):
            for column, kind in narrow.items():
                values[column] = _exact(values[column], kind)
            yield TableRow(f"row {number}", values)
    except UnicodeDecodeError as error:  # of a row, or of its neighbours in the file
        raise UserError(f"{where}: a text in it is not UTF-8 ({error.reason})") from error


def _exact(value: object, kind: Callable[[Any], object]) -> object:
    """A float of a narrow column, or a list of them, as the shortest decimal that its width tells from others."""
    if isinstance(value, list):
        return [_exact(item, kind) for item in value]
    return Decimal(str(kind(value))) if isinstance(value, float) else value


def _kinds(dataset: Dataset) -> dict[str, str]:
    """The type of each column, of one of lists that of their items."""
    return {
        name: getattr(getattr(feature, "feature", feature), "dtype", "") for name, feature in dataset.features.items()
    }


def _load_parquet(path: Path, argument: str) -> Dataset:
    datasets = _quiet_datasets()
    try:
        return datasets.load_dataset("parquet", data_files=str(path), split="train")
    except Exception as error:  # the many ways in which a file may be broken
        raise UserError(f"{argument}: cannot read {path} as Parquet: {_root_cause(error)}") from error


def _directory_rows(
    path: Path, argument: str, split: str | None, default: str, columns: tuple[str, ...]
) -> Iterator[TableRow]:
    datasets = _quiet_datasets()
    is_saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    try:
        splits = None if is_saved else split_files(path, _READABLE)
        if splits is not None:
            chosen = split or _choose_split(list(splits), split, default, argument, str(path))
            yield from split_rows(splits, chosen, path, lambda file: _file_rows(file, argument, columns))
            return
        loaded = datasets.load_from_disk(str(path)) if is_saved else datasets.load_dataset(str(path), split=split)
    except UserError:
        raise
    except Exception as error:  # no data files, none that can be read, or no such split
        raise UserError(f"{argument}: cannot read the directory {path}: {_root_cause(error)}") from error
    if isinstance(loaded, dict):
        loaded = loaded[_choose_split(list(loaded), split, default, argument, str(path))]
    yield from _dataset_rows(loaded, columns, f"{argument}: {path}")


def _load_from_hub(name: str, argument: str, config: str | None, split: str | None, default: str) -> Dataset:
    import datasets

    ask = partial(HfApi().dataset_info, name, timeout=HUB_SECONDS)
    ask_hub(ask, f"{argument}: got {name!r}, which is not a file here", "dataset")
    try:
        chosen = split or _choose_split(datasets.get_dataset_split_names(name, config), None, default, argument, name)
        return datasets.load_dataset(name, config, split=chosen)
    except UserError:
        raise
    except Exception as error:  # no such configuration or split, no access, a broken download
        raise UserError(f"{argument}: cannot load the hub dataset {name!r}: {_root_cause(error)}") from error


def _choose_split(splits: list[str], split: str | None, default: str, argument: str, name: str) -> str:
    chosen = split or (splits[0] if len(splits) == 1 else default)
    if chosen not in splits:
        option = "eval_split" if argument == "eval_data" else "split"
        raise UserError(f"{option}: got {split!r}, expected one of {name}'s splits: {', '.join(splits)}")
    return chosen


def _quiet_datasets() -> Any:
    """The library, saying only by exceptions what is wrong with a file."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets


def _root_cause(error: BaseException) -> str:
    while (cause := error.__cause__) is not None:
        error = cause
    return shorten(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)
