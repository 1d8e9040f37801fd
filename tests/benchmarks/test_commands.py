"""The benchmarks that take long, or need a GPU, run through on something small."""

import json
import math
import subprocess
import sys

import pytest

from benchmarks import gpu
from benchmarks.report import ROOT


def run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_gpu_command_goes_through_all_its_motions_without_a_gpu(tmp_path):
    run("gpu", "--dry-run", "--output", str(tmp_path))
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["dry_run"]
    (head,) = results["heads"]
    for name in ("naive", "rlif, linear_token_stats", "rlif, linear_grpo_loss"):
        assert head["forward_backward"][name][0] > 0
        assert head["error"][name] < 2e-2  # logits rounded to bfloat16
    assert all(math.isfinite(ratio) for ratio in head["of bare products"].values())
    (loss,) = results["losses"]
    # The same float32 statistics of the same logits, added up in two ways.
    assert loss["loss"]["grpo_loss"] == pytest.approx(loss["loss"]["token_stats"], rel=1e-5)
    assert {entry["dtype"] for entry in results["ops"]} == {"torch.bfloat16", "torch.float32"}


def test_the_sanitizer_sees_every_tensor_in_memory_of_its_own(monkeypatch, tmp_path):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\necho "$2: cache off: $PYTORCH_NO_CUDA_MEMORY_CACHING"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tails = {check: result["tail"] for check, result in gpu.run_sanitizer().items()}
    assert tails == {check: f"{check}: cache off: 1\n" for check in gpu.SANITIZER_TOOLS}


def test_the_dpo_benchmark_trains_every_pair_and_begins_at_the_loss_of_no_preference():
    sizes = {"vocab-size": 50, "hidden-size": 16, "num-layers": 1, "pairs-per-step": 3}
    lengths = {"prompt-length": 4, "completion-length": 5, "steps": 3}
    options = [f"--{name}={value}" for name, value in (sizes | lengths).items()]
    result = json.loads(run("self_feedback", "--implementation", "rlif", *options).splitlines()[-1])
    assert len(result["steps"]) == 3
    assert result["first_loss"] == pytest.approx(math.log(2), abs=1e-5)  # the model is its own reference
    assert result["pairs_per_second"] == pytest.approx(3 / result["step_seconds"])
