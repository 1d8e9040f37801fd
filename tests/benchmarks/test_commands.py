"""The benchmarks that take long, or need a GPU, run through on something small."""

import json
import math
import subprocess
import sys

import pytest

from benchmarks.report import ROOT
from benchmarks.steps.self_feedback import Workload, summary


def run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_dpo_benchmark_trains_every_pair_and_begins_at_the_loss_of_no_preference():
    sizes = {"vocab-size": 50, "hidden-size": 16, "num-layers": 1, "pairs-per-step": 3}
    lengths = {"prompt-length": 4, "completion-length": 5, "steps": 3}
    options = [f"--{name}={value}" for name, value in (sizes | lengths).items()]
    result = json.loads(run("self_feedback", "--implementation", "rlif", *options).splitlines()[-1])
    assert len(result["steps"]) == 3
    assert result["first_loss"] == pytest.approx(math.log(2), abs=1e-5)  # the model is its own reference
    turns = [result, result | {"steps": [9.0, 1.0, 3.0], "peak_bytes": 2 * result["peak_bytes"]}]
    summed = summary(Workload(pairs_per_step=3), [turns[1], turns[1]])
    assert summed["pairs_per_second"] == pytest.approx((3 / 1 + 3 / 3) / 2)  # without the steps that warmed up
    assert summary(Workload(), turns)["peak_bytes"] == 2 * result["peak_bytes"]
