"""A user's own reward function, found by its name."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from rlif.errors import UserError
from rlif.rewards.interface import RewardFunction, describe_user_error


def import_function(path: str) -> RewardFunction:
    """Import the function that `package.module:function` or `path/to/file.py:function` names.

    Modules are looked for in the working directory too, as `python -m` does.

    Raises:
        UserError: the module cannot be imported, or has no such function.
    """
    place, _, name = path.rpartition(":")
    if not place or not name:
        raise UserError(f"reward: got {path!r}, expected package.module:function or file.py:function")
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except (Exception, SystemExit) as error:  # whatever the user's module raises while it is imported
        raise UserError(f"reward: could not import {place!r}: {describe_user_error(error)}") from error
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
