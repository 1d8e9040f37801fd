"""A reward function is told what it asks for by name, and says with `uses` what else it needs. Loads no torch."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from rlif.errors import UserError

# How several rewards become one.
Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]
RewardFunction = Callable[..., Any]
F = TypeVar("F", bound=RewardFunction)

# The keyword arguments of a reward function of n completions of at most T tokens, those of one prompt side by side.
# A function gets the ones that it names, or all of them if it has `**kwargs`. They are the loop's own: to be read only.
INPUTS = {
    "prompts": "list of n str, each prompt repeated for every completion of it",
    "completions": "list of n str, without special tokens",
    "prompt_ids": "(n, P) int64 tensor, padded on the left",
    "prompt_mask": "(n, P) bool tensor, False on padding",
    "completion_ids": "(n, T) int64 tensor, padded on the right",
    "completion_mask": "(n, T) bool tensor: True up to and including the EOS",
    "stats": "rlif_kernels.TokenStats of detached (n, T) float32 tensors in nats, 0 outside the mask",
    "stated": "list of n final answers that the completions state (rlif.answers.extract.Stated), None for none",
    "answers": "list of n gold answers, a tuple where any of several is right, None where the data has none",
    "finished": "(n,) bool tensor: False for a completion that was cut off",
    "num_generations": "int, the completions of one prompt",
    "tokenizer": "the tokenizer of transformers that made the ids",
    "step": "int, the training step, counted from 1",
    "seed": "int, the run's",
}

REWARD_OUTPUTS = ("logprob", "entropy", "self_certainty")


@dataclass(frozen=True)
class Reward:
    """One reward of a mixture.

    Attributes:
        name: of the metric `reward/NAME`.
        function: takes a selection of `INPUTS` as keyword arguments and returns n numbers, or None where it does not
            apply.
        weight: of its values in the sum.
        outputs: the fields of `TokenStats` that it reads.
        needs_answers: whether every training prompt must have a gold answer.
        rewards_form: whether all get the same that do not end with the tags of `rlif.answers.tags`.
    """

    name: str
    function: RewardFunction
    weight: float = 1.0
    outputs: tuple[str, ...] = ()
    needs_answers: bool = False
    rewards_form: bool = False

    @property
    def reads_answers(self) -> bool:
        """Whether gold answers have a part in it, be they needed or not."""
        return self.needs_answers or "answers" in inspect.signature(self.function).parameters

    @property
    def reads_stated(self) -> bool:
        """Whether it names the answers that completions state: where none states one, it has nothing to compare."""
        return "stated" in inspect.signature(self.function).parameters

    def arguments(self, inputs: Mapping[str, object]) -> dict[str, object]:
        """Select the inputs that the function takes."""
        parameters = inspect.signature(self.function).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return dict(inputs)
        return {parameter.name: inputs[parameter.name] for parameter in parameters if parameter.name in inputs}


def uses(*outputs: str, answers: bool = False, form: bool = False) -> Callable[[F], F]:
    """Decorator of a reward function: which fields of `TokenStats` it reads, whether it needs gold answers or a form.

    Without it a function that takes `stats` gets `logprob`, `entropy` and `self_certainty`; the forward computes other
    fields (`varentropy`, `top_probs`, `sum_sq_probs`, `logsumexp`) only for a reward that says so.
    """

    def mark(function: F) -> F:
        function.outputs = outputs  # type: ignore[attr-defined]
        function.needs_answers = answers  # type: ignore[attr-defined]
        function.rewards_form = form  # type: ignore[attr-defined]
        return function

    return mark


def describe_reward(name: str, function: RewardFunction, weight: float) -> Reward:
    """Read off a function what reward it is: by its signature, and by what `uses` says of it.

    Raises:
        UserError: the function requires an argument that there is not, or it cannot be called with keywords.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise UserError(f"reward: {name} has no signature to call it by: {error}") from error
    known = ", ".join(INPUTS)
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UserError(f"reward: {name} takes {parameter.name!r} by position only, expected keyword arguments")
        if parameter.default is parameter.empty and parameter.name not in INPUTS:
            raise UserError(f"reward: {name} requires the argument {parameter.name!r}, expected some of {known}")
    takes_stats = any(parameter.name == "stats" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    outputs = getattr(function, "outputs", REWARD_OUTPUTS if takes_stats else ())
    needs_answers, rewards_form = (bool(getattr(function, mark, False)) for mark in ("needs_answers", "rewards_form"))
    return Reward(name, function, weight, tuple(outputs), needs_answers, rewards_form)


def describe_user_error(error: BaseException) -> str:
    """Write an error of the user's code in one line, with the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
