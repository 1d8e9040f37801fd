"""Suite `shared-prompts`: an update where completions share their prompt, and one where each has its own, in turns.

Both update the same model from the same made-up rollout, in one process, one after the other. The random model shows
how the time grows with the size of a group and with the prompt; with `--model DIRECTORY` that model is measured too,
with prompts of 160 tokens and groups of 8 completions of 64. Memory is of one update in a process of its own for each.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import in_fresh_process, peak_bytes
from benchmarks.runner import Options, Step
from benchmarks.steps.workload import SIZES, save_model
from benchmarks.timing import quartiles, rotated
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.rewards import load_rewards
from rlif.rollouts.rollout import Rollout
from rlif.scoring.scorer import Scorer
from rlif.scoring.sequences import as_rollout
from rlif.training.distributed import make_accelerator
from rlif.training.learner import Learner, make_learner
from rlif.training.options import TrainConfig
from rlif.training.step import update

# Whether completions share their prompts, by the name of the arm.
ARMS = {"shared": True, "separate": False}


@dataclasses.dataclass(frozen=True)
class Shape:
    """What an update is measured on."""

    prompt_length: int
    completion_length: int
    num_generations: int
    prompts: int
    model: str | None = None
    """A directory; None: the random model."""
    size: str = "full"
    """Of the random model, in `SIZES`."""
    gradient_checkpointing: bool = False


# Prompts of the random model's steps, as elsewhere; then the growth with the group, and with the prompt.
GENERATIONS, PROMPT_LENGTHS = (2, 4, 8, 16, 32), (16, 160, 640)
SHAPES = {
    "full": [
        Shape(24, 64, 8, prompts=8),
        *(Shape(prompt, 64, size, prompts=1) for prompt in PROMPT_LENGTHS for size in GENERATIONS),
    ],
    "quick": [Shape(16, 24, 4, prompts=4, size="quick"), Shape(80, 24, 4, prompts=4, size="quick")],
    "tiny": [Shape(4, 3, 2, prompts=2, size="tiny")],
}
ROUNDS = {"full": 5, "quick": 3, "tiny": 1}


def steps(options: Options) -> list[Step]:
    """One for each shape; that of the given model first."""
    shapes = list(SHAPES[options.size])
    if options.model is not None:
        given = Shape(160, 64, 8, prompts=1, model=str(options.model))
        pairs = dataclasses.replace(given, num_generations=2, prompts=4)  # as many tokens as four pairs of DPO have
        shapes = [given, dataclasses.replace(given, gradient_checkpointing=True), pairs, *shapes]
    rounds = ROUNDS[options.size] * options.repeats
    return [Step(describe(shape), 60, partial(add_shape, shape, rounds)) for shape in shapes]


def describe(shape: Shape) -> str:
    """Say the shape in a few words."""
    sizes = f"P = {shape.prompt_length}, T = {shape.completion_length}, G = {shape.num_generations}"
    name = "the random model" if shape.model is None else Path(shape.model).name
    again = ", gradient checkpointing" if shape.gradient_checkpointing else ""
    return f"{shape.prompts} x ({sizes}), {name}{again}"


def add_shape(shape: Shape, rounds: int, results: dict[str, Any]) -> str:
    """Measure one shape, and add it to the entries."""
    name = None if shape.model is None else Path(shape.model).name
    entry: dict[str, Any] = {"shape": dataclasses.asdict(shape) | {"model": name}}
    entry |= in_fresh_process(time_updates, shape, rounds)
    entry["peak_bytes"] = {arm: in_fresh_process(peak_of_update, shape, arm) for arm in ARMS}
    pairs = zip(entry["seconds"]["separate"], entry["seconds"]["shared"], strict=True)
    entry["speedup"] = dict(zip(("low", "median", "high"), quartiles([a / b for a, b in pairs]), strict=True))
    results["entries"].append(entry)
    memory = entry["peak_bytes"]["shared"] / entry["peak_bytes"]["separate"]
    tokens = entry["tokens"]["shared"] / entry["tokens"]["separate"]
    return f"{entry['speedup']['median']:.2f}x, tokens {tokens:.3f}, memory {memory:.2f}"


def time_updates(shape: Shape, rounds: int) -> dict[str, Any]:
    """Update in both ways in turns: seconds of each update, and the tokens that the first layer saw in one."""
    with tempfile.TemporaryDirectory() as scratch:
        learner, rollout = prepare(shape, Path(scratch))
        seen: list[int] = []
        embeddings = learner.models.language_model.model.get_input_embeddings()
        hook = embeddings.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel()))
        tokens: dict[str, int] = {}
        seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for arm in ARMS:
            seen.clear()
            set_sharing(learner, ARMS[arm])
            update(learner, rollout, 1, 0.0)
            tokens[arm] = sum(seen)
        hook.remove()
        for turn in range(rounds):
            for arm in rotated(ARMS, turn):
                set_sharing(learner, ARMS[arm])
                started = time.perf_counter()
                update(learner, rollout, 1, 0.0)
                seconds[arm].append(time.perf_counter() - started)
    return {"tokens": tokens, "seconds": seconds}


def peak_of_update(shape: Shape, arm: str) -> int:
    """Bytes of a process that has made two updates: the second has the optimizer's state beside its activations."""
    with tempfile.TemporaryDirectory() as scratch:
        learner, rollout = prepare(shape, Path(scratch))
        set_sharing(learner, ARMS[arm])
        for _ in range(2):
            update(learner, rollout, 1, 0.0)
        return peak_bytes()


def prepare(shape: Shape, scratch: Path) -> tuple[Learner, Rollout]:
    """A learner as `rlif train` makes it, on self-certainty, and completions of random tokens."""
    model = shape.model
    if model is None:
        work = dataclasses.replace(SIZES[shape.size], prompt_length=shape.prompt_length)
        save_model(work, scratch)
        model = str(scratch)
    config = TrainConfig(
        model=model,
        data="none",
        reward=("self_certainty",),
        num_generations=shape.num_generations,
        max_completion_length=shape.completion_length,
        beta=0.0,  # the policy alone: the start model has no update
        gradient_checkpointing=shape.gradient_checkpointing,
        guard="off",
        device="cpu",
    )
    start = load_language_model(model, device="cpu", dtype=config.dtype)
    rewards = load_rewards(config.reward, seed=0)
    learner = make_learner(config, make_accelerator("cpu", (), scratch), start, rewards, need_start_model=False)
    return learner, made_up(start, shape)


def set_sharing(learner: Learner, share_prompts: bool) -> None:
    """Let the learner's scorer compute a prompt once, or once for each completion."""
    scorer = learner.models.scorer
    assert isinstance(scorer, Scorer)
    scorer.share_prompts = float(share_prompts)


def made_up(language_model: LanguageModel, shape: Shape) -> Rollout:
    """A rollout of random tokens."""
    draw = torch.Generator().manual_seed(0)
    vocabulary = language_model.model.get_input_embeddings().num_embeddings

    def tokens(count: int, length: int) -> list[list[int]]:
        return torch.randint(3, vocabulary, (count, length), generator=draw).tolist()

    size = shape.num_generations
    prompts = [ids for ids in tokens(shape.prompts, shape.prompt_length) for _ in range(size)]
    completions = tokens(shape.prompts * size, shape.completion_length)
    return dataclasses.replace(as_rollout(language_model, prompts, completions), num_generations=size)
