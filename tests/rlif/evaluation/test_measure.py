"""Every way of choosing and every score is measured as by hand."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from rlif.evaluation.measure import evaluate_completions
from rlif.evaluation.report import print_tables
from toy_completions import toy


def test_every_way_of_choosing_is_measured_by_hand() -> None:
    evaluation = evaluate_completions(toy(), borda_powers=(0.0, 8.0))
    values = {name: estimate.value for name, estimate in evaluation.selection.items()}
    assert values == {
        "accuracy@1": 1.0,
        "average@4": (1 / 4 + 3 / 4) / 2,
        "majority@2": (1 / 2 + 1 / 2) / 2,  # of 1, 3 | 3, none | 2, 2 | 5, 2 the first of each wins
        "majority@4": 0.5,
        "best-of-4/self_certainty": 0.5,
        "best-of-4/inverse_perplexity": 0.5,
        "borda-0/self_certainty": 0.5,
        "borda-8/self_certainty": 0.5,
        "pass@2": (1 - 3 / 6 + 1) / 2,
        "pass@4": 1.0,
    }
    assert evaluation.selection["average@4"].standard_error == pytest.approx(0.25)  # of 1/4 and 3/4
    assert evaluation.label_free["majority_share"].value == (2 / 4 + 3 / 4) / 2
    assert evaluation.label_free["answered"].value == (3 / 4 + 1) / 2
    assert evaluation.majority_answers == [("3", 0.5), ("2", 0.75)]


def test_a_score_in_nats_is_calibrated_by_regression_only_and_a_probability_as_it_is_too() -> None:
    scores = evaluate_completions(toy()).scores
    assert scores["self_certainty"].as_is is None
    assert scores["self_certainty"].isotonic is not None
    assert scores["inverse_perplexity"].as_is is not None
    assert scores["inverse_perplexity"].as_is[0] == pytest.approx(
        (0.8 + 0.6 + 0.4 + 0.8) / 8
    )  # one of two right in each bin
    # Within the first prompt the right one is on top, within the second at the bottom: the mean of 1 and 0.
    assert scores["self_certainty"].auroc_within == 0.5
    assert set(scores) == {"self_certainty", "inverse_perplexity", "agreement", "all_scores"}
    assert scores["all_scores"].as_is is not None


def test_without_gold_answers_there_is_only_what_needs_none() -> None:
    evaluation = evaluate_completions(toy(golds=[None, None]))
    assert evaluation.selection == {}
    assert evaluation.scores == {}
    assert evaluation.majority_answers == [("3", 0.5), ("2", 0.75)]
    console = Console(record=True, width=100)
    print_tables(evaluation, console)
    text = console.export_text()
    assert "no gold answers: only what needs none is measured" in text
    assert "right" not in text


def test_accuracies_are_of_the_prompts_with_a_gold_answer() -> None:
    evaluation = evaluate_completions(toy(golds=[None, "2"]))
    assert evaluation.labelled == 1
    assert evaluation.selection["average@4"].value == 0.75
    assert evaluation.scores["inverse_perplexity"].isotonic is None  # no other prompt to fit it on
    console = Console(record=True, width=100)
    print_tables(evaluation, console)
    assert "accuracies are of the 1 with a gold answer" in console.export_text()
    json.dumps(evaluation.to_json(), allow_nan=False)  # what is not a number has become null
