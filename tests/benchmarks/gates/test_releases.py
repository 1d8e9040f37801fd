"""The kernels compile by every release of Triton that they are meant for, and compute by the newest one's rules.

`python -m benchmarks releases` installs the releases, and compiles all kernels for all targets; here are a few of them.
"""

import subprocess
import sys

import pytest

from benchmarks.gates.releases import RELEASES, compile_all, environment, faults_of, folder_of
from benchmarks.report import ROOT

KERNELS = ("forward (bf16)", "part (bf16, 4 slices)", "backward (bf16)", "grpo statistics (bf16)")


def installed(release):
    if not (folder_of(release) / "triton").is_dir():
        pytest.skip(f"Triton {release} is not there: python -m benchmarks releases --triton {release} installs it")
    return release


@pytest.mark.exhaustive
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("release", RELEASES)
def test_the_main_kernels_compile_without_spills(release, target):
    compiled = compile_all(installed(release), target, KERNELS)
    assert len(compiled) == len(KERNELS)
    assert faults_of(compiled) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("release", [release for release in RELEASES if release != "3.6.0"])
def test_edge_values_hold_in_the_interpreter_of_each_release(release):
    # In 3.9.0's a maximum with NaN is the number. 3.6.0's fails on loops with run-time bounds under NumPy 2.4.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-k",
        "triton",
        "-m",
        "not slow and not exhaustive",
        "tests/kernels/test_edge_values.py",
    ]
    variables = environment(installed(release)) | {"TRITON_INTERPRET": "1"}
    process = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-2000:]


def test_an_error_and_a_spill_are_faults():
    compiled = [
        {"kernel": "one", "registers": 40, "spills": 0},
        {"kernel": "two", "registers": 64, "spills": 3},
        {"kernel": "three", "error": "RuntimeError: no"},
    ]
    assert faults_of(compiled) == ["two spills (3)", "three does not compile (RuntimeError: no)"]
