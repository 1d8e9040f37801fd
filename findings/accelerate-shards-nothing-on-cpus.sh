#!/usr/bin/env bash
# One would guess: accelerate shards a model by FSDP2 on two CPU processes too, as torch's own `fully_shard` does over gloo,
# or says that it will not.
# What happens in accelerate 1.15.0: an FSDP plugin, given or by ACCELERATE_USE_FSDP, is dropped without a word where the
# processes have CPUs alone. The model is wrapped in DistributedDataParallel, every process has all of it, and the state has
# no plugin. Trainers that ask the state (transformers, TRL) then take their ways without FSDP.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy torch==2.13.0 accelerate==1.15.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import os
import sys
import warnings
from importlib.metadata import version

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def process(rank, port):
    warnings.simplefilter("error", UserWarning)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import fully_shard

    accelerator = Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2))
    model = accelerator.prepare(torch.nn.Linear(4, 6))
    sharded = torch.nn.Linear(4, 6)
    fully_shard(sharded)
    held = sum(each.numel() for each in model.parameters())
    by_torch = sum(each.to_local().numel() for each in sharded.parameters())
    if rank == 0:
        print("accelerate", version("accelerate"), "torch", version("torch"))
        print("kind of run:", accelerator.distributed_type, "| model:", type(model).__name__)
        print("plugin in the state:", getattr(accelerator.state, "fsdp_plugin", None))
        print("of 30 parameters this process holds", held, "and by torch's fully_shard", by_torch)
    assert held == 30 and type(model).__name__ == "DistributedDataParallel", "changed: it is sharded"
    assert by_torch == 15
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(process, args=(int(sys.argv[1]),), nprocs=2)
PY
"$work/venv/bin/python" "$work/look.py" $((20000 + RANDOM % 20000))
