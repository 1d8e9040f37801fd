"""What can be shown of the GPU command without a GPU: its motions, its time, and how it reads ncu."""

import itertools
import json
import shlex
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as command_line
from benchmarks.gpu import command as gpu
from benchmarks.gpu import ncu
from benchmarks.gpu.budget import Part, finish, run_parts
from benchmarks.report import ROOT

# As `ncu --csv --metrics ... --print-units base` writes it, with columns of a recent release.
NCU_LOG = """==PROF== Connected to process 4711 (/usr/bin/python3.11)
==PROF== Profiling "forward_kernel" - 0: 0%....50%....100% - 3 passes
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"
"0","4711","python3.11","127.0.0.1","forward_kernel","1","7","(128, 1, 1)","(4096, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_read.sum","byte","1,244,659,712"
"0","4711","python3.11","127.0.0.1","forward_kernel","1","7","(128, 1, 1)","(4096, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_write.sum","byte","340,288"
"0","4711","python3.11","127.0.0.1","forward_kernel","1","7","(128, 1, 1)","(4096, 1, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","ns","311,250"
"0","4711","python3.11","127.0.0.1","forward_kernel","1","7","(128, 1, 1)","(4096, 1, 1)","0","9.0","Command line profiler metrics","smsp__issue_active.avg.pct_of_peak_sustained_active","%","71.5"
"1","4711","python3.11","127.0.0.1","backward_kernel(float *, int)","1","7","(256, 1, 1)","(4096, 1, 1)","0","9.0","Command line profiler metrics","lts__t_sector_hit_rate.pct","%","n/a"
==PROF== Disconnected from process 4711
"""  # noqa: E501


def test_counters_are_read_from_what_ncu_writes():
    forward, backward = ncu.parse_launches(NCU_LOG)
    assert forward == {
        "kernel": "forward_kernel",
        "bytes_read": 1244659712,
        "bytes_written": 340288,
        "nanoseconds": 311250,
        "issue_percent": 71.5,
    }
    assert ncu.with_bandwidth(forward)["bytes_per_second"] == pytest.approx(4e12)  # 1.245 GB in 0.311 ms
    assert backward == {"kernel": "backward_kernel"}  # which has no such counter
    assert ncu.with_bandwidth(backward) == backward


def test_an_older_release_without_grid_and_with_kernel_time_is_read_as_well():
    header = '"ID","Process ID","Process Name","Host Name","Kernel Name","Kernel Time","Context","Stream",'
    row = '"0","4711","python3","127.0.0.1","grpo_kernel","2024-Nov-13 18:14:36","1","7",'
    last = '"Section Name","Metric Name","Metric Unit","Metric Value"'
    text = f'{header}{last}\n{row}"Command line profiler metrics","gpu__time_duration.sum","nsecond","152192"\n'
    assert ncu.parse_launches(text) == [{"kernel": "grpo_kernel", "nanoseconds": 152192}]


def make_tool(directory, monkeypatch, name, body):
    tool = directory / name
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


def test_ncu_that_may_not_count_is_named_with_what_it_says(monkeypatch, tmp_path):
    refusal = "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access performance counters"
    make_tool(tmp_path, monkeypatch, "ncu", f'echo "{refusal}" > "$3"; exit 1')  # --csv --log-file FILE
    assert ncu.profile_counters(30) == {"missing": f"ncu counted nothing: {refusal}"}


@pytest.mark.skipif(shutil.which("ncu", path="/usr/local/cuda/bin") is not None, reason="ncu is where it is looked for")
def test_without_ncu_that_is_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ncu is not on PATH" in ncu.profile_counters(30)["missing"]


def test_the_sanitizer_sees_every_tensor_in_memory_of_its_own(monkeypatch, tmp_path):
    make_tool(tmp_path, monkeypatch, "compute-sanitizer", 'echo "$2: cache off: $PYTORCH_NO_CUDA_MEMORY_CACHING"')
    tails = {check: result["tail"] for check, result in gpu.run_sanitizer(60).items()}
    assert tails == {check: f"{check}: cache off: 1\n" for check in gpu.SANITIZER_TOOLS}


def test_what_no_longer_fits_is_skipped_what_fails_is_named_and_the_rest_goes_on(monkeypatch):
    given = {}

    def note(name):
        def run(seconds):
            given[name] = seconds
            return {"found": name}

        return run

    def fail(seconds):
        raise RuntimeError("no such kernel")

    parts = [
        Part("first", 1, 5, note("first")),
        Part("broken", 1, 5, fail),
        Part("too long", 30, 60, note("too long")),
        Part("last", 1, 60, note("last")),
    ]
    saved = []
    clock = itertools.count(step=0.01)
    monkeypatch.setattr("benchmarks.gpu.budget.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    entries = run_parts(parts, seconds=20, save=lambda entries: saved.append(list(entries)))
    assert entries["first"]["found"] == "first"
    assert entries["broken"]["failed"] == "RuntimeError: no such kernel"
    assert entries["too long"]["skipped"].startswith("wants 30 seconds; ")
    assert entries["last"]["found"] == "last"
    assert given["first"] == 5  # no more than its share
    assert 19 < given["last"] <= 20  # and no more than is left
    assert saved == [list(entries)[: n + 1] for n in range(4)]


def test_a_command_that_takes_too_long_is_interrupted_and_what_it_printed_is_kept(monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.budget.GRACE_SECONDS", 1)
    patient = "import time; print('so far', flush=True); time.sleep(60)"
    result = finish([sys.executable, "-c", patient], seconds=6)  # five of its own, for a busy machine
    assert result["tail"].startswith("so far\n")
    assert result["stopped"] == "not done in 6 seconds"
    stubborn = f"import signal, time; signal.signal({int(signal.SIGINT)}, signal.SIG_IGN); time.sleep(60)"
    assert finish([sys.executable, "-c", stubborn], seconds=6)["exit"] == -signal.SIGKILL


def test_the_parts_fit_nine_minutes_but_for_the_last(tmp_path):
    parts = gpu.parts(tmp_path, "cuda", dry_run=False)
    assert sum(part.most for part in parts[:-1]) + parts[-1].least <= 9 * 60 - gpu.RESERVE_SECONDS


@pytest.mark.slow
def test_the_command_goes_through_all_its_motions_without_a_gpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "gpu", "--dry-run", "--output", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["dry_run"]
    assert list(results["parts"]) == ["tests", "ops", "counters", "loop", "sanitizer"]
    for name in ("tests", "ops", "loop"):
        assert results["parts"][name]["exit"] == 0, results["parts"][name]
    assert "skipped" in results["parts"]["tests"]["tail"]
    for name in ("ops", "loop"):
        (path,) = tmp_path.glob(f"*-{name}.json")
        written = json.loads(path.read_text())
        assert written["finished"]
        arguments = shlex.split(written["command"].removeprefix("python -m benchmarks "))
        assert command_line.parser().parse_args(arguments).suites == [name]
