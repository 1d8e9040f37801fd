"""A file that a device made becomes launches, tables and pages. The one here is made up: nothing in it was measured."""

import json
import shutil

import pytest

from benchmarks import report
from benchmarks.gpu import apply as applying
from benchmarks.gpu import command
from benchmarks.gpu.part import MODULES
from benchmarks.gpu.variants import TABLE
from rlif.errors import UserError
from rlif_kernels.backends.triton import launches

GPU = "made up, not measured"
STAGES, HINTED = "forward: num_stages = 3", "forward: load = evict_first"
VARIANTS = {
    STAGES: {"kernel": "forward", "choices": {"num_stages": 3}},
    HINTED: {"kernel": "forward", "choices": {"load": "evict_first"}},
    "forward: slices = 1": {"kernel": "forward", "choices": {"slices": 1}},
}


def spread(median):
    return {"median": median, "low": median, "high": median, "n": 5}


def timed(op, rows, columns, **milliseconds):
    implementations = {
        name: {
            "package": "rlif" if name == "rlif" else "trl", "composed": "", "wrong": False,
            "output_error": 1e-7, "gradient_error": 1e-7,
            "forward": spread(value / 3), "forward_backward": spread(value),
        }
        for name, value in milliseconds.items()
    }  # fmt: skip
    floors = {name: {phase: spread(value) for phase in ("forward", "forward_backward")}
              for name, value in (("read", 0.5), ("copy", 1.0))}  # fmt: skip
    return {
        "kind": "time", "op": op, "title": op, "rows": rows, "columns": columns, "hidden_size": 0, "dtype": "bfloat16",
        "logits_bytes": 2 * rows * columns, "implementations": implementations, "missing": {}, "floors": floors,
    }  # fmt: skip


def tried(rows, columns, dtype, **medians):
    milliseconds = {TABLE: 1.0, STAGES: 1.0, HINTED: 1.0, "forward: slices = 1": 0.1} | medians
    return {
        "op": "forward", "rows": rows, "columns": columns, "dtype": dtype, "variants": VARIANTS, "missing": {},
        "milliseconds": {name: spread(value) for name, value in milliseconds.items()}, "best": "forward: slices = 1",
        "gain": 10.0,
    }  # fmt: skip


@pytest.fixture
def made_up(tmp_path):
    """A file as the command writes it, of a device that there is not."""
    variants = [
        tried(8192, 151936, "bfloat16", **{STAGES: 0.90, HINTED: 0.95}),
        tried(64, 151936, "bfloat16", **{STAGES: 1.05, HINTED: 0.95}),
        tried(8192, 32000, "bfloat16", **{STAGES: 0.99}),  # too little to tell from chance
        tried(8192, 32000, "float32", **{HINTED: 0.5}),
    ]
    results = {
        "suite": "gpu", "date": "2001-01-01", "command": "none", "device": "cuda", "size": "full", "finished": True,
        "seconds": 1.0, "entries": [], "missing": {}, "skipped": {},
        "machine": {
            "processor": "none", "cores": 1, "torch_threads": 1, "gpu": GPU, "system": "none", "python": "3.12",
            "versions": {"torch": "2.11.0", "trl": "1.16.0"},
        },
        "parts": {name: {"skipped": "made up"} for name in MODULES}
        | {
            "contract": {"cases": 2, "right": 1, "wrong": {"a case": ["entropy: off"]}, "not tried": []},
            "ops": {"entries": [timed("token_stats", 8192, 151936, rlif=1.625, TRL=2.75)]},
            "variants": {"architecture": "sm_90", "entries": variants, "missing": {}, "skipped": []},
        },
    }  # fmt: skip
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(results))
    return path


@pytest.fixture
def copied(monkeypatch, tmp_path):
    """The pages, the results and the table of launches, where they may be written to."""
    for page in report.pages():
        copy = tmp_path / page.relative_to(report.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(page.read_text())
    shutil.copytree(report.RESULTS, tmp_path / "benchmarks" / "results", ignore=shutil.ignore_patterns("*.png"))
    monkeypatch.setattr(report, "LAB_FINDINGS", tmp_path / "findings.md")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report.charts, "draw_charts", lambda source, directory: None)
    table = tmp_path / "launches.json"
    table.write_text(launches.FILE.read_text())
    monkeypatch.setattr(launches, "FILE", table)
    return tmp_path


def test_figures_of_a_device_stand_on_the_pages_and_its_launches_in_the_table(made_up, copied):
    before = launches.read(launches.FILE).find("forward", "sm_90", 2, 151936)
    readme = copied / "README.md"
    assert "No GPU timing is claimed yet" in readme.read_text()
    assert command.main(["--apply", str(made_up)]) == 0
    text = readme.read_text()
    assert "No GPU timing is claimed yet" not in text
    # 0.5 ms to read and 1.0 to copy are the floor of 1.625.
    row = "| `token_stats`, 8192 x 151936, bfloat16 | 1.62 ms | 92% | TRL: 2.75 ms | 1.7x |"
    assert row in text
    assert row in (copied / "docs" / "benchmarks.md").read_text()
    assert f"On one {GPU}" in text
    assert "1 of 2 cases are right, 1 are wrong" in (copied / "benchmarks" / "results" / "report.md").read_text()

    table = launches.read(launches.FILE)
    # Of the rows' two numbers it is the gain over both that counts; how to split a row is left to the plan.
    chosen = table.find("forward", "sm_90", 2, 151936)
    assert (chosen.load, chosen.num_stages, chosen.slices) == ("evict_first", before.num_stages, before.slices)
    assert table.find("forward", "sm_90", 4, 32000).load == "evict_first"
    for architecture, itemsize, columns in (("sm_90", 2, 32000), ("sm_80", 2, 151936), ("sm_90", 4, 151936)):
        assert table.find("forward", architecture, itemsize, columns) == launches.Table(
            json.loads((report.ROOT / "launches.json").read_text())[: -len(measured(table))]
        ).find("forward", architecture, itemsize, columns)

    written = launches.FILE.read_text()
    command.main(["--apply", str(made_up)])
    assert launches.FILE.read_text() == written  # what was measured before gives way, and is not added to


def measured(table):
    return [entry for entry in table.entries if "columns" in entry]


def test_a_range_of_columns_reaches_half_way_to_the_next_that_was_measured():
    sizes = (32000, 128256, 151936)
    assert [applying.reach(each, sizes) for each in sizes] == [[16000, 80128], [80128, 140096], [140096, 303872]]


def test_only_a_run_on_a_device_is_taken(made_up, copied, capsys):
    results = json.loads(made_up.read_text())
    for change in ({"size": "tiny"}, {"device": "cpu"}):
        made_up.write_text(json.dumps(results | change))
        with pytest.raises(UserError, match="is of a dry run"):
            applying.apply(made_up)
    made_up.write_text(json.dumps(results | {"finished": False}))
    with pytest.raises(UserError, match="is of a run of some parts, or one that was stopped"):
        applying.apply(made_up)
    made_up.write_text("[]")
    with pytest.raises(SystemExit, match="2"):
        command.main(["--apply", str(made_up)])
    assert "expected a gpu.json of" in capsys.readouterr().err


def test_nothing_made_up_is_among_the_results():
    assert not [path for path in report.RESULTS.rglob("*.json") if GPU in path.read_text()]
