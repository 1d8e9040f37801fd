"""What can be shown of the GPU command without a GPU: its motions, its time, and how it reads ncu."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from benchmarks.gpu import command, ncu, sanitizer
from benchmarks.gpu.budget import Part, finish, run_parts, start
from benchmarks.gpu.part import MODULES, Task
from benchmarks.report import ROOT
from benchmarks.report.gpu import summary

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


def measured(module, seconds=30):
    task = Task("cuda", "full", seconds)
    module.measure(task)
    return task.found


def test_ncu_that_may_not_count_is_named_with_what_it_says(monkeypatch, tmp_path):
    refusal = "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access performance counters"
    make_tool(tmp_path, monkeypatch, "ncu", f'echo "{refusal}" > "$3"; exit 1')  # --csv --log-file FILE
    assert measured(ncu) == {"missing": f"ncu counted nothing: {refusal}"}


@pytest.mark.skipif(shutil.which("ncu", path="/usr/local/cuda/bin") is not None, reason="ncu is where it is looked for")
def test_without_ncu_that_is_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ncu is not on PATH" in measured(ncu)["missing"]


def test_the_sanitizer_sees_every_tensor_in_memory_of_its_own(monkeypatch, tmp_path):
    make_tool(tmp_path, monkeypatch, "compute-sanitizer", 'echo "$2: cache off: $PYTORCH_NO_CUDA_MEMORY_CACHING"')
    tails = {check: result["tail"] for check, result in measured(sanitizer, 60).items()}
    assert tails == {check: f"{check}: cache off: 1\n" for check in sanitizer.TOOLS}


def test_a_part_has_what_those_before_it_left_and_what_fails_or_no_longer_fits_is_named(monkeypatch):
    now = itertools.count(step=0.01)
    passed = [0.0]
    monkeypatch.setattr("benchmarks.gpu.budget.time", SimpleNamespace(perf_counter=lambda: next(now) + passed[0]))
    given = {}

    def takes(name, seconds):
        def run(left):
            given[name] = left
            passed[0] += seconds
            return {"found": name}

        return run

    def fail(left):
        raise RuntimeError("no such kernel")

    parts = [
        Part("quick", 60, takes("quick", 20)),
        Part("broken", 30, fail),
        Part("greedy", 30, takes("greedy", 115)),  # 120 is where it should end, 135 where it does
        Part("late", 20, takes("late", 1)),
        Part("last", 60, takes("last", 1)),
    ]
    saved = []
    entries = run_parts(parts, seconds=200, save=lambda entries: saved.append(list(entries)))
    assert given["quick"] == pytest.approx(60, abs=0.1)
    assert entries["broken"]["failed"] == "RuntimeError: no such kernel"
    assert given["greedy"] == pytest.approx(100, abs=0.2)
    assert entries["late"]["skipped"] == "wants 10 seconds; 5 were left"
    assert given["last"] == pytest.approx(65, abs=0.3)
    assert saved == [[part.name for part in parts[: n + 1]] for n in range(len(parts))]


def test_a_process_that_takes_too_long_is_interrupted_and_what_it_printed_is_kept(monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.budget.GRACE_SECONDS", 1)
    patient = "import time; print(input(), flush=True); time.sleep(60)"
    stubborn = f"import signal, time; signal.signal({int(signal.SIGINT)}, signal.SIG_IGN); time.sleep(60)"
    processes = [start([sys.executable, "-c", code]) for code in (patient, stubborn)]
    with ThreadPoolExecutor() as threads:  # each waits for five seconds of its own, for a busy machine
        first, second = threads.map(finish, processes, (6, 6), ("so far\n", ""))
    assert first["tail"].startswith("so far\n")
    assert first["stopped"] == "not done in 6 seconds"
    assert second["exit"] == -signal.SIGKILL


def test_the_shares_of_all_parts_are_seven_minutes():
    assert list(command.SHARES) == list(MODULES)
    assert sum(command.SHARES.values()) == 7 * 60


def test_a_part_that_dies_has_lost_nothing_that_it_had_saved(monkeypatch, tmp_path):
    parts = command.Parts(tmp_path, "cpu", "tiny", {})
    code = "import os, sys; open(sys.argv[1], 'w').write('{\"right\": 3}'); print('a fault', flush=True); os.abort()"
    last = list(MODULES)[-1]
    parts.started[last] = start([sys.executable, "-c", code, str(parts.file(last))])
    found = parts.run(last, 30)
    assert found["right"] == 3
    assert found["failed"] == f"exit code {-signal.SIGABRT}"
    assert "a fault" in found["tail"]


def test_wheels_come_before_what_is_installed_and_a_place_without_any_is_one_clear_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["--output", str(tmp_path / "out"), "--dry-run", "--wheels", str(tmp_path)])
    assert f"--wheels: got {tmp_path}, expected a directory with files *.whl" in capsys.readouterr().err
    (tmp_path / "trl_like-1.0.dist-info").mkdir()
    (tmp_path / "trl_like-1.0.dist-info" / "METADATA").write_text("Name: cut-cross_entropy\nVersion: 25.9\n")
    assert command.carried(tmp_path) == {"cut_cross_entropy": "25.9"}


def dry_run(output, names):
    """What the command leaves of these parts, and prints at its end."""
    line = [sys.executable, "-m", "benchmarks", "gpu", "--dry-run", "--output", str(output), "--parts", *names]
    process = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    assert [path.name for path in output.iterdir()] == ["gpu.json"]
    results = json.loads((output / "gpu.json").read_text())
    assert list(results["parts"]) == list(names)
    for name, found in results["parts"].items():
        assert not {"failed", "stopped", "tail"} & set(found), (name, found)
    assert summary(results) in process.stdout
    return results


# What each part measures is tried by `test_parts`, without the seconds in which a process of its own imports torch.
@pytest.mark.slow
def test_the_command_goes_through_the_motions_of_a_part_that_measures_and_of_one_that_cannot(tmp_path):
    results = dry_run(tmp_path, ("contract", "counters"))
    assert (results["size"], results["finished"]) == ("tiny", False)  # not all parts
    assert results["parts"]["contract"]["right"] == results["parts"]["contract"]["cases"] > 0
    assert results["device"] == "cuda" or "missing" in results["parts"]["counters"]


@pytest.mark.exhaustive
def test_the_command_goes_through_all_its_motions_without_a_gpu(tmp_path):
    results = dry_run(tmp_path, tuple(MODULES))
    assert (results["size"], results["finished"]) == ("tiny", True)
    assert results["parts"]["step"]["implementations"]["rlif"]["tokens_per_second"] > 0
