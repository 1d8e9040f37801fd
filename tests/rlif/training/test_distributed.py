"""Two processes learn what one learns, up to the order of float sums, and leave one directory."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cells import slow_and_exhaustive
from rlif.data.prompts import read_prompts
from rlif.models.language_model import load_language_model
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring import scorer as scorer_module
from rlif.training import loop as trainer
from rlif.training.options import TrainConfig
from rlif.training.progress import SilentProgress
from rlif.training.setup import prepare
from rlif.training.step import update
from runs import MakeConfig, train
from tiny_models import TIMES


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(work: Callable[..., None], world_size: int, wrapper: str, *arguments: object) -> None:
    """Run the work in that many processes that find each other, as `accelerate launch` would start them."""
    processes = multiprocessing.get_context("forkserver")
    port = str(free_port())
    running = []
    for rank in range(world_size):
        environment = {}
        if world_size > 1:
            environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        running.append(processes.Process(target=work_in, args=(environment, wrapper, work, *arguments)))
        running[-1].start()
    for process in running:
        process.join(120)
    assert [process.exitcode for process in running] == [0] * world_size


def work_in(environment: dict[str, str], wrapper: str, work: Callable[..., None], *arguments: object) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    scorer_module.ATTENTION_COST = 0  # so that a model as small as this shares prompts
    if wrapper == "fsdp2" and environment:
        choose_fsdp()
    work(*arguments)


def choose_fsdp() -> None:
    """Let accelerate shard on the CPU, where left to itself it takes DDP even when it is told to."""
    Accelerator(cpu=True, mixed_precision="no")
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}


def learn(config: TrainConfig, rollout: Rollout, results: Path) -> None:
    """Learn twice from this process's share of the rollout, and let the first process note what came of it."""
    run = prepare(config, SilentProgress())
    accelerator = run.learner.accelerator
    groups = range(accelerator.process_index, len(rollout.texts) // config.num_generations, accelerator.num_processes)
    rows = [group * config.num_generations + i for group in groups for i in range(config.num_generations)]
    metrics = [update(run.learner, rollout.select(rows), step, 1e-3) for step in (1, 2)]
    saved = run.save_model()
    run.save_checkpoint()
    run.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        results.mkdir()
        weights = load_file(next(saved.glob("*model.safetensors")))
        save_file(weights, results / "weights.safetensors")
        optimizer = load_file(run.path / "checkpoint-0" / "optimizer.safetensors")
        save_file(optimizer, results / "optimizer.safetensors")
        (results / "metrics.json").write_text(json.dumps(metrics))
        (results / "scorer").write_text(type(run.learner.models.scorer).__name__)
    accelerator.end_training()


def shared_rollout(config: TrainConfig) -> Rollout:
    """Three prompts: two for one process, one for the other."""
    language_model = load_language_model(config.model, device="cpu", dtype="float32")
    return sample(
        language_model,
        encode_prompts(language_model, read_prompts(config.data), config.max_completion_length)[:3],
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        seeds=[(0,), (1,), (2,)],
    )


CASES = {
    "one forward": {},
    "three updates, every term": {
        "num_iterations": 3,
        "loss_type": "grpo",
        "entropy_coef": 0.1,
        "self_certainty_coef": 0.1,
        "mask_truncated_completions": True,
    },
    "small parts, scaled by the batch": {"max_tokens_per_forward": 20, "scale_rewards": "batch", "loss_type": "bnpo"},
    "rewards known beforehand": {"reward": ("random",), "beta": 0.0, "loss_type": "dr_grpo"},
    "lora": {"lora_rank": 4, "gradient_checkpointing": True},
}


# What a case adds is rlif's own, and a wrapper sees one module like another.
@pytest.mark.parametrize(
    ("case", "wrapper"),
    slow_and_exhaustive(
        CASES,
        ("ddp", "fsdp2"),
        slow=(
            ("one forward", "fsdp2"),
            ("three updates, every term", "ddp"),
            ("small parts, scaled by the batch", "fsdp2"),
            ("rewards known beforehand", "ddp"),
            ("lora", "fsdp2"),
        ),
    ),
)
def test_two_processes_learn_what_one_learns(case: str, wrapper: str, make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(**CASES[case])
    rollout = shared_rollout(config)
    learn(replace(config, output_dir=tmp_path / "run-one"), rollout, tmp_path / "one")
    launch(learn, 2, wrapper, replace(config, output_dir=tmp_path / "run-two"), rollout, tmp_path / "two")
    expected = {"ddp": "DistributedDataParallel", "fsdp2": "FSDPScorer"}[wrapper]
    assert (tmp_path / "two" / "scorer").read_text() == expected
    for file in ("weights.safetensors", "optimizer.safetensors"):
        alone, together = (load_file(tmp_path / name / file) for name in ("one", "two"))
        assert alone.keys() == together.keys()
        for key in alone:
            # AdamW divides each gradient by its own size, so that a gradient near 0, all rounding, may move a weight by
            # a whole learning rate, 1e-3, either way: hence the share that may differ.
            close = torch.isclose(alone[key], together[key], atol=1e-5, rtol=1e-3)
            assert close.float().mean() > 0.99, key
    alone, together = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    for ours, theirs in zip(alone, together, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3, abs=1e-5), name


# Continuous batching takes the weights where they are whole; without it FSDP is tried below.
@pytest.mark.parametrize(
    ("paged", "wrapper"), slow_and_exhaustive((False, True), ("ddp", "fsdp2"), slow=((False, "ddp"), (True, "fsdp2")))
)
def test_a_run_of_two_processes_leaves_one_directory_and_resumes(
    paged: bool, wrapper: str, make_config: MakeConfig
) -> None:
    config = make_config(max_steps=4, save_steps=2, eval_steps=2, use_transformers_continuous_batching=paged)
    config = replace(config, eval_data=config.data)
    launch(train, 2, wrapper, config)
    rows = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert all(math.isfinite(row["eval/accuracy"]) for row in rows[::2])
    assert sorted(path.name for path in config.output_dir.iterdir()) == [
        "checkpoint-2",
        "checkpoint-4",
        "config.yaml",
        "metrics.jsonl",
        "model",
        "samples.jsonl",
    ]
    AutoModelForCausalLM.from_pretrained(config.output_dir / "model")

    finished = load_file(config.output_dir / "model" / "model.safetensors")
    shutil.rmtree(config.output_dir / "checkpoint-4")
    launch(train, 2, wrapper, replace(config, resume=True))
    resumed = load_file(config.output_dir / "model" / "model.safetensors")
    assert all(torch.equal(finished[name], resumed[name]) for name in finished)


@pytest.mark.parametrize(
    "launcher",
    [pytest.param("accelerate", marks=pytest.mark.slow), pytest.param("torchrun", marks=pytest.mark.exhaustive)],
)
def test_the_launchers_of_accelerate_and_torch_train_with_two_processes(launcher: str, make_config: MakeConfig) -> None:
    config = make_config()
    words = ["--model", config.model, "--data", str(config.data), "--output-dir", str(config.output_dir)]
    words += ["--device", "cpu"]
    words += ["--max-steps", "2", "--prompts-per-step", "3", "--num-generations", "4", "--max-completion-length", "6"]
    command = {
        # On a machine without GPUs, --multi_gpu is how accelerate is told to start processes.
        "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
        "torchrun": ["torch.distributed.run", "--nproc-per-node", "2"],
    }[launcher]
    port = ["--main_process_port" if launcher == "accelerate" else "--master-port", str(free_port())]
    command = [sys.executable, "-m", *command, *port, "-m", "rlif", "train", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps done") == 1
    # The evaluation before the first step, which the guard asks for, and two steps.
    assert len((config.output_dir / "metrics.jsonl").read_text().splitlines()) == 3
    assert done.stderr.count("step 2/2") == 1


def evaluated_samples(run: Path) -> list[dict[str, object]]:
    """What a run has of the samples of its evaluations, but for rounded numbers; of a step each process has its own."""
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if name != "tokens"} for row in rows if row["split"] == "eval"]


def train_noting_completions(config: TrainConfig, notes: Path) -> None:
    """Train, and note what this process sampled in each step."""
    sample = trainer.sample
    steps: list[list[str]] = []

    def noted(*args: Any, **settings: Any) -> Rollout:
        rollout = sample(*args, **settings)
        steps.append(rollout.texts)
        return rollout

    trainer.sample = noted
    train(config)
    notes.mkdir(exist_ok=True)
    (notes / os.environ.get("RANK", "0")).write_text(json.dumps(steps))


@pytest.mark.parametrize("wrapper", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_two_processes_sample_and_learn_what_one_does(wrapper: str, make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(max_completion_length=12, max_steps=2)
    config = replace(config, eval_data=config.data)
    for name, world_size in (("one", 1), ("two", 2)):
        run = replace(config, output_dir=tmp_path / f"run-{name}")
        launch(train_noting_completions, world_size, wrapper, run, tmp_path / name)
    alone = json.loads((tmp_path / "one" / "0").read_text())
    first, second = (json.loads((tmp_path / "two" / rank).read_text()) for rank in ("0", "1"))
    assert len(alone) == 2
    for texts, even, odd in zip(alone, first, second, strict=True):
        # The three prompts of a step go around the processes, four completions each.
        assert texts == even[:4] + odd + even[4:]
    assert alone[0] != alone[1]

    one, two = tmp_path / "run-one", tmp_path / "run-two"
    ours, theirs = map(evaluated_samples, (one, two))
    assert ours == theirs
    assert len(ours) == 3 * 6
    weights, same = (load_file(run / "model" / "model.safetensors") for run in (one, two))
    assert weights.keys() == same.keys()
    for key in weights:
        # The share that may differ: see the test of what two processes learn from one rollout.
        close = torch.isclose(weights[key], same[key], atol=1e-5, rtol=1e-3)
        assert close.float().mean() > 0.99, key
    rows, others = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)
    )
    for ours, theirs in zip(rows, others, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - TIMES:
            # Float order, in float32 sums over a hundred tokens.
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_two_processes_verify_and_learn_what_one_does(wrapper: str, make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        verify=True, verify_template="{prompt}{completion}\n=", verify_ratings=("1", "2", "3"), verify_share=1.0,
        verify_labels="majority", answer_style="lenient", max_completion_length=12, scale_rewards="batch",
        num_generations=16,  # of which some state the same answer
    )  # fmt: skip
    for name, world_size in (("one", 1), ("two", 2)):
        launch(train, world_size, wrapper, replace(config, output_dir=tmp_path / name))
    rows, others = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert sum(row["verify/prompts"] for row in rows) > 0
    for ours, theirs in zip(rows, others, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - TIMES:
            # Float order, in float32 sums over a hundred tokens.
            if ours[name] is None:  # of a step without a rating
                assert theirs[name] is None
                continue
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3, abs=1e-5), name
