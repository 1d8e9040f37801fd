"""Ask the Hugging Face hub for something once, where loading would ask again and again before it gives up."""

from __future__ import annotations

from collections.abc import Callable

from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

from rlif.errors import UserError

HUB_SECONDS = 10.0
MAX_REASON = 120


def ask_hub(ask: Callable[[], object], missing: str, kind: str) -> None:
    """Find out whether the hub has something that is to be loaded from there.

    What may be loaded although it cannot be asked for passes: what was downloaded before, where the hub is off, and
    what wants a consent.

    Args:
        ask: makes one request, within `HUB_SECONDS`.
        missing: what is not here, as the beginning of an error.
        kind: of what is asked for: "model" or "dataset".

    Raises:
        UserError: the hub has nothing by that name, or is out of reach.
    """
    try:
        ask()
    except (OfflineModeIsEnabled, GatedRepoError):
        pass
    except RepositoryNotFoundError as error:
        raise UserError(f"{missing}, and the Hugging Face hub has no such public {kind}") from error
    except Exception as error:  # of the network, of several libraries
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        reason = reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 1]}…"
        raise UserError(
            f"{missing}, and the Hugging Face hub cannot be reached: {reason} "
            "(HF_HUB_OFFLINE=1 uses a copy that was downloaded before)"
        ) from error
