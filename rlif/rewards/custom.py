"""A user's own reward function: found by its name, and held to what it promises."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import math
import numbers
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rlif.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlif.rewards.interface import Reward, RewardFunction


def import_function(path: str) -> RewardFunction:
    """The function that `package.module:function` or `path/to/file.py:function` names.

    Modules are looked for in the working directory too, as `python -m` does.

    Raises:
        UserError: the module cannot be imported, or has no such function.
    """
    place, _, name = path.rpartition(":")
    if not place or not name:
        raise UserError(f"reward: got {path!r}, expected package.module:function or file.py:function")
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise UserError(f"reward: could not import {place!r}: {_describe_error(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        near = difflib.get_close_matches(name, [key for key, value in vars(module).items() if callable(value)])
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"reward: {place!r} has no function {name!r}{hint}")
    return function


def _import_module(name: str) -> ModuleType:
    working_directory = os.getcwd()
    sys.path.insert(0, working_directory)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(working_directory)


def _import_file(path: Path) -> ModuleType:
    # A name that no other module has, yet the same each time: what the module defines can then be pickled.
    name = f"rlif_reward_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def call(reward: Reward, inputs: Mapping[str, object], prompts: list[str], device: torch.device) -> Tensor:
    """The values of a reward function, checked.

    Args:
        reward: to call.
        inputs: every keyword argument that there is; the function gets those that it takes.
        prompts: n prompts, to say where a value is wrong.
        device: of the result.

    Returns:
        (n,) float32, detached.

    Raises:
        UserError: the function raises, or does not return one finite number per completion.
    """
    import torch

    where = f"reward {reward.name}"
    try:
        with torch.no_grad():
            values = reward.function(**reward.arguments(inputs))
    except UserError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise UserError(f"{where}: raised {_describe_error(error)}") from error
    count = len(prompts)
    if hasattr(values, "tolist"):  # a tensor of torch or an array of NumPy
        values = values.tolist()
    if not isinstance(values, list | tuple):
        raise UserError(f"{where}: returned {_shorten(values)}, expected a list or tensor of {count} numbers")
    if len(values) != count:
        raise UserError(f"{where}: returned {len(values)} values, expected {count}: one number per completion")
    rewards = torch.zeros(count)
    for row, value in enumerate(values):
        number = value.item() if getattr(value, "shape", None) == () else value
        try:
            rewards[row] = float(number) if isinstance(number, numbers.Real) else math.nan
        except (OverflowError, RuntimeError):  # more than float64 holds, or than float32
            rewards[row] = math.inf
        if not rewards[row].isfinite():
            raise UserError(
                f"{where}: returned {_shorten(number)} for completion {row + 1} of {count}, expected a finite number "
                f"(prompt {_shorten(prompts[row])})"
            )
    return rewards.to(device)


def _describe_error(error: Exception) -> str:
    """The error in one line, with the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _shorten(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
