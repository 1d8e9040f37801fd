"""What a directory's config.yaml says of the command that made it. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlif.options.fields import options_of
from rlif.options.record import CONFIG_FILE
from rlif.options.yaml_file import read_config


@dataclass(frozen=True)
class Record:
    """The options of a command that are on record."""

    command: type
    """Dataclass of the command's options."""
    options: dict[str, Any] = field(default_factory=dict)
    versions: str | None = None
    """Of what it ran with."""

    def option(self, name: str) -> Any:
        """Return an option, at its default where the record lacks it; of a required one, words that say so."""
        known = options_of(self.command)[name]
        return self.options.get(name, "not on record" if known.required else known.default())

    def changed(self) -> list[tuple[str, str]]:
        """Return the options that are not at their defaults, as text."""
        known = options_of(self.command)
        return [
            (name, _written(value))
            for name, value in self.options.items()
            if known[name].required or value != known[name].default()
        ]


def read_record(directory: Path, command: type, prog: str) -> Record:
    """Read the record of a directory; of one without, an empty one.

    Raises:
        UserError: it is damaged, or of another command.
    """
    path = directory / CONFIG_FILE
    if not path.exists():
        return Record(command)
    options = read_config(path, command, prog, argument="runs")
    header = path.read_text(encoding="utf-8").partition("\n")[0]
    return Record(command, options, header[1:].strip() if header.startswith("#") else None)


def _written(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
