"""The kernels compile by every release of Triton that they are meant for, and compute by the newest one's rules.

`python -m benchmarks releases` installs the releases, and compiles all kernels for all targets; here are a few of them.
"""

import itertools
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks.gates import releases
from benchmarks.gates.releases import RELEASES, TARGETS, compile_all, environment, folder_of
from benchmarks.report import RESULTS, ROOT, newest
from benchmarks.report.releases import faults_of, releases_table

KERNELS = ("forward (bf16)", "part (bf16, 4 slices)", "backward (bf16)", "grpo statistics (bf16)")
# What a release cannot do without spilling; its neighbours can, from the same source.
SPILL = {
    # 3.9.0 does not fit a part with all lanes into the 96 registers of which a B200 holds five programs.
    *(("3.9.0", target, "part (bf16)") for target in ("sm_100", "sm_103")),
    ("3.9.0", "sm_90", "backward (bf16, softcap)"),
    ("3.6.0", "sm_80", "backward (bf16, softcap)"),
    ("3.6.0", "sm_100", "forward (bf16, unaligned)"),
    ("3.7.1", "sm_103", "divergence gradient (bf16, softcap, reverse_kl)"),
    # 3.7.1's assembler needs more than the 128 registers that 512 threads have, on RTX Blackwell alone.
    *(
        ("3.7.1", "sm_120", f"grpo {look} (bf16{note})")
        for look in ("statistics", "gradient")
        for note in ("", ", softcap", ", corrected")
    ),
    *(("3.7.1", "sm_120", f"divergence {look} (bf16, jsd, few rows)") for look in ("mixture", "gradient")),
}


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


def test_the_table_counts_registers_and_spills_and_names_what_fails():
    entries = [
        {"triton": release, "target": "sm_90", "kernel": kernel, **found}
        for release, kernel, found in (
            ("3.6.0", "one", {"registers": 40, "spills": 0}),
            ("3.6.0", "two", {"registers": 64, "spills": 3}),
            ("3.9.0", "one", {"registers": 50, "spills": 0}),
            ("3.9.0", "two", {"error": "RuntimeError: no"}),
        )
    ]
    drawn = releases_table({"entries": entries})
    assert "| sm_90 | 64 registers, 3 spills | 50 registers, no spill, 1 do not compile |" in drawn
    assert "- 3.6.0, sm_90: two spills (3)\n- 3.9.0, sm_90: two does not compile (RuntimeError: no)" in drawn


def test_the_committed_run_has_every_release_and_target_and_no_fault():
    if not list(RESULTS.glob("*-releases.json")):
        pytest.skip("no run is committed: python -m benchmarks releases --output benchmarks/results")
    results = json.loads(newest("releases").read_text())
    assert {(each["triton"], each["target"]) for each in results["entries"]} == set(
        itertools.product(RELEASES, TARGETS)
    )
    others = [each for each in results["entries"] if (each["triton"], each["target"], each["kernel"]) not in SPILL]
    assert faults_of(others) == []


def test_a_release_that_cannot_be_installed_costs_no_other(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(releases, "FOLDER", tmp_path / "releases")
    (tmp_path / "releases" / "3.7.1" / "triton").mkdir(parents=True)
    monkeypatch.setattr(releases, "compile_all", lambda *_: [{"kernel": "one", "registers": 40, "spills": 0}])
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr="ERROR: no such version")
    )
    code = releases.main(["--triton", "0.0.1", "3.7.1", "--targets", "sm_90", "--output", str(tmp_path)])
    (path,) = tmp_path.glob("*-releases.json")
    results = json.loads(path.read_text())
    assert code == 1
    assert results["entries"] == [{"triton": "3.7.1", "target": "sm_90", "kernel": "one", "registers": 40, "spills": 0}]
    assert "pip cannot install 0.0.1 here: ERROR: no such version" in capsys.readouterr().err


def test_a_run_of_the_same_sources_goes_on_and_one_of_others_begins_anew(monkeypatch, tmp_path):
    compiled = []

    def compile_all(release, target):
        compiled.append(target)
        return [{"kernel": releases.ALL if target == "sm_80" else "one", "registers": 40, "spills": 0}]

    def run(*targets):
        compiled.clear()
        releases.main(["--triton", "3.7.1", "--targets", *targets, "--output", str(tmp_path)])
        return list(compiled)

    monkeypatch.setattr(releases, "install", lambda release: None)
    monkeypatch.setattr(releases, "compile_all", compile_all)
    assert run("sm_90", "sm_80") == ["sm_90", "sm_80"]
    assert run("sm_90", "sm_80", "gfx942") == ["sm_80", "gfx942"]  # the process of sm_80 had ended badly
    monkeypatch.setattr(releases, "sources", lambda: "others")
    assert run("sm_90") == ["sm_90"]
