"""One of several processes that exchange bytes with each other, and count them: started by `benchmarks.scaling`.

    python -m benchmarks.scaling_ranks KIND RANK WORLD_SIZE DIRECTORY OPTIONS

They find each other through a file in DIRECTORY. Each prints what it measured as a line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from benchmarks.allocation import peak_allocated
from benchmarks.collectives import bytes_sent, payloads
from benchmarks.four_ops import naive_fields, objective
from benchmarks.training_step import Workload, make_model, make_prompts
from rlif_kernels import linear_grpo_loss, linear_token_stats

if TYPE_CHECKING:
    from rlif.rollouts.rollout import Rollout
    from rlif.training.options import TrainConfig


def vocabulary(options: dict[str, int]) -> dict[str, Any]:
    """A head whose rows are dealt to the processes: ours, and the logits gathered instead (forward alone)."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    tokens, hidden_size, columns = options["tokens"], options["hidden_size"], options["vocab_size"] // ranks
    hidden = torch.randn(tokens // 32, 32, hidden_size, generator=generator).requires_grad_()
    # Logits of standard deviation 2, as the other measurements have them.
    weight = torch.randn(columns, hidden_size, generator=generator.manual_seed(1 + rank)) * (2 / hidden_size**0.5)
    weight.requires_grad_()
    targets = torch.randint(options["vocab_size"], hidden.shape[:2], generator=generator.manual_seed(0))
    advantages = torch.randn(len(hidden), generator=generator)
    group, tile_bytes = dist.group.WORLD, options["tile_bytes"]

    def statistics() -> None:
        fields = linear_token_stats(hidden, weight, targets, group=group, tile_bytes=tile_bytes)[:3]
        objective(fields).backward()

    def loss() -> None:
        linear_grpo_loss(hidden, weight, targets, advantages, group=group, tile_bytes=tile_bytes).loss.backward()

    @torch.no_grad()
    def gathered() -> None:
        own = torch.nn.functional.linear(hidden, weight)
        slices = [torch.empty_like(own) for _ in range(ranks)]
        dist.all_gather(slices, own)
        objective(naive_fields(torch.cat(slices, dim=-1), targets))

    leaves = [hidden, weight]
    return {
        name: measured(function, leaves, options["rounds"])
        for name, function in (
            ("linear_token_stats", statistics),
            ("linear_grpo_loss", loss),
            ("gathered logits", gathered),
        )
    }


def measured(function: Callable[[], None], leaves: list[Tensor], rounds: int) -> dict[str, Any]:
    """Bytes exchanged by one call, bytes allocated beyond gradients, and processor seconds."""
    fresh(leaves)
    function()
    fresh(leaves)
    counted = exchanged(function)
    gradient_bytes = sum(leaf.grad.nbytes for leaf in leaves if leaf.grad is not None)
    fresh(leaves)
    extra = peak_allocated(function) - gradient_bytes
    seconds = []
    for _ in range(rounds):
        fresh(leaves)
        dist.barrier()
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    fresh(leaves)
    return {**counted, "extra_bytes": extra, "processor_seconds": median(seconds), "rounds": rounds}


def fresh(leaves: list[Tensor]) -> None:
    for leaf in leaves:
        leaf.grad = None


def exchanged(function: Callable[[], object]) -> dict[str, Any]:
    """Payload of each collective, and bytes that left through TCP."""
    dist.barrier()
    before = settled_bytes_sent()
    payload = payloads(function)
    return {"payload": payload, "sent_bytes": settled_bytes_sent() - before}


def settled_bytes_sent(seconds: float = 0.1) -> int:
    """What was sent once nothing is on its way any more: acknowledgements arrive a little later than their bytes."""
    sent = bytes_sent()
    while True:
        time.sleep(seconds)
        if (later := bytes_sent()) == sent:
            return sent
        sent = later


def training(options: dict[str, int], directory: Path) -> dict[str, Any]:
    """A step of training, by weights sharded and by weights copied."""
    config, workload = train_config(options, directory)
    rollout = own_rollout(config, workload)
    return {"sharded": sharded(config, rollout), "data parallel": data_parallel(config, rollout)}


def data_parallel(config: TrainConfig, rollout: Rollout) -> dict[str, Any]:
    """A step of `rlif train` under DDP: the third, since DDP takes stock of its buckets in the first two."""
    from rlif.training.progress import SilentProgress
    from rlif.training.setup import prepare
    from rlif.training.step import update

    # accelerate wants to be told what torch.distributed knows already.
    os.environ |= {"ACCELERATE_USE_CPU": "true", "LOCAL_RANK": str(dist.get_rank()), "MASTER_ADDR": "127.0.0.1"}
    run = prepare(config, SilentProgress())
    for step in (1, 2):
        update(run.learner, rollout, step, 1e-6)
    counted = exchanged(lambda: update(run.learner, rollout, 3, 1e-6))
    run.close()
    return counted | {"parameters": sum(p.numel() for p in run.learner.models.scorer.parameters())}


def sharded(config: TrainConfig, rollout: Rollout) -> dict[str, Any]:
    """Forward and backward of the policy with its weights sharded (FSDP2), layer by layer."""
    from rlif.models.fused_head import fused_head
    from rlif.models.language_model import load_language_model
    from rlif.scoring.scorer import LossInputs, Scorer

    model = load_language_model(config.model, device="cpu", dtype="float32").model
    scorer = Scorer(model, fused_head(model))
    in_layers = sum(p.numel() for layer in model.model.layers for p in layer.parameters())
    elsewhere = sum(p.numel() for p in model.parameters()) - in_layers
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(scorer)
    advantages = torch.linspace(-1, 1, len(rollout.texts))
    inputs = LossInputs(advantages, None, None, rollout.completion_mask, {"loss_type": "dapo"})

    def step() -> None:
        scorer(rollout, 1.0, loss=inputs).loss.backward()

    step()
    counted = exchanged(step)
    return counted | {"parameters_in_layers": in_layers, "parameters_elsewhere": elsewhere}


def train_config(options: dict[str, int], directory: Path) -> tuple[TrainConfig, Workload]:
    """A run of the loop on a random model in the directory, which the first process makes."""
    from rlif.training.options import TrainConfig

    workload = Workload(
        vocab_size=options["vocab_size"],
        hidden_size=options["hidden_size"],
        num_layers=2,
        prompts=max(2, dist.get_world_size()),  # each process wants one
        num_generations=4,
        max_completion_length=options["completion_length"],
        steps=1,
    )
    if dist.get_rank() == 0:
        make_model(workload, directory / "model")
        prompts = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in make_prompts(workload))
        (directory / "prompts.jsonl").write_text(prompts)
    dist.barrier()
    config = TrainConfig(
        model=str(directory / "model"),
        data=str(directory / "prompts.jsonl"),
        output_dir=directory / "run",
        max_steps=1,
        prompts_per_step=workload.prompts,
        num_generations=workload.num_generations,
        max_completion_length=workload.max_completion_length,
        beta=0.0,
        guard="off",
        device="cpu",
    )
    return config, workload


def own_rollout(config: TrainConfig, workload: Workload) -> Rollout:
    """Completions of all prompts, the same in every process: who learns from what does not change the bytes."""
    from rlif.data.prompts import read_prompts
    from rlif.models.language_model import load_language_model
    from rlif.rollouts.encode import encode_prompts
    from rlif.rollouts.sample import sample

    policy = load_language_model(config.model, device="cpu", dtype="float32")
    prompts = encode_prompts(policy, read_prompts(config.data), config.max_completion_length)
    return sample(
        policy,
        prompts,
        num_generations=workload.num_generations,
        max_completion_length=workload.max_completion_length,
        temperature=1.0,
        seeds=[(index,) for index in range(len(prompts))],
    )


def launch(kind: str, world_size: int, directory: Path, options: dict[str, int]) -> list[dict[str, Any]]:
    """Run that many processes; what each of them printed.

    Raises:
        RuntimeError: some of them failed; with the last line of each that did.
    """
    directory.mkdir(parents=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.scaling_ranks", kind),
                *(str(rank), str(world_size), str(directory), json.dumps(options)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(world_size)
    ]
    outputs = [process.communicate() for process in processes]
    failed = {
        rank: (error.strip().splitlines() or ["said nothing"])[-1]
        for rank, (process, (_, error)) in enumerate(zip(processes, outputs, strict=True))
        if process.returncode
    }
    if failed:
        raise RuntimeError("; ".join(f"process {rank} of {world_size}: {line}" for rank, line in failed.items()))
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


def main() -> None:
    kind, rank, world_size, directory, options = sys.argv[1:]
    torch.set_num_threads(1)
    # accelerate reads these as well.
    os.environ |= {"RANK": rank, "WORLD_SIZE": world_size}
    dist.init_process_group("gloo", f"file://{directory}/store", rank=int(rank), world_size=int(world_size))
    settings = json.loads(options)
    result = vocabulary(settings) if kind == "vocabulary" else training(settings, Path(directory))
    print(json.dumps(result))
    dist.barrier()  # who leaves early takes his connections with him
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
