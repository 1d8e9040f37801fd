"""Which of verl's functions are replaced, and how they are put back.

A function that other modules imported by name is bound in each of them, so that it is replaced in every module that
holds it, and put back in every module that holds the replacement. All is looked up and checked before anything is
replaced.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from rlif.integrations.supported import UnsupportedVersionError, require

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatchReport:
    """What `patch` did in this process.

    Attributes:
        version: of verl.
        replaced: the names that now stand for our functions, with their modules, in every module that had them.
        absent: parts of verl that cannot be imported here, and so are not replaced, with the package they lack.
    """

    version: str
    replaced: tuple[str, ...]
    absent: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"verl {self.version}: replaced", *(f"  {name}" for name in self.replaced)]
        lines += [f"  not {name}: {missing} is not installed" for name, missing in self.absent.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Replacement:
    owner: Any  # a module or a class
    name: str
    original: Any
    ours: Any

    def exchange(self, old: Any, new: Any) -> None:
        """Put `new` where `old` is: in the class, or in every module outside this package that has it by its name.

        What somebody else has put there since stays.
        """
        if not isinstance(self.owner, ModuleType):
            if vars(self.owner).get(self.name) is old:
                setattr(self.owner, self.name, new)
            return
        for module in list(sys.modules.values()):
            if not isinstance(module, ModuleType) or module.__name__.startswith(__package__):
                continue
            if vars(module).get(self.name) is old:
                setattr(module, self.name, new)


_applied: list[_Replacement] = []
_report: PatchReport | None = None


def patch() -> PatchReport:
    """Replace verl's functions in this process, register the advantage estimator `intuitor`, and say what was replaced.

    A second call changes nothing. An engine that was built before keeps the entropy function it was built with.

    Raises:
        UnsupportedVersionError: verl is missing or another release than the supported one, or its functions are not
            those of that release. Nothing is replaced then.
    """
    global _report
    if _report is not None:
        return _report
    version = require("verl")
    replacements, absent = _look_up()
    from rlif.integrations.verl import intuitor

    intuitor.register()
    for replacement in replacements:
        replacement.exchange(replacement.original, replacement.ours)
    _applied.extend(replacements)
    names = (f"{_qualified_name(each.owner)}.{each.name}" for each in replacements)
    _report = PatchReport(str(version), (*names, f'algorithm.adv_estimator="{intuitor.NAME}"'), absent)
    logger.warning("%s", _report)  # verl shows warnings only, and a run should say what it runs
    return _report


def unpatch() -> None:
    """Put verl's own functions back wherever ours are, also in modules imported since, and forget the estimator.

    Does nothing where nothing is patched.
    """
    global _report
    if _report is None:
        return
    from rlif.integrations.verl import intuitor

    intuitor.unregister()
    for replacement in _applied:
        replacement.exchange(replacement.ours, replacement.original)
    _applied.clear()
    _report = None


def _qualified_name(owner: Any) -> str:
    return owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"


def _look_up() -> tuple[list[_Replacement], dict[str, str]]:
    replacements, absent = [], {}
    for module_name, owner_name, name, replace in _targets():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as missing:
            if missing.name is None or missing.name.split(".")[0] == "verl":
                raise UnsupportedVersionError(f"verl has no {missing.name}: is its installation complete?") from missing
            absent[module_name] = missing.name
            continue
        owner = getattr(module, owner_name, None) if owner_name else module
        original = vars(owner).get(name) if owner is not None else None
        if original is None:
            raise UnsupportedVersionError(f"verl has no {module_name}.{owner_name or name}: was it changed?")
        ours = replace(original)
        if inspect.isfunction(original) and _parameters(original) != _parameters(ours):
            raise UnsupportedVersionError(
                f"verl's {module_name}.{name} takes {_parameters(original)}; expected {_parameters(ours)}: "
                "was it changed?"
            )
        replacements.append(_Replacement(owner, name, original, ours))
    return replacements, absent


def _parameters(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    return [(each.name, each.default) for each in inspect.signature(function, follow_wrapped=False).parameters.values()]


def _targets() -> Iterator[tuple[str, str | None, str, Callable[[Any], Any]]]:
    """Module, class if it is a method, name, and what makes ours from the original."""
    from rlif.integrations.verl import columns, functions, vocab_parallel

    def instead(ours: Any) -> Callable[[Any], Any]:
        return lambda original: ours

    plain, fused = "verl.utils.torch_functional", "verl.utils.experimental.torch_functional"
    for function in (
        functions.logprobs_from_logits,
        functions.entropy_from_logits,
        functions.entropy_from_logits_with_chunking,
        functions.calculate_sum_pi_squared_from_logits,
    ):
        yield plain, None, function.__name__, instead(function)
    yield fused, "FusedLinearForPPO", "forward", instead(functions.fused_linear_for_ppo_forward)
    yield (
        "verl.utils.kernel.linear_cross_entropy",
        None,
        "linear_cross_entropy",
        instead(functions.linear_cross_entropy),
    )
    for sharded in vocab_parallel.FUNCTIONS:
        yield "verl.utils.megatron.tensor_parallel", None, sharded.__name__, instead(sharded)
    engine = "verl.workers.engine.fsdp.transformer_impl"
    yield engine, "FSDPEngineWithLMHead", "forward_step", columns.recording_forward_step
    yield engine, "FSDPEngineWithLMHead", "prepare_model_outputs", columns.with_columns
    trainer = "verl.trainer.ppo.v1.trainer_base"
    yield trainer, "PPOTrainer", "_compute_old_log_prob", columns.asking
    yield trainer, "PPOTrainer", "_compute_advantage", columns.handing_over
    yield "verl.trainer.ppo.v1.utils", None, "compute_advantage_for_multi_trajectories", columns.with_squares
