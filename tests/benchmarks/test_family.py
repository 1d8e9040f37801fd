"""The family's table has a row for each claim, read from the suites' files, and the command runs what has none."""

import json

import pytest

from benchmarks import family, report
from benchmarks.report import family as table
from benchmarks.report import introspect, length_conditioned, retry, rlcr, verify
from benchmarks.report.seen import Seen, in_points, with_interval
from benchmarks.runner import SUITES


def test_every_suite_of_the_family_is_one_that_can_be_run():
    assert set(table.SUITES) <= SUITES.keys()
    assert {member.suite for member in table.MEMBERS} - {table.LAB} == set(table.SUITES)


def held_out(accuracy, **more):
    return {"accuracy": {"value": accuracy}} | more


@pytest.mark.parametrize(
    ("after", "agrees"),
    [
        (held_out(0.79, ece=0.05, auroc=0.8), "yes"),
        (held_out(0.70, ece=0.05, auroc=0.8), "partly"),
        (held_out(0.80, ece=0.20, auroc=0.8), "partly"),
        (held_out(0.80, ece=0.35, auroc=0.5), "no"),
    ],
)
def test_rlcr_agrees_at_a_third_of_the_error_and_the_same_accuracy(after, agrees):
    runs = {"RLVR": held_out(0.80, ece=0.30, auroc=0.5), "RLCR": after}
    entries = [{"run": run, "seed": seed, "held_out": found} for seed in range(2) for run, found in runs.items()]
    found = rlcr.seen({"entries": entries})
    assert found.agrees == agrees
    assert f"ECE {after['ece']:.3f}" in found.figures


@pytest.mark.parametrize(
    ("verifying", "solving", "agrees"),
    [(0.7, 0.8, "yes"), (0.7, 0.77, "partly"), (0.6, 0.8, "partly"), (0.4, 0.8, "no")],
)
def test_verifying_the_same_solutions_agrees_at_fifteen_points_and_no_loss_of_solving(verifying, solving, agrees):
    # Of its own solutions who solves alone tells more, which is no measure: those are others.
    before, after = held_out(0.8, balanced_accuracy=0.6), held_out(solving, balanced_accuracy=0.55)
    same = {False: held_out(0.5, balanced_accuracy=0.5), True: held_out(0.5, balanced_accuracy=verifying)}
    runs = {"solve": before, "solve and verify": after, "solve, by majority": before,
            "solve and verify, by majority": after}  # fmt: skip
    entries = [
        {"run": run, "seed": seed, "held_out": found, "of_the_start": same[found is after]}
        for seed in range(2)
        for run, found in runs.items()
    ]
    found = verify.seen({"entries": entries})
    assert found.agrees == agrees
    assert "of its own -5.0" in found.figures


def test_retries_agree_if_accepted_answers_are_right_ten_points_more_often():
    entries = [{"seed": 0, "labels": "", "majority": 0.8}]
    entries += [
        {"seed": 0, "labels": labels, "shown": False, "precision": {"value": 0.9}, "first": {"value": 0.5}}
        for labels in ("gold", "majority")
    ]
    found = retry.seen({"entries": entries, "max_rounds": 5})
    assert found.agrees == "yes"
    assert "+40.0 (one seed) points against first attempts, +10.0 (one seed) points against the majority of 5" in (
        found.figures
    )


@pytest.mark.parametrize(
    ("gold", "majority", "agrees"), [(0.05, 0.02, "yes"), (0.05, -0.02, "partly"), (-0.1, 0.0, "no")]
)
def test_turns_agree_if_their_majority_is_above_that_of_as_many_samples(gold, majority, agrees):
    entries = [
        {
            "run": labels,
            "seed": 0,
            "compared": {
                "tuned": {"m1@t5 less m5@t1": {"value": found}},
                "tuned less start": {"m1@t5": {"value": 0.3}},
            },
            "models": {"tuned": {"mended": [{"value": None}, {"value": 0.5}], "kept": [{"value": None}] * 2}},
        }
        for labels, found in (("gold", gold), ("majority", majority))
    ]
    found = introspect.seen({"entries": entries, "settings": {"turns": 5}})
    assert found.agrees == agrees
    assert f"labels gold: m1@t5 {100 * gold:+.1f} (one seed) points against m5@t1, +30.0" in found.figures
    assert found.why == "of second turns 50% are right after a wrong first one, none after a right one"


@pytest.mark.parametrize(
    ("correlation", "matched", "agrees"), [(-0.2, 0.8, "yes"), (0.2, 0.7, "partly"), (0.4, 0.8, "no")]
)
def test_length_conditioning_agrees_if_the_correlation_is_halved_and_matched_pairs_lose_nothing(
    correlation, matched, agrees
):
    scores = {"plain": (0.5, 0.8), "conditioned": (correlation, matched)}
    entries = [{"seed": 0, "objective": ""}] + [
        {"seed": 0, "objective": objective, "variant": variant, "scores": {"reward": {
            "correlation": {"value": value}, "accuracy": {"matched": {"value": accuracy}}}}}
        for objective in length_conditioned.NAMES
        for variant, (value, accuracy) in scores.items()
    ]  # fmt: skip
    assert length_conditioned.seen({"entries": entries}).agrees == agrees


def test_the_published_results_have_a_row_each_and_what_is_not_measured_says_so(tmp_path):
    text = table.claims(report.finished, report.ROOT / "docs" / "family.md")
    assert text.count("\n|") == 1 + len(table.MEMBERS)
    nothing = table.claims(lambda suite: None, tmp_path / "family.md")
    assert nothing.count("not measured yet") == len(table.MEMBERS)
    assert "No suite has been run." in nothing


def test_an_interval_is_students_over_the_seeds():
    assert with_interval([0.1, 0.2, 0.3]) == "20.0% (-4.8% to 44.8%)"  # t = 4.303, deviation .1 / sqrt(3)
    assert in_points([0.1]) == "+10.0 (one seed) points"


@pytest.fixture
def two_suites(monkeypatch):
    """A family of two suites that take no time: how often each was run."""
    runs = {"first": 0, "second": 0}

    def run_suite(name, options):
        runs[name] += 1
        results = {"size": "full", "finished": True, "date": "2026-01-01", "missing": {}, "entries": [],
                   "skipped": {} if options.seconds > 60 else {"all": "no time"}}  # fmt: skip
        (options.output / f"machine-2026-01-01-{name}.json").write_text(json.dumps(results))
        return results

    members = [
        table.Member(name, name, "2501.00001", "a claim", "a goal", lambda results: Seen("figures", "yes", "reasons"))
        for name in runs
    ]
    monkeypatch.setattr(table, "MEMBERS", members)
    for module in (table, family):
        monkeypatch.setattr(module, "SUITES", tuple(runs))
    monkeypatch.setattr(family, "run_suite", run_suite)
    return runs


def test_the_command_runs_each_suite_once_and_writes_the_table(two_suites, tmp_path, capsys):
    assert family.main(["--output", str(tmp_path)]) == 0
    assert family.main(["--output", str(tmp_path)]) == 0
    assert two_suites == {"first": 1, "second": 1}
    text = (tmp_path / "family.md").read_text()
    assert text.count("| figures | **yes** | reasons |") == 2
    assert "first: machine-2026-01-01-first.json is there" in capsys.readouterr().out


def test_a_suite_that_had_no_time_is_named_and_run_by_the_next_call(two_suites, tmp_path, capsys):
    assert family.main(["--output", str(tmp_path), "--minutes", "0.5"]) == 1
    assert "missing: first, all (no time)" in capsys.readouterr().err
    assert "not measured yet" in (tmp_path / "family.md").read_text()
    assert family.main(["--output", str(tmp_path)]) == 0
    assert two_suites == {"first": 2, "second": 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "--minutes is 0.0; expected a positive number"),
        (["--repeats", "0"], "--repeats is 0; expected a positive number"),
        (["--output", "/dev/null/here"], "--output is /dev/null/here; expected a directory that can be written to"),
    ],
)
def test_a_bad_option_is_one_clear_line(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        family.main(words)
    assert message in capsys.readouterr().err
