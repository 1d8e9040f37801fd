"""A head whose vocabulary is divided over processes: the statistics of the whole, without the whole anywhere.

    python examples/tensor_parallel_head.py                    # starts its own two processes on the CPU (gloo)

Every process holds some rows of the head. One exchange of a few numbers per token in the forward makes the statistics
exact, and the same on every process; the backward adds up the gradient of the hidden states.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rlif_kernels import linear_token_stats

TOKENS, WIDTH, VOCAB = 64, 128, 32_001  # not divisible: the slices may differ in size


def process(rank: int, processes: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, processes), rank=rank, world_size=processes)
    torch.manual_seed(0)  # the same numbers everywhere, to compare with
    hidden, weight = torch.randn(TOKENS, WIDTH), 0.3 * torch.randn(VOCAB, WIDTH)
    targets = torch.randint(VOCAB, (TOKENS,))

    # What a tensor-parallel model has: all hidden states, a slice of the head in the order of the ranks.
    rows = torch.arange(VOCAB).tensor_split(processes)[rank]
    own_weight = weight[rows].requires_grad_()
    own_hidden = hidden.clone().requires_grad_()
    stats = linear_token_stats(own_hidden, own_weight, targets, group=dist.group.WORLD)
    (stats.logprob + 0.01 * stats.entropy).sum().backward()

    whole_hidden, whole_weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    whole = linear_token_stats(whole_hidden, whole_weight, targets)
    (whole.logprob + 0.01 * whole.entropy).sum().backward()
    fields = ("logprob", "entropy", "self_certainty")
    differences = {name: getattr(stats, name) - getattr(whole, name) for name in fields}
    differences["gradient of the hidden states"] = own_hidden.grad - whole_hidden.grad
    differences["gradient of its rows of the head"] = own_weight.grad - whole_weight.grad[rows]

    for speaker in range(processes):
        dist.barrier()
        if speaker == rank:
            print(f"process {rank} holds {len(rows)} of {VOCAB} rows; largest difference from one undivided head:")
            for name, difference in differences.items():
                print(f"  {difference.abs().max():.1e}  {name}", flush=True)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    processes = parser.parse_args().processes
    with tempfile.TemporaryDirectory() as directory:
        mp.spawn(process, args=(processes, str(Path(directory) / "store")), nprocs=processes)


if __name__ == "__main__":
    main()
