"""The built-in start models, made on first use and cached: a base model, and the same tuned until it is sure.

The base is a small Qwen3 pretrained on the imperfect teacher's solutions, the instruct-like one is tuned from it.

The cache is `RLIF_CACHE_DIR`, or the user's cache directory. A model's directory is named by a hash of its whole
configuration and appears in one rename once it is complete, so an interrupted pretraining leaves no half model, and of
two processes at once one waits for the other. The directory is an ordinary Hugging Face one, with checksums of its
files: one that has changed since is made again.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlif.files.cache import cache_dir
from rlif.files.directories import UNFINISHED, damage, is_whole, write_directory
from rlif.files.fingerprint import fingerprint
from rlif.files.lock import Lock, is_locked
from rlif.tasks import pretraining
from rlif.tasks.arithmetic import ALPHABET
from rlif.tasks.options import BaseModelConfig, InstructModelConfig

# Part of the cache key: raise it whenever the same configuration would give another model.
_FORMAT_VERSION = 1
# Nothing is made for as long as this.
OLD_SECONDS = 24 * 3600.0


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
    return _cached(base_model_dir(config), lambda: pretraining.pretrain(config, console), console)


def tuned_instruct(config: InstructModelConfig, console: Console | None = None) -> Path:
    """The directory of the instruct-like model; tunes it, from its base, if the cache does not have it yet.

    Raises:
        UserError: as `pretrained_base`.
    """
    config.validate()
    return _cached(
        cache_dir() / f"instruct-{_key(config)}",
        lambda: pretraining.tune(config, pretrained_base(config.base, console), console),
        console,
    )


def _key(config: BaseModelConfig | InstructModelConfig) -> str:
    return fingerprint([{"format": _FORMAT_VERSION, "alphabet": ALPHABET, **asdict(config)}])[:16]


def _cached(
    directory: Path, make: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]], console: Console | None
) -> Path:
    """The directory, which `make`'s model and tokenizer are saved in if it does not exist or is not as it was made."""
    if is_whole(directory):
        return directory

    def wait(owner: str) -> None:
        if console is not None:
            console.print(f"Waiting for {owner}, which makes the same model", highlight=False)

    with Lock(directory, argument="RLIF_CACHE_DIR", beside=True, wait=wait) as lock:
        lock.make()
        if directory.is_dir():
            if (fault := damage(directory)) is None:  # another process has made it
                return directory
            warnings.warn(f"{directory} is not as it was made ({fault}): it is made again", stacklevel=3)
        _remove_unfinished(directory.parent)
        model, tokenizer = make()

        def write(unfinished: Path) -> None:
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)

        write_directory(directory, write, argument="RLIF_CACHE_DIR")
    return directory


def _remove_unfinished(cache: Path) -> None:
    """Remove what processes that were killed left behind: no process that lives has the lock of its model."""
    for path in cache.glob(f".*{UNFINISHED}"):
        name = path.name.removeprefix(".").removesuffix(UNFINISHED).removesuffix("-replaced")
        if not is_locked(Lock(cache / name, beside=True).file):
            shutil.rmtree(path, ignore_errors=True)
    for path in cache.glob("unfinished-*"):  # of rlif 0.1, which had no locks
        if time.time() - path.stat().st_mtime > OLD_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
