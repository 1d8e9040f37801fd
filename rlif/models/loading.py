"""What makes transformers fail to load a model, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlif.errors import UserError

MAX_REASON = 300


@contextmanager
def loading(argument: str, name: str, *, can_trust: bool = False) -> Iterator[None]:
    """Within, whatever transformers raises becomes a `UserError`.

    Every loader inside says `trust_remote_code`, or transformers would ask on the terminal whether to run the code that
    a model directory brings, and take its answer from whatever stdin is.

    Args:
        argument: that named the model, for messages.
        name: directory or hub id.
        can_trust: whether the user can let the model's own code run by the option trust_remote_code.

    Raises:
        UserError: the model cannot be loaded, or only by running code of its own, which nobody has allowed.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a configuration or a checkpoint makes transformers raise
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            hint = ", or trust_remote_code by somebody who has read that code" if can_trust else ""
            raise UserError(
                f"{argument}: {name} loads only by running Python code of its own, which is not run; expected a model "
                f"or tokenizer of a kind that transformers has{hint}"
            ) from error
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}…"
        source = "" if exists(name) else " (no such directory) from the Hugging Face hub"
        raise UserError(f"{argument}: could not load {name!r}{source}: {type(error).__name__}: {reason}") from error


def path_or_id(name: str) -> str:
    """Return what transformers loads: the path of a directory, without a tilde, or a hub id as it is."""
    return str(Path(name).expanduser()) if exists(name) else name


def exists(name: str) -> bool:
    """Tell whether the name is that of a file or directory here."""
    try:
        return Path(name).expanduser().exists()
    except OSError:  # too long to be a path
        return False
