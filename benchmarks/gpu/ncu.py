"""Part `counters`: profile counters of our kernels, by NVIDIA's Nsight Compute (`ncu`), where it may count."""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.budget import finish, start
from benchmarks.gpu.part import Task

# Each counter by the name that it has in the results. ncu gives base units: nanoseconds, bytes, percent.
COUNTERS = {
    "nanoseconds": "gpu__time_duration.sum",
    "bytes_read": "dram__bytes_read.sum",
    "bytes_written": "dram__bytes_write.sum",
    "bandwidth_percent": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "issue_percent": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "occupancy_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "l2_hit_percent": "lts__t_sector_hit_rate.pct",
    "registers": "launch__registers_per_thread",
}
# One call of each op that has kernels of its own, after one that compiles; ncu counts between start and stop.
CASE = """
import sys
import torch
from rlif_kernels import grpo_loss, token_stats
rows, columns = int(sys.argv[1]), int(sys.argv[2])
logits = torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16).requires_grad_()
targets = torch.randint(columns, (rows,), device="cuda")
advantages = torch.randn(rows // 8, device="cuda")
for counted in (False, True):
    if counted:
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
    logits.grad = None
    stats = token_stats(logits, targets)
    (stats.logprob + stats.entropy + stats.self_certainty).sum().backward()
    logits.grad = None
    grpo_loss(logits.view(-1, 8, columns), targets.view(-1, 8), advantages).loss.backward()
    torch.cuda.synchronize()
torch.cuda.profiler.stop()
"""
ROWS, COLUMNS = 4096, 151936
OUR_KERNELS = "regex:(forward|backward|grpo)_kernel"


def measure(task: Task) -> None:
    """Fill in the counters of every launch of our kernels in `CASE`, or under `missing` why there are none."""
    tool = shutil.which("ncu") or shutil.which("ncu", path="/usr/local/cuda/bin")
    if tool is None:
        task.found["missing"] = "ncu is not on PATH or in /usr/local/cuda/bin"
        return
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "ncu.csv"
        command = [
            *(tool, "--csv", "--log-file", str(log), "--print-units", "base"),
            *("--profile-from-start", "off", "--kernel-name", OUR_KERNELS, "--metrics", ",".join(COUNTERS.values())),
            # The clocks are the machine's affair.
            *("--clock-control", "none", sys.executable, "-c", CASE, str(ROWS), str(COLUMNS)),
        ]
        finished = finish(start(command), task.left())
        text = log.read_text() if log.exists() else ""
    launches = parse_launches(text)
    if not launches:
        said = [line for line in text.splitlines() if line.startswith("==ERROR==")]
        reason = " ".join(said) or finished["tail"].strip() or "it wrote nothing"
        task.found["missing"] = f"ncu counted nothing: {reason[-500:]}"
        return
    task.found |= {"rows": ROWS, "columns": COLUMNS, "launches": [with_bandwidth(launch) for launch in launches]}
    if "stopped" in finished:
        task.found["stopped"] = finished["stopped"]


def parse_launches(text: str) -> list[dict[str, Any]]:
    """Return the launches in what `ncu --csv` wrote, in order: kernel, and those of `COUNTERS` that are there.

    ncu writes a row for each counter of each launch, under a header that differs between releases; before and after it
    lines that begin with "==". Numbers may have commas between their thousands.
    """
    lines = [line for line in text.splitlines() if line.startswith('"')]
    names = {metric: name for name, metric in COUNTERS.items()}
    launches: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(lines):
        launch = launches.setdefault(row["ID"], {"kernel": row["Kernel Name"].split("(")[0]})
        name = names.get(row["Metric Name"])
        if name is not None:
            try:
                launch[name] = float(row["Metric Value"].replace(",", ""))
            except ValueError:  # "n/a" and the like: this device does not count it
                continue
    return list(launches.values())


def with_bandwidth(launch: dict[str, Any]) -> dict[str, Any]:
    """Add the bytes a second that the launch moved."""
    needed = ("nanoseconds", "bytes_read", "bytes_written")
    if not all(name in launch for name in needed):
        return launch
    moved = launch["bytes_read"] + launch["bytes_written"]
    return launch | {"bytes_per_second": 1e9 * moved / launch["nanoseconds"]}
