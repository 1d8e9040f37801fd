"""What a command has left, to compare two runs: everything but times, versions and the bytes of figures."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from hurt import assert_same
from rlif.files.checksums import SEAL
from rlif.files.directories import MANIFEST, is_whole
from rlif.files.json_values import without_nan
from rlif.training.run_dir import EVALUATION_FILE
from tiny_models import TIMES

# Values that are another's at every run, or that follow from them.
OTHER_EACH_TIME = TIMES | {
    "seconds", "cpu_seconds", "cpu_minutes", "versions", "made_with", "machine", "metrics_bytes", "metrics_sha256",
    "samples_sha256", "config_sha256", SEAL,
}  # fmt: skip
# What a run that was killed before its first checkpoint had logged by then is kept beside what it logs when it goes on.
KEPT = "before-restart-"


def files(directory: Path) -> dict[str, Path]:
    """The files that a user sees, by their paths in the directory."""
    found = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if not name.startswith(KEPT) and "/." not in f"/{name}"}


def contents(directory: Path) -> dict[str, object]:
    """What is in the files, but for checksums of what is compared itself."""
    return {name: _readable(path) for name, path in files(directory).items() if path.name != MANIFEST}


def _readable(path: Path) -> object:
    try:
        return _content(path)
    except Exception as error:  # of a damaged file whatever reads it stumbles over
        return f"unreadable: {type(error).__name__}"


def _content(path: Path) -> object:
    kind = path.suffix
    if kind == ".json":
        return _comparable(json.loads(path.read_text()))
    if kind == ".jsonl":
        return [_comparable(json.loads(line)) for line in path.read_text().splitlines()]
    if kind == ".yaml":
        return yaml.safe_load(path.read_text())
    if kind == ".png":
        with Image.open(path) as image:
            image.load()
            return image.size
    if kind == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tolist() for name in arrays}
    if kind == ".md":
        return re.sub(r"[^,\n]+ of processor time", "", path.read_text())
    if kind == ".html":
        return re.sub(r"<footer>Written [^<]*", "", path.read_text())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _comparable(value: object) -> object:
    if isinstance(value, dict):
        return {name: _comparable(each) for name, each in value.items() if name not in OTHER_EACH_TIME}
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    return without_nan(value)


def differences(ours: dict[str, object], theirs: dict[str, object]) -> list[str]:
    """In which files two runs differ, each in a few words."""
    found = [f"{name} is missing" for name in theirs.keys() - ours.keys()]
    found += [f"{name} is left over" for name in ours.keys() - theirs.keys()]
    for name in ours.keys() & theirs.keys():
        try:
            assert_same(ours[name], theirs[name])
        except AssertionError:
            found.append(f"{name} differs")
    return sorted(found)


def acknowledged(directory: Path) -> dict[str, object]:
    """What a command that was hurt had said to be safe: whole rows with checksums, checkpoints, results of trials."""
    rows = {
        name: [line for line in path.read_bytes().splitlines(keepends=True) if f'"{SEAL}"'.encode() in line]
        for name, path in files(directory).items()
        # Steps after a checkpoint are done again; and an evaluation that is whole is one line of metrics.jsonl.
        if path.suffix == ".jsonl" and "train-" not in name and path.name != EVALUATION_FILE
    }
    results = {name: [path.read_bytes()] for name, path in files(directory).items() if path.name == "result.json"}
    whole = results | {name: [line for line in lines if line.endswith(b"\n")] for name, lines in rows.items()}
    steps = [int(path.name.rpartition("-")[2]) for path in directory.glob("checkpoint-*") if is_whole(path)]
    return {name: lines for name, lines in whole.items() if lines} | {"checkpoint": max(steps, default=0)}


def lost(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What of the acknowledged is gone."""
    found = []
    for name, kept in before.items():
        now = after.get(name, [])
        if isinstance(kept, list) and isinstance(now, list):
            if now[: len(kept)] != kept:
                found.append(f"{name} lost rows")
        elif isinstance(kept, int) and isinstance(now, int) and now < kept:
            found.append(f"checkpoint-{kept} is lost")
    return found
