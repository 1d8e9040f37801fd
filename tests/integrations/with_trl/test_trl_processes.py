"""`RLIFTrainer` in two processes under DDP: the groups are whole, and the steps are TRL's."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from trl import GRPOTrainer

import tiny_trl as tiny
from rlif.errors import UserError
from rlif.integrations.trl import RLIFTrainer, trl_reward
from rlif.rewards import uses


@uses()
def same_length(completions: list[str], num_generations: int) -> list[float]:
    """The share of the group that is as long."""
    rewards = []
    for place, text in enumerate(completions):
        start = place // num_generations * num_generations
        group = completions[start : start + num_generations]
        rewards.append(sum(len(other) == len(text) for other in group) / num_generations)
    return rewards


def train(rank: int, port: int, model_dir: Path, directory: Path) -> None:
    """One process of two: train with both trainers, and keep what came of it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    torch.set_num_threads(1)
    # A process has two of the four completions of each prompt.
    config = tiny.config(directory, per_device_train_batch_size=2, max_completion_length=24)
    reward = tiny.SelfCertainty()
    reward.trainer = stock = GRPOTrainer(str(model_dir), [same_length, reward], config, tiny.dataset())
    # Stock TRL hands a function its own process's part; this one reward of it is left out of the comparison.
    stock.reward_weights = torch.tensor([0.0, 1.0])
    stock.reward_funcs[0] = lambda completions, **kwargs: [0.0] * len(completions)
    expected = tiny.trained(stock)
    config.reward_weights = [0.0, 1.0]
    trainer = RLIFTrainer(
        str(model_dir), [same_length, "self_certainty"], config, tiny.dataset(), sampler="transformers"
    )
    found = {
        "weights": tiny.trained(trainer),
        "expected": expected,
        "completions": list(trainer._logs["completion"]),
        "rewards": list(trainer._logs["rewards"]["same_length"]),
        "source": trainer.stats_source,
        "num_processes": trainer.accelerator.num_processes,
    }
    torch.save(found, directory / f"{rank}.pt")


def test_two_processes_take_trls_steps_and_compare_whole_groups(model_dir: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = multiprocessing.get_context("forkserver")
    running = [processes.Process(target=train, args=(rank, port, model_dir, tmp_path)) for rank in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(150)
    assert [process.exitcode for process in running] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert (first["source"], first["num_processes"]) == ("sampling", 2)
    assert tiny.furthest(first["weights"], second["weights"]) == 0
    assert tiny.furthest(first["weights"], first["expected"]) <= 1e-5  # against steps of some 1e-2
    assert first["rewards"] == same_length(first["completions"], 4)
    assert first["rewards"] != [*same_length(first["completions"], 2)]  # what the parts by themselves would give


def test_a_reward_that_needs_whole_groups_of_statistics_says_so(model_dir: Path, tmp_path: Path) -> None:
    @uses("entropy")
    def surest(stats: object, num_generations: int) -> list[float]:
        raise AssertionError("is not to be called")

    trainer = RLIFTrainer(str(model_dir), surest, tiny.config(tmp_path), tiny.dataset())
    with pytest.raises(UserError, match=r"got 2 completions a process and 4 of a prompt, expected whole groups"):
        trl_reward(surest)._splits_groups(trainer, 2)
