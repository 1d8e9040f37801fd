"""Each rule decides where its measure is beyond its threshold, and the verdict says how far other prompts agree."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlif.diagnosis.verdict import Thresholds, lab_record, model_warnings, rule, thresholds_for, verdict
from rlif.metrics.bootstrap import Resampled

# A model whose groups disagree, and a reward that knows which side to take.
HOPEFUL = {
    "entropy": 0.3,
    "agreement": 0.5,
    "common_answer": 0.02,
    "repetition": 0.01,
    "alignment": 0.8,
    "frac_reward_zero_std": 0.0,
    "length_correlation": -0.3,
    "eos_rate": 1.0,
    "parse_rate": 1.0,
}


@pytest.mark.parametrize(
    ("changes", "outlook", "reason"),
    [
        ({}, "likely to help", "there is room: 50% of a group state its most common answer"),
        ({"agreement": 0.2}, "risk of collapse", "only 20% of a group state its most common answer"),
        ({"common_answer": 0.9}, "risk of collapse", "90% of the prompts get the same answer"),
        # Where answers are missing, what the others would say is not known: neither collapse nor its contrary.
        (
            {"parse_rate": 0.0, "agreement": 0.0, "alignment": math.nan},
            "cannot tell",
            "only 0% of the completions state",
        ),
        ({"parse_rate": 0.4, "agreement": 0.1, "common_answer": 1.0}, "cannot tell", "(less than 50%)"),
        ({"repetition": 0.7}, "risk of collapse", "70% of what the model says repeats itself"),
        (
            {"alignment": 0.3},
            "risk of collapse",
            "too little to do with the answers: its correlation with agreeing is 0.30",
        ),
        ({"alignment": 0.7}, "likely to help", "there is room"),
        # The more a model has right, the more a reward that prefers something else breaks.
        ({"alignment": 0.7, "agreement": 0.7}, "risk of collapse", "0.70 (less than 0.80 at an agreement of 70%)"),
        ({"alignment": -0.8}, "risk of collapse", "its correlation with agreeing is -0.80"),
        ({"agreement": 0.95}, "little to gain", "95% of a group state the same answer already"),
        ({"entropy": 0.05}, "little to gain", "the model is sure already: 0.05 nats a token"),
        ({"untempered_entropy": 0.05}, "little to gain", "sure already: 0.05 nats a token at temperature 1 (less"),
        ({"entropy": 0.05, "untempered_entropy": 0.3}, "likely to help", "there is room"),
        ({"frac_reward_zero_std": 0.95}, "little to gain", "the same throughout 95% of the groups"),
        ({"agreement": 1.0, "alignment": math.nan}, "little to gain", "100% of a group state the same answer already"),
        ({"alignment": math.nan}, "little to gain", "in no group some completions agree and others do not"),
        # A control such as `format` prefers nothing where all completions have it.
        ({"frac_reward_zero_std": 0.95, "alignment": 0.1}, "little to gain", "the same throughout 95% of the groups"),
        # What has collapsed is sure and agrees: the risk comes first.
        ({"common_answer": 0.9, "agreement": 1.0, "entropy": 0.0}, "risk of collapse", "90% of the prompts"),
    ],
)
def test_the_first_rule_that_applies_decides(changes: dict[str, float], outlook: str, reason: str) -> None:
    ruling = rule(HOPEFUL | changes, "self_certainty", Thresholds())
    assert ruling.outlook == outlook
    assert reason in ruling.reasons[0]


def test_a_reward_of_agreement_gets_no_credit_for_knowing_the_majority() -> None:
    assert "which is what it rewards" in rule(HOPEFUL, "majority_vote", Thresholds()).reasons[1]
    assert "which is what it rewards" not in rule(HOPEFUL, "token_entropy", Thresholds()).reasons[1]


def test_sureness_is_the_share_of_resamples_with_the_same_outlook() -> None:
    measures = {name: Resampled(value, np.full(10, value)) for name, value in HOPEFUL.items()}
    assert verdict(measures, "self_certainty", Thresholds()).sureness == 1.0
    agreement = np.array([0.5] * 7 + [0.95] * 3)
    measures["agreement"] = Resampled(0.5, agreement)
    assert verdict(measures, "self_certainty", Thresholds()).sureness == 0.7


def test_a_reward_that_mainly_measures_length_is_warned_of() -> None:
    def warnings(correlation: float) -> tuple[str, ...]:
        values = HOPEFUL | {"length_correlation": correlation}
        measures = {name: Resampled(value, np.full(3, value)) for name, value in values.items()}
        return verdict(measures, "sequence_logprob", Thresholds()).warnings

    assert warnings(-0.3) == ()
    assert "prefers short completions (correlation -0.80" in warnings(-0.8)[0]
    assert "prefers long completions" in warnings(0.8)[0]


def test_measures_of_completions_cut_off_or_without_an_answer_are_warned_of() -> None:
    measures = {name: Resampled(value, np.empty(0)) for name, value in HOPEFUL.items()}
    assert model_warnings(measures, Thresholds()) == ()
    doubtful = measures | {name: replace(measures[name], value=0.25) for name in ("eos_rate", "parse_rate")}
    cut_off, unstated = model_warnings(doubtful, Thresholds())
    assert cut_off.startswith("75% of the completions were cut off: raise max_completion_length")
    assert unstated.startswith("only 25% of the completions state an answer")
    assert "answer_style lenient" in unstated
    assert "answer_style" not in model_warnings(doubtful, Thresholds(), "lenient")[1]


def test_a_large_vocabulary_has_the_entropy_threshold_of_the_paper() -> None:
    # 2506.17219: 3B models with 152k tokens gained at .81 and .71 nats a token, and did not at .44 and .38
    large = thresholds_for(151_936)
    found = [rule(HOPEFUL | {"entropy": entropy}, "x", large).outlook for entropy in (0.81, 0.71, 0.44, 0.38)]
    assert found == ["likely to help"] * 2 + ["little to gain"] * 2
    assert thresholds_for(19).min_entropy < HOPEFUL["entropy"]


def test_nothing_is_said_of_a_lab_that_has_no_findings(tmp_path: Path) -> None:
    assert lab_record("likely to help", tmp_path / "missing.json") is None
    path = tmp_path / "lab_findings.json"
    path.write_text(json.dumps({"verdicts": {"likely to help": {"agreed": 7, "pairs": 8}}}))
    record = lab_record("likely to help", path)
    assert record is not None
    assert (record.agreed, record.pairs) == (7, 8)
    assert lab_record("little to gain", path) is None
