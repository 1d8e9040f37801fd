"""The command line: `rlif train` and its companions; `COMMANDS` has them all but `train`.

Torch and transformers load only once a command runs, so that `--help` and a mistyped option are answered at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from rlif.demo.command import run_demo
from rlif.demo.options import DemoConfig
from rlif.diagnosis.command import run_diagnose
from rlif.diagnosis.options import DiagnoseConfig
from rlif.errors import UserError
from rlif.evaluation.command import run_eval
from rlif.evaluation.options import EvalConfig
from rlif.lab.command import run_lab
from rlif.lab.options import LabConfig
from rlif.mixing.command import run_mix
from rlif.mixing.options import MixConfig
from rlif.options.yaml_file import read_config
from rlif.plotting.command import plot
from rlif.plotting.options import PlotConfig
from rlif.rewards import REWARDS
from rlif.self_feedback.command import run_self_feedback
from rlif.self_feedback.options import SelfFeedbackConfig
from rlif.training.command import run_train
from rlif.training.options import TrainConfig

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NOBODY_READS = 141  # 128 + SIGPIPE, likewise

# Every command but `train`: its options, and what runs with them. A module of a command imports torch once it runs.
COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "plot": (PlotConfig, plot),
    "demo": (DemoConfig, run_demo),
    "lab": (LabConfig, run_lab),
    "diagnose": (DiagnoseConfig, run_diagnose),
    "mix": (MixConfig, run_mix),
    "eval": (EvalConfig, run_eval),
    "self-feedback": (SelfFeedbackConfig, run_self_feedback),
}

DESCRIPTION = """\
Train language models on their own confidence: reinforcement learning from internal feedback.

rlif train --help explains every option; rlif --version prints the versions of what is installed."""

REWARD_HELP = (
    "What to maximise. Repeat the option to add several rewards up, weighted (1 where no weight is given): "
    f"{', '.join(REWARDS)} (which needs gold answers); or a function of your own, package.module:function or "
    "file.py:function; or reward_model:DIRECTORY, as `rlif self-feedback train --objective reward_model` makes it."
)


@dataclasses.dataclass
class TrainCommand(TrainConfig):
    reward: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="NAME[=WEIGHT]", help=REWARD_HELP, help_behavior_hint="(default: self_certainty)"),
    ] = ()

    config: Path | None = None
    """YAML file with any of these options, such as an earlier run's config.yaml. The command line overrides it."""


TrainCommand.__doc__ = TrainConfig.__doc__


def main() -> None:
    """Entry point of `rlif`: exits with 0, with 2 on bad input, with 130 after Ctrl-C."""
    try:
        try:
            run(parse(sys.argv[1:]))
        except UserError as error:
            print(f"rlif: error: {error}", file=sys.stderr)
            sys.exit(BAD_INPUT)
        except KeyboardInterrupt as interrupt:
            print(f"rlif: {interrupt}" if interrupt.args else "rlif: interrupted, nothing saved", file=sys.stderr)
            sys.exit(INTERRUPTED)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `rlif --help | head`: what Python would write at its end has nowhere to go either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(NOBODY_READS)


def parse(words: Sequence[str]) -> Any:
    """The configuration that the words of a command line stand for: a TrainConfig, or one of `COMMANDS`.

    Raises:
        UserError: of the file that `--config` names.
        SystemExit: after `--help` and `--version`, and on words that stand for nothing.
    """
    if list(words) == ["--version"]:
        from rlif.files.versions import versions

        print(versions())
        sys.exit(0)
    from_file = read_config(path) if (path := _config_path(words)) is not None else {}
    defaults: dict[str, Any] = {"model": tyro.MISSING, "data": tyro.MISSING, **from_file, "reward": ()}
    commands: list[Any] = [Annotated[TrainCommand, tyro.conf.subcommand("train", default=TrainCommand(**defaults))]]
    commands += [Annotated[config, tyro.conf.subcommand(name)] for name, (config, _) in COMMANDS.items()]
    one_of: Any = Union[tuple(commands)]  # noqa: UP007 - the `|` of a list that is known only here
    command = tyro.cli(
        one_of,
        args=words,
        prog="rlif",
        description=DESCRIPTION,
        registry=_registry(),
    )
    if not isinstance(command, TrainCommand):
        return command
    settings = {field.name: getattr(command, field.name) for field in dataclasses.fields(TrainConfig)}
    if not command.reward:  # none on the command line; those that are replace the file's rather than join them
        settings["reward"] = from_file.get("reward", TrainConfig.reward)
    return TrainConfig(**settings)


def run(config: Any) -> None:
    """Run the command that the configuration stands for."""
    if type(config) is not PlotConfig:  # it draws what others computed
        import transformers

        # Its bars for loading and saving a model would break the lines of ours. Downloads keep theirs.
        transformers.utils.logging.disable_progress_bar()
    if isinstance(config, TrainConfig):
        run_train(config)
    else:
        next(function for kind, function in COMMANDS.values() if type(config) is kind)(config)


def _config_path(words: Sequence[str]) -> Path | None:
    """The file that `rlif train --config` names, which must be read before the other options have their defaults."""
    if not words or words[0] != "train":
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, nargs="?")
    return parser.parse_known_args(words)[0].config


def _registry() -> ConstructorRegistry:
    """How options are read, where that differs from tyro's way."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        """`X | None` looks like `X` in the help, rather than like `{None}|X`; the word None still means none."""
        if info.type_origin not in (Union, types.UnionType) or type(None) not in get_args(info.type):
            return None
        (kind,) = (option for option in get_args(info.type) if option is not type(None))
        spec = registry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
        assert isinstance(spec, PrimitiveConstructorSpec)
        return dataclasses.replace(
            spec,
            instance_from_str=lambda words: None if words == ["None"] else spec.instance_from_str(words),
            is_instance=lambda value: value is None or spec.is_instance(value),
            str_from_instance=lambda value: ["None"] if value is None else spec.str_from_instance(value),
        )

    return registry
