"""Which files of a directory make up which split, and which of their rows a slice such as train[:100] takes.

Names decide, as for the `datasets` library: train.jsonl and data/train-00000.parquet are of the split train, and files
whose names say nothing are too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rlif.data.rows import TableRow

# Of files that hold data in a form that is not read here.
OTHER_FORMS = frozenset(
    {".arrow", ".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".tar", ".7z", ".h5", ".hdf5", ".lance"}
)


def split_files(directory: Path, suffixes: frozenset[str]) -> dict[str, list[Path]] | None:
    """The files of each split, in their order.

    Args:
        directory: that exists.
        suffixes: of files that can be read here.

    Returns:
        None where the directory has none of them, has data in other forms beside them, or has a README.md that says
        which files are what: the `datasets` library may then know better.

    Raises:
        Exception: the library's, where it finds no data at all.
    """
    from datasets import config, data_files

    if any((directory / name).exists() for name in (config.REPOCARD_FILENAME, config.REPOYAML_FILENAME)):
        return None
    base = directory.resolve().as_posix()
    patterns = data_files.get_data_patterns(base)
    found = data_files.DataFilesDict.from_patterns(patterns, base_path=base)
    splits = {str(split): [Path(name) for name in names] for split, names in found.items()}
    if any(path.suffix.lower() in OTHER_FORMS for paths in splits.values() for path in paths):
        return None
    ours = {split: [path for path in paths if path.suffix.lower() in suffixes] for split, paths in splits.items()}
    return {split: paths for split, paths in ours.items() if paths} or None


def split_rows(
    splits: dict[str, list[Path]], split: str, directory: Path, read: Callable[[Path], Iterator[TableRow]]
) -> Iterator[TableRow]:
    """Yield the rows of a split or of a slice of one, each with the name of its file before its place.

    Args:
        splits: of `split_files`.
        split: a name, or what `datasets` takes for one: "train[:100]", "train+test", "test[50%:]".
        directory: that the names are relative to.
        read: the rows of one file.

    Raises:
        ValueError: there is no such split.
    """

    def rows_of(name: str) -> Iterator[TableRow]:
        for path in splits[name]:
            for where, values in read(path):
                yield TableRow(f"{path.relative_to(directory.resolve()).as_posix()}, {where}", values)

    if split in splits:
        yield from rows_of(split)
        return
    from datasets import ReadInstruction

    wanted = ReadInstruction.from_spec(split)
    # A slice may count from the end, or in percent, so that all rows of the splits that it names have to be known.
    rows = {name: list(rows_of(name)) if name in split else [] for name in splits}
    for part in wanted.to_absolute({name: len(rows[name]) for name in splits}):
        yield from rows[part.splitname][part.from_ : part.to]
