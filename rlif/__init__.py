"""Reinforcement learning from internal feedback: train, diagnose and evaluate language models by their own confidence.

    import rlif

    rlif.train(rlif.TrainConfig(model="DIR_OR_HUB_ID", data="prompts.jsonl", max_steps=50))

Each name loads what it needs when it is first used: `import rlif` alone loads neither torch nor transformers.

Training and what comes before and after it:
    TrainConfig             every option of a training run; those of `rlif train`
    train                   train a model as a TrainConfig says
    TrainResult             where a run is, and how it ended
    diagnose                say before any training whether a reward is likely to help a model
    mix                     write the weighted mean of two models' weights
    read_completions        completions of a file that `rlif eval` wrote, or of one like it
    evaluate_completions    accuracy, voting, best-of-N by confidence and calibration of completions
    report                  one HTML page of what runs did, with the guard's decisions and coloured completions

Models, prompts and completions:
    load_language_model     a causal language model with its tokenizer
    LanguageModel           what that returns
    read_prompts            prompts and gold answers of a file, a directory or a hub dataset
    encode_prompts          prompts as tokens
    sample                  completions of encoded prompts, with their statistics
    Rollout                 what that returns
    token_confidence        how sure a model was of each token of a completion in it
    heat_map                that as HTML, the colour of each token saying it

Rewards:
    REWARDS                 the built-in rewards by name
    uses                    decorator of a reward of one's own: what it wants to see
    load_rewards            the mixture that names and weights stand for

Errors:
    UserError               bad input: the argument, what came, what was expected
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlif.extras import advice

if TYPE_CHECKING:
    from rlif.data.prompts import read_prompts
    from rlif.diagnosis.diagnose import diagnose
    from rlif.errors import UserError
    from rlif.evaluation.completions import read_completions
    from rlif.evaluation.measure import evaluate_completions
    from rlif.mixing.mix import mix
    from rlif.models.language_model import LanguageModel, load_language_model
    from rlif.plots.heat_map import heat_map
    from rlif.reporting.report import report
    from rlif.rewards import REWARDS, load_rewards, uses
    from rlif.rollouts.encode import encode_prompts
    from rlif.rollouts.rollout import Rollout
    from rlif.rollouts.sample import sample
    from rlif.scoring.token_confidence import token_confidence
    from rlif.training.loop import TrainResult, train
    from rlif.training.options import TrainConfig
    from rlif_kernels import __version__ as __version__

__all__ = [
    "REWARDS",
    "LanguageModel",
    "Rollout",
    "TrainConfig",
    "TrainResult",
    "UserError",
    "diagnose",
    "encode_prompts",
    "evaluate_completions",
    "heat_map",
    "load_language_model",
    "load_rewards",
    "mix",
    "read_completions",
    "read_prompts",
    "report",
    "sample",
    "token_confidence",
    "train",
    "uses",
]

# Where each name comes from, as above for type checkers.
_MODULES = {
    "rlif.data.prompts": ("read_prompts",),
    "rlif.diagnosis.diagnose": ("diagnose",),
    "rlif.errors": ("UserError",),
    "rlif.evaluation.completions": ("read_completions",),
    "rlif.evaluation.measure": ("evaluate_completions",),
    "rlif.mixing.mix": ("mix",),
    "rlif.models.language_model": ("LanguageModel", "load_language_model"),
    "rlif.plots.heat_map": ("heat_map",),
    "rlif.reporting.report": ("report",),
    "rlif.rewards": ("REWARDS", "load_rewards", "uses"),
    "rlif.rollouts.encode": ("encode_prompts",),
    "rlif.rollouts.rollout": ("Rollout",),
    "rlif.rollouts.sample": ("sample",),
    "rlif.scoring.token_confidence": ("token_confidence",),
    "rlif.training.loop": ("TrainResult", "train"),
    "rlif.training.options": ("TrainConfig",),
    "rlif_kernels": ("__version__",),
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    for module, names in _MODULES.items():
        if name in names:
            try:
                value = globals()[name] = getattr(import_module(module), name)
            except ModuleNotFoundError as error:
                if (hint := advice(error)) is None:
                    raise
                raise ModuleNotFoundError(hint, name=error.name) from error
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
