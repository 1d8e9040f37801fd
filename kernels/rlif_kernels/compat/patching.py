"""Replace a trainer's functions in place, and compare them with the trainer's own on the first batch.

A function that other modules imported by name is bound in each of them: it is replaced wherever it is found, and put
back wherever the replacement is.
"""

import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlif_kernels.compat import functions

logger = logging.getLogger("rlif_kernels.compat")

Function = Callable[..., Any]

Empty = inspect.Parameter.empty
OURS = f"{__name__.rpartition('.compat.')[0]}."  # of this package, or of its copy under another name


class Package(NamedTuple):
    """A package whose functions can be replaced."""

    distribution: str
    versions: tuple[str, ...]
    """How the versions begin that the functions were compared with."""
    functions: dict[str, tuple[str, ...]]
    """The names to replace, by the module that defines them."""


PACKAGES = {
    "trl": Package(
        "trl",
        ("1.16.",),
        {
            "trl.trainer.utils": (
                "selective_log_softmax", "entropy_from_logits", "selective_log_softmax_and_entropy",
            )
        },
    ),
    # Its trainers take them from the TRL beside it, an older one.
    "ms-swift": Package("ms-swift", ("4.6.",), {"trl.trainer.utils": ("selective_log_softmax", "entropy_from_logits")}),
    "openrlhf": Package(
        "openrlhf", ("0.11.",), {"openrlhf.models.utils": ("log_probs_from_logits", "compute_entropy")}
    ),
    "torchtitan": Package("torchtitan", ("0.3.",), {"torchtitan.components.loss": ("compute_logprobs",)}),
    "torchtune": Package("torchtune", ("0.6.",), {"torchtune.rlhf.sequence_processing": ("logits_to_logprobs",)}),
}  # fmt: skip

# How an argument is copied for a function whose own does not begin with the same tensor.
COPIES: dict[str, Callable[[Tensor], Tensor]] = {"compute_entropy": functions.divided_as_read}
# Rounding of float32, of sums over a vocabulary in another order, and of a result of half precision.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}


class Patch:
    """What `patch` replaced, until `undo` or the end of a `with`."""

    def __init__(self, name: str) -> None:
        """Look everything up, and replace it if all is as expected."""
        package = PACKAGES[name]
        self.name, self.version = name, _supported(name, package)
        self.replaced: dict[str, tuple[Function, Function]] = {}
        """By name, the package's own function and ours."""
        self.compared: dict[str, float] = {}
        """By name, the largest difference of the first batch, over the size of the values or 1."""
        for module_name, names in package.functions.items():
            module = importlib.import_module(module_name)
            for each in names:
                original, ours = getattr(module, each, None), getattr(functions, each)
                if not callable(original) or not _takes(ours, _parameters(original)):
                    raise ImportError(
                        f"{module_name}.{each} takes {_parameters(original)}; expected {_parameters(ours)}, as of "
                        f"{name} {package.versions[0]}*"
                    )
                self.replaced[each] = original, self._checked(each, original, ours)
        for original, ours in self.replaced.values():
            _exchange(original, ours)
        logger.info("%s %s: replaced %s", name, self.version, ", ".join(self.replaced))

    def undo(self) -> None:
        """Put the package's own functions back, wherever ours are by now."""
        for original, ours in self.replaced.values():
            _exchange(ours, original)
        self.replaced = {}

    def __enter__(self) -> "Patch":
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()

    def _checked(self, name: str, original: Function, ours: Function) -> Function:
        """Ours, which is compared with the original on its first call; where they differ, the originals come back."""

        @functools.wraps(original)
        def function(*args: Any, **kwargs: Any) -> Any:
            if name in self.compared:
                return ours(*args, **kwargs)
            with torch.no_grad():
                # Of copies: an original may change its arguments.
                copied = COPIES.get(name, torch.clone)
                copies = [copied(each) if isinstance(each, Tensor) else each for each in args]
                named = {key: copied(each) if isinstance(each, Tensor) else each for key, each in kwargs.items()}
                expected = original(*copies, **named)
            result = ours(*args, **kwargs)
            difference, bound = _difference(result, expected)
            self.compared[name] = difference
            if difference <= bound:
                logger.info("%s.%s, first batch: fused against eager %.1e", self.name, name, difference)
                return result
            logger.error(
                "%s.%s, first batch: fused against eager %.1e, expected at most %.1e; its own functions are back",
                self.name, name, difference, bound,
            )  # fmt: skip
            self.undo()
            return original(*args, **kwargs)

        return function


def patch(name: str) -> Patch:
    """Replace the functions of a trainer's package by ours, in this process.

    The first call of each is compared with the package's own function on the same batch, and the difference is logged;
    where it is more than rounding, the package's own functions are put back.

    Args:
        name: "trl", "ms-swift", "openrlhf", "torchtitan" or "torchtune".

    Returns:
        what undoes it: by `.undo()`, or at the end of a `with`.

    Raises:
        ValueError: another name.
        ImportError: the package is not installed, is of another version, or its functions take other arguments.
    """
    if name not in PACKAGES:
        raise ValueError(f"name is {name!r}; expected one of {tuple(PACKAGES)}")
    return Patch(name)


def _supported(name: str, package: Package) -> str:
    try:
        found = version(package.distribution)
    except PackageNotFoundError:
        raise ImportError(f"{package.distribution} is not installed: patch({name!r}) has nothing to replace") from None
    if not found.startswith(package.versions):
        expected = " or ".join(f"{each}*" for each in package.versions)
        raise ImportError(f"{package.distribution} is {found}; expected {expected}, whose functions were compared")
    return found


def _parameters(function: Any) -> list[tuple[str, Any]]:
    if not callable(function):
        return []
    return [(each.name, each.default) for each in inspect.signature(function).parameters.values()]


def _takes(function: Function, parameters: list[tuple[str, Any]]) -> bool:
    """Tell whether a function takes these, and nothing more that it has to be given: an older one's are fewer."""
    own = _parameters(function)
    more = own[len(parameters) :]
    return bool(parameters) and own[: len(parameters)] == parameters and all(each[1] is not Empty for each in more)


def _exchange(old: Function, new: Function) -> None:
    """Put `new` where `old` is, in every module outside this package that has it by a name."""
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType) or f"{module.__name__}.".startswith(OURS):
            continue
        for name in [name for name, value in vars(module).items() if value is old]:
            setattr(module, name, new)


def _difference(result: Any, expected: Any) -> tuple[float, float]:
    """The largest difference of two results, and what their rounding allows."""
    pairs = zip(_tensors(result), _tensors(expected), strict=True)
    largest, bound = 0.0, 0.0
    for mine, theirs in pairs:
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            return float("inf"), 0.0
        mine, theirs = mine.detach().double(), theirs.detach().double()
        same = (mine == theirs) | (mine.isnan() & theirs.isnan())
        distance = ((mine - theirs).abs() / theirs.abs().clamp(min=1)).masked_fill(same, 0)
        largest = max(largest, distance.nan_to_num(nan=float("inf")).max().item() if distance.numel() else 0.0)
    for mine in _tensors(result):
        bound = max(bound, TOLERANCES.get(mine.dtype, 0.0))
    return largest, bound


def _tensors(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]
