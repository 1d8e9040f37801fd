"""The directory that a command writes to: a new one, or one to go on in, with a record of what made it.

The record is config.yaml: every option but the directory's own, under a line with the versions of what is installed.
Loads no torch.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rlif.errors import UserError
from rlif.files.lock import Lock
from rlif.files.versions import versions
from rlif.options.fields import options_of
from rlif.options.yaml_file import read_config, write_config

CONFIG_FILE = "config.yaml"
# Options that say nothing of what is in the directory: with the others, `--config` repeats a command in another one.
OF_THE_DIRECTORY = ("output_dir", "resume")


def check_resume(config: Any, what: str) -> None:
    """Hold a command that resumes to naming the directory.

    Args:
        config: with `resume` and `output_dir`.
        what: is resumed, for messages: "run".

    Raises:
        UserError: it does not.
    """
    if config.resume and config.output_dir is None:
        raise UserError(
            f"output_dir: got none, expected the directory of the {what} to resume: --output-dir DIRECTORY, which a "
            f"{CONFIG_FILE} does not name"
        )


def check_new(output_dir: Path) -> None:
    """Hold an output directory to being new: what it is for appears when it is whole.

    Raises:
        UserError: there is something of that name.
    """
    try:
        exists = output_dir.exists()
    except OSError as error:
        raise UserError(f"output_dir: cannot make {output_dir}: {error.strerror}") from error
    if exists:
        raise UserError(f"output_dir: {output_dir} exists, expected a new directory")


def output_directory(config: Any, name: str, *, what: str | None = None) -> Path:
    """The directory that a command will make, or that it resumes: `config.output_dir`, or runs/NAME-DATE-TIME.

    Args:
        config: with `output_dir`, and where something can be resumed with `resume`.
        name: of a directory that the user has not named.
        what: can be resumed; None: nothing.

    Raises:
        UserError: it exists and nothing is resumed: no command writes over what another wrote. Or it does not exist,
            and should be resumed.
    """
    directory = config.output_dir or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    directory = directory.expanduser()
    try:
        exists = directory.exists()
    except OSError as error:
        raise UserError(f"output_dir: cannot make {directory}: {error.strerror}") from error
    resumes = what is not None and config.resume
    if resumes and not exists:
        raise UserError(f"output_dir: {directory} does not exist, expected the directory of the {what} to resume")
    if exists and not resumes:
        hint = ", or --resume to go on in it" if what is not None else ""
        raise UserError(f"output_dir: {directory} exists, expected a new directory{hint}")
    return directory


def make_directory(directory: Path, config: Any, lock: Lock) -> None:
    """Make the directory with the record in it; of one that is resumed, only what it lacks.

    Args:
        directory: to make.
        config: dataclass of the options that make it.
        lock: of the directory, which is ours from now on if it was not before.

    Raises:
        UserError: it cannot be made, or another process has it.
    """
    lock.make(exist_ok=getattr(config, "resume", False))
    if not (directory / CONFIG_FILE).exists():
        write_record(directory, config)


def write_record(directory: Path, config: Any, leave_out: Collection[str] = OF_THE_DIRECTORY) -> None:
    """Write config.yaml, without the options to leave out.

    Raises:
        UserError: it cannot be written.
    """
    write_config(config, directory / CONFIG_FILE, header=versions(), leave_out=leave_out)


def read_record(directory: Path, command: type, prog: str, *, old_name: str = CONFIG_FILE) -> dict[str, Any] | None:
    """The options that made a directory, by name; None if it has no record.

    Args:
        directory: to look in.
        command: dataclass of the command's options.
        prog: how the command is called, for messages.
        old_name: of the record in directories that the last release made.

    Raises:
        UserError: the record is damaged.
    """
    paths = [path for path in (directory / CONFIG_FILE, directory / old_name) if path.exists()]
    return read_config(paths[0], command, prog, argument="output_dir") if paths else None


def check_unchanged(
    directory: Path, config: Any, *, changeable: Collection[str], what: str, prog: str, old_name: str = CONFIG_FILE
) -> dict[str, Any]:
    """Return the options that made a directory, which those that resume it agree with but for the changeable ones.

    Empty where a command was stopped before it had written anything.

    Args:
        directory: that exists.
        config: dataclass of the options that resume it.
        changeable: names of options that may differ.
        what: is resumed, for messages: "run".
        prog: how the command is called, for messages: "rlif train".
        old_name: of the record in directories that the last release made.

    Raises:
        UserError: another option differs; or the directory holds files, but no record, or one of something else.
    """
    saved = read_record(directory, type(config), prog, old_name=old_name)
    if saved is None:
        if any(not path.name.startswith(".") for path in directory.iterdir()):
            raise UserError(f"output_dir: {directory} has no {CONFIG_FILE}, so that it holds no {what} to resume")
        return {}
    options = options_of(config)
    if missing := [name for name, option in options.items() if option.required and name not in saved]:
        raise UserError(
            f"output_dir: {CONFIG_FILE} in {directory} says no {missing[0]}, so that it is not that of a {what}"
        )
    for name, before in saved.items():
        value = options[name].value(config)
        if name not in {*changeable, *OF_THE_DIRECTORY} and value != before:
            raise UserError(f"resume: {name} is {value!r}, but the {what} had {before!r}; expected no change")
    return saved
