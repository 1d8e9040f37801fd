"""Every figure in the README and in a report comes from a results file, and what is drawn says which."""

import json

import pytest
from PIL import Image

from benchmarks import __main__ as command_line
from benchmarks import report
from benchmarks.ops import shapes as op_shapes
from benchmarks.ops import suite as ops
from benchmarks.ops.implementations import IMPLEMENTATIONS
from benchmarks.report import charts, tables
from benchmarks.report import ops as ops_tables
from benchmarks.runner import Options, run_suite
from rlif.errors import UserError

PAGE = report.ROOT / "README.md"


def test_the_tables_in_the_readme_are_those_of_the_results_files():
    assert command_line.main(["report", "--check"]) == 0


@pytest.fixture
def copied(monkeypatch, tmp_path):
    """A copy of the pages, beside the results."""
    for page in report.pages():
        copy = tmp_path / page.relative_to(report.ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(page.read_text())
    (tmp_path / "benchmarks").symlink_to(report.ROOT / "benchmarks")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    return tmp_path


def test_a_changed_figure_is_noticed_on_whichever_page(copied, capsys):
    (copied / "docs").mkdir(exist_ok=True)
    page = copied / "docs" / "kernels.md"
    page.write_text(report.render("<!-- table static -->\n<!-- end -->\n", page))
    assert report.main(["--check"]) == 0
    assert "(../benchmarks/results/" in page.read_text()
    page.write_text(page.read_text().replace("16 bytes", "32 bytes"))
    assert report.main(["--check"]) == 1
    assert "kernels.md: not what results says" in capsys.readouterr().err


def test_a_table_that_has_no_place_on_any_page_is_an_error(copied):
    for page in report.pages():
        page.write_text(page.read_text().replace("<!-- table static -->", ""))
    with pytest.raises(UserError, match="has a place for the table 'static'"):
        report.written(report.RESULTS)


def test_a_table_without_a_results_file_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    with pytest.raises(UserError, match="no results file"):
        report.render("<!-- table ops -->\n<!-- end -->", PAGE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table gossip -->\n<!-- end -->", "'gossip'; expected one of"),
        ("<!-- table static -->\nno end", "does not end"),
    ],
)
def test_a_place_for_a_table_that_nobody_draws_or_that_does_not_end_is_an_error(text, message):
    with pytest.raises(UserError, match=message):
        report.render(text, PAGE)


def test_an_empty_place_is_filled_and_the_next_one_is_left_to_its_own_table():
    places = "".join(f"<!-- table {name} -->\n<!-- end -->\n\nwords\n\n" for name in ("demo", "static"))
    text = report.render(places, PAGE)
    assert text.count("words") == 2
    assert text.index("trained on") < text.index("words") < text.index("main loop")
    assert report.render(text, PAGE) == text


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A directory with the results of a tiny run: two vocabularies of token_stats, eager and ours."""
    directory = tmp_path_factory.mktemp("measured")
    options = Options(directory, size="tiny")
    with pytest.MonkeyPatch.context() as patch:
        few = [each for each in IMPLEMENTATIONS["token_stats"] if each.name in ("eager", "rlif")]
        patch.setitem(IMPLEMENTATIONS, "token_stats", few)
        shapes = (op_shapes.logits(16, 300), op_shapes.logits(16, 600))
        patch.setattr(op_shapes, "TINY", op_shapes.Plan(timed={"token_stats": shapes}, memory={}, seconds=0.01))
        run_suite("ops", options, ops.steps(options))
    return directory


def test_a_report_draws_tables_and_charts_from_the_files_of_a_run(measured):
    assert report.main(["--results", str(measured)]) == 0
    text = (measured / "report.md").read_text()
    results = json.loads(next(measured.glob("*-ops.json")).read_text())
    median = results["entries"][1]["implementations"]["rlif"]["forward_backward"]["median"]
    assert "A tiny run" in text
    assert f"{median:.3g} ms" in text
    drawn = {path.name.split("-cpu-")[1] for path in (measured / "charts").iterdir()}
    assert drawn == {"time.png", "floor.png", "error.png"}  # no memory was measured, and no head
    for path in (measured / "charts").iterdir():
        assert path.name in text
        with Image.open(path) as image:
            assert len(image.convert("L").getcolors()) > 20  # something is drawn
    assert report.main(["--check", "--results", str(measured)]) == 0


def test_a_chart_of_other_results_is_stale_and_so_is_a_table(measured, capsys):
    report.main(["--results", str(measured)])
    (source,) = measured.glob("*-ops.json")
    before = source.read_text()
    results = json.loads(before)
    results["entries"][0]["implementations"]["rlif"]["forward_backward"]["median"] *= 2
    source.write_text(json.dumps(results))
    assert charts.stale_charts(source, measured)
    assert report.main(["--check", "--results", str(measured)]) == 1
    source.write_text(before)
    assert "report.md" in capsys.readouterr().err


def test_a_run_that_was_not_full_gives_no_table_in_the_readme(measured, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", measured)
    with pytest.raises(UserError, match=r"expected a full one for README\.md"):
        report.render("<!-- table ops -->\n<!-- end -->", PAGE)


def test_what_is_said_of_all_shapes_has_the_least_speed_up_as_well_as_the_most():
    def entry(eager, peer, ours):
        found = {
            name: {"package": package, "forward_backward": {"median": median, "n": 3}, "wrong": False}
            for name, package, median in (("eager", "torch", eager), ("TRL", "trl", peer), ("rlif", "rlif", ours))
        }
        found["rlif"]["forward_backward_speedup"] = {"median": eager / ours}
        return {"kind": "time", "implementations": found}

    text = ops_tables.all_shapes({"entries": [entry(20.0, 30.0, 2.0), entry(9.0, 8.0, 10.0)]})
    assert "Over all 2 shapes" in text
    assert "0.9 to 10.0 times as fast as eager, and 0.8 to 10.0 times as fast as the fastest" in text
    assert ops_tables.all_shapes({"entries": []}) == ""


def test_a_cell_of_the_hurts_says_how_many_were_lost_of_how_many_or_why_there_are_none():
    kinds = {"SIGKILL": (4, [], None), "file cut": (3, ["x is gone"], None), "second process": (0, [], None)}
    kinds["bit flipped"] = (0, [], "anew")
    entries = [
        {"command": "train", "hurt": kind, "tried": tried, "lost": lost, "why_not": why_not}
        for kind, (tried, lost, why_not) in kinds.items()
    ]
    text = tables.faults({"entries": entries, "by_chance": 2})
    for cell in ("0 lost of 4", "1 lost of 3", "not tried", "anew", "7 hurts, 2 of them drawn at random"):
        assert cell in text


def test_who_is_missing_from_one_op_is_not_said_to_be_missing_from_all():
    assert ops_tables.missing({"missing": {"verl: token_stats": "no ray"}}) == ["verl in token_stats (no ray)"]


def test_a_run_that_was_interrupted_gives_no_table_in_the_readme(measured, monkeypatch, tmp_path):
    (source,) = measured.glob("*-ops.json")
    results = json.loads(source.read_text()) | {"size": "full", "finished": False}
    (tmp_path / source.name).write_text(json.dumps(results))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    with pytest.raises(UserError, match="is of a run that was interrupted; expected a full one"):
        report.render("<!-- table ops -->\n<!-- end -->", PAGE)


def test_a_trainer_without_trl_beside_it_has_no_speed_up():
    entry = {"tokens_per_second": 10.0, "seconds": {"step": 1.0}, "peak_bytes": 1e9, "step_quartiles": [1.0, 1.0]}
    results = {"implementations": {"rlif": entry}, "missing": {}, "machine": {"versions": {}}}
    for name in ("loop", "trl-step"):
        assert "nan" not in tables.TABLES[name](results)


def test_a_directory_without_results_is_one_clear_line(tmp_path, capsys):
    for directory, message in (
        (tmp_path / "none", "expected a directory of results files"),
        (tmp_path, "no results file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            report.main(["--results", str(directory)])
        assert message in capsys.readouterr().err


def test_a_line_of_memory_has_shapes_of_the_dtype_that_its_axis_names():
    def entry(dtype, rows):
        size = 100 * rows * (4 if dtype == "float32" else 2)
        implementations = {"rlif": {"forward_backward_bytes": rows, "package": "rlif", "version": "0"}}
        shape = {"kind": "memory", "op": "token_stats", "dtype": dtype, "logits_bytes": size}
        return shape | {"implementations": implementations}

    drawn = charts.by_size([entry("float32", 8), entry("bfloat16", 12), entry("float32", 4), entry("bfloat16", 2)])
    assert [(each["dtype"], each["logits_bytes"]) for each in drawn] == [("float32", 1600), ("float32", 3200)]


def test_a_suite_has_no_files_of_another_whose_name_ends_likewise(tmp_path):
    for name in ("self-feedback", "real-self-feedback"):
        (tmp_path / f"machine-2026-01-02-{name}.json").write_text('{"size": "full", "date": "2026-01-02"}')
    assert report.newest("self-feedback", tmp_path).name == "machine-2026-01-02-self-feedback.json"
    assert report.newest("real-self-feedback", tmp_path).name == "machine-2026-01-02-real-self-feedback.json"
