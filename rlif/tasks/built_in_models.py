"""The built-in start models, made on first use and cached: a base model, and the same tuned until it is sure.

The base is a small Qwen3 pretrained on the imperfect teacher's solutions, the instruct-like one is tuned from it.

The cache is `RLIF_CACHE_DIR`, or the user's cache directory. A model's directory is named by a hash of its whole
configuration and appears in one rename once it is complete, so an interrupted pretraining leaves no half model and
two processes at once only waste work. The directory is an ordinary Hugging Face one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlif.errors import UserError
from rlif.files.cache import cache_dir
from rlif.files.fingerprint import fingerprint
from rlif.tasks import pretraining
from rlif.tasks.arithmetic import ALPHABET
from rlif.tasks.options import BaseModelConfig, InstructModelConfig

# Part of the cache key: raise it whenever the same configuration would give another model.
_FORMAT_VERSION = 1


def base_model_dir(config: BaseModelConfig) -> Path:
    """Return the directory of this configuration's model, whether it exists yet or not."""
    return cache_dir() / f"base-{_key(config)}"


def pretrained_base(config: BaseModelConfig, console: Console | None = None) -> Path:
    """The directory of the pretrained base model; pretrains it if the cache does not have it yet.

    `console` shows a progress bar while pretraining; None pretrains silently. The caller's random state is left alone.

    Raises:
        UserError: a bad value in the configuration, or no cache directory can be made.
    """
    config.validate()
    return _cached(base_model_dir(config), lambda: pretraining.pretrain(config, console))


def tuned_instruct(config: InstructModelConfig, console: Console | None = None) -> Path:
    """The directory of the instruct-like model; tunes it, from its base, if the cache does not have it yet.

    Raises:
        UserError: as `pretrained_base`.
    """
    config.validate()
    return _cached(
        cache_dir() / f"instruct-{_key(config)}",
        lambda: pretraining.tune(config, pretrained_base(config.base, console), console),
    )


def _key(config: BaseModelConfig | InstructModelConfig) -> str:
    return fingerprint([{"format": _FORMAT_VERSION, "alphabet": ALPHABET, **asdict(config)}])[:16]


def _cached(directory: Path, make: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]) -> Path:
    """The directory, which `make`'s model and tokenizer are saved in if it does not exist."""
    if directory.is_dir():
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"RLIF_CACHE_DIR: cannot make {directory.parent}: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=directory.parent) as unfinished:
        model, tokenizer = make()
        complete = Path(unfinished) / "model"
        model.save_pretrained(complete)
        tokenizer.save_pretrained(complete)
        try:
            complete.replace(directory)
        except OSError:
            # A directory never replaces one that has files: another process finished the same model first.
            if not directory.is_dir():
                raise
    return directory
