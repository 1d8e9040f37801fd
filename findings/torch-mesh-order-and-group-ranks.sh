#!/usr/bin/env bash
# One would guess that a DTensor on a mesh whose ranks do not ascend, DeviceMesh("cpu", [1, 0]), is what it is on any mesh:
# to shard a replicated tensor and to gather it again gives the tensor, and the process with shard i is the i-th of the
# process group of its dimension of the mesh.
# What happens in torch 2.13.0: a replicated tensor is cut by the process's place in the mesh, and gathered by its rank in
# the group, which counts by global rank. The whole comes back with its parts exchanged, and no error says so. Code that
# takes the group of a DTensor from its mesh has to refuse such a mesh, or to compare mesh.get_coordinate() with
# dist.get_rank(mesh.get_group()), which is also what mesh.get_local_rank() returns.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.0 torch==2.13.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor


def look(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for ranks in ([0, 1], [1, 0]):
        mesh = DeviceMesh("cpu", ranks)
        replicated = distribute_tensor(torch.arange(4), mesh, [Replicate()])
        shard = replicated.redistribute(placements=[Shard(0)])
        whole = shard.full_tensor().tolist()
        if rank == 0:
            place = f"place {mesh.get_coordinate()[0]} of the mesh, {dist.get_rank(mesh.get_group())} of the group"
            print(f"mesh {ranks}: process 0, {place}, has {shard.to_local().tolist()} of {whole}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    print("torch", torch.__version__, flush=True)
    mp.spawn(look, args=(sys.argv[1],), nprocs=2)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/look.py" "$work/store" | tee "$work/seen"
if ! grep -q "^mesh \[0, 1\]: process 0, place 0 of the mesh, 0 of the group, has \[0, 1\] of \[0, 1, 2, 3\]" "$work/seen" ||
    ! grep -q "^mesh \[1, 0\]: process 0, place 1 of the mesh, 0 of the group, has \[2, 3\] of \[2, 3, 0, 1\]" "$work/seen"; then
    echo "changed: see the lines above"
    exit 1
fi
