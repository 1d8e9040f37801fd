"""The scores that a made-up training followed are named, and those that it did not are not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from sklearn.metrics import roc_auc_score

from rlif.explanation.measure import Explanation, measure, regression
from rlif.explanation.report import sentences, show
from rlif.explanation.samples import Samples
from rlif.metrics.bootstrap import Bootstrap, Estimate

PROMPTS, SIZE = 40, 4
CHANCE = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _the_same_draws_for_each_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.CHANCE", np.random.default_rng(0))


def draw(weights: dict[str, float], *, moved: float = 1.0) -> tuple[Samples, Explanation]:
    """Two models whose implicit reward is a weighted sum of scores, with noise and an offset of each prompt."""
    shape = PROMPTS, 2 * SIZE
    scores = {name: CHANCE.normal(size=shape) for name in ("self_certainty", "length")}
    # A tuned model makes more of what was rewarded.
    scores["verifiable"] = (CHANCE.random(shape) < 0.5).astype(float)
    for name, weight in weights.items():
        scores[name][:, :SIZE] += 0.0 if name == "verifiable" else weight
    noise = 0.1 * CHANCE.normal(size=shape)
    offset = 5 * CHANCE.normal(size=(PROMPTS, 1))
    reward = moved * (offset + noise + sum(weight * scores[name] for name, weight in weights.items()))
    states = np.stack([scores["length"], CHANCE.normal(size=shape)], axis=-1)
    samples = Samples(reward, scores, states.astype(np.float16))
    return samples, measure(samples, resamples=200)


@pytest.mark.parametrize("name", ["self_certainty", "verifiable", "length"])
def test_the_score_that_was_rewarded_comes_first(name: str) -> None:
    _, found = draw({name: 1.0})
    named = next(iter(found.scores))
    assert (named == name) == (name != "length")  # which may be brought about, but is no reward
    measures = found.scores[name]
    assert measures.concordance.low > 0.9
    assert 0.9 < measures.coefficient.value < 1.05  # in standard deviations, less the noise and the ridge
    assert found.explained.value > 0.9
    for other in found.scores.keys() - {name}:
        assert found.scores[other].concordance.low < 0.55
        assert abs(found.scores[other].coefficient.value) < 0.1
    assert any(f"{name}: of two completions of a prompt, the one with higher" in each for each in sentences(found))


def test_a_score_that_was_punished_is_said_to_be_so() -> None:
    _, found = draw({"length": -1.0})
    assert found.scores["length"].concordance.high < 0.1
    assert any("the one with lower length was preferred" in sentence for sentence in sentences(found))


def test_a_training_that_no_score_explains_is_said_to_be_so() -> None:
    _, found = draw({"self_certainty": 1.0})
    chance = Estimate(0.52, 0.45, 0.6)
    by_chance = {name: replace(measures, concordance=chance) for name, measures in found.scores.items()}
    text = " ".join(sentences(replace(found, scores=by_chance)))
    assert "None of the rewards compared explains the training. The nearest is" in text
    assert "best" not in text
    assert "told apart from" not in text


def test_a_score_that_never_parts_from_the_named_one_is_said_to_be_no_worse() -> None:
    samples, _ = draw({"self_certainty": 1.0})
    twin = samples.scores | {"majority_vote": 2 * samples.scores["self_certainty"]}
    found = measure(Samples(samples.implicit_reward, twin, samples.states), resamples=50)
    assert math.isnan(found.parted["self_certainty"]["majority_vote"].value)
    assert any("told apart from majority_vote: they hardly ever part." in sentence for sentence in sentences(found))
    assert not any("told apart from verifiable" in sentence for sentence in sentences(found))


def test_what_varies_in_one_prompt_alone_has_no_interval_and_is_left_out() -> None:
    samples, _ = draw({"self_certainty": 1.0})
    ended = np.ones_like(samples.implicit_reward)
    ended[0, 0] = 0  # of one prompt every resample says the same
    found = measure(Samples(samples.implicit_reward, samples.scores | {"ended": ended}, samples.states), resamples=50)
    assert "ended" not in found.scores
    ended[1, 0] = 0
    found = measure(Samples(samples.implicit_reward, samples.scores | {"ended": ended}, samples.states), resamples=50)
    assert "ended" in found.scores


def test_a_divergence_below_zero_is_said_to_be_of_too_few_completions() -> None:
    _, found = draw({"self_certainty": 1.0})
    assert "below 0" not in sentences(replace(found, kl=Estimate(0.2, 0.1, 0.3)))[0]
    assert "so few completions hardly tell it from none" in sentences(replace(found, kl=Estimate(0.02, -0.1, 0.3)))[0]


def test_no_name_is_cut_in_a_narrow_terminal() -> None:
    _, found = draw({"self_certainty": 1.0})
    console = Console(record=True, width=80)
    show(found, console)
    first_column = "".join(line.split("│")[1].strip() for line in console.export_text().splitlines() if "│" in line)
    assert all(name in first_column for name in found.scores)


def test_it_is_told_on_which_side_a_training_was_where_two_scores_part() -> None:
    _, sure = draw({"self_certainty": 1.0})
    _, right = draw({"verifiable": 1.0})
    assert sure.scores["self_certainty"].against_right is not None
    assert sure.scores["self_certainty"].against_right.high < 0.1  # it preferred the surer wrong one
    assert right.scores["self_certainty"].against_right is not None
    assert right.scores["self_certainty"].against_right.low > 0.9
    assert right.scores["verifiable"].against_right is None


def test_scores_that_come_with_each_other_are_told_apart_where_they_part() -> None:
    shape = PROMPTS, 2 * SIZE
    sure = CHANCE.normal(size=shape)
    right = (sure + 0.5 * CHANCE.normal(size=shape) > 0).astype(float)
    length = -sure - 0.3 * CHANCE.normal(size=shape)
    scores = {"verifiable": right, "length": length, "self_certainty": sure}
    states = np.zeros((*shape, 2), dtype=np.float16)
    for followed, other in (("self_certainty", "verifiable"), ("verifiable", "self_certainty")):
        found = measure(Samples(scores[followed] + 0.01 * CHANCE.normal(size=shape), scores, states), resamples=200)
        assert list(found.scores) == [followed, other, "length"]
        assert found.scores[other].concordance.low > 0.6  # it seems to be rewarded, too
        assert found.parted[followed][other].low > 0.8
        assert found.parted[other][followed].value == pytest.approx(1 - found.parted[followed][other].value)


def test_the_measures_are_those_of_scipy_and_scikit_learn() -> None:
    samples, found = draw({"self_certainty": 1.0, "length": 0.5})
    rows = list(zip(samples.implicit_reward, samples.scores["length"], strict=True))
    measures = found.scores["length"]
    assert measures.spearman.value == pytest.approx(np.mean([stats.spearmanr(*row).statistic for row in rows]))
    assert measures.kendall.value == pytest.approx(np.mean([stats.kendalltau(*row).statistic for row in rows]))
    # Without ties the concordance is (tau + 1) / 2.
    assert measures.concordance.value == pytest.approx((measures.kendall.value + 1) / 2)
    one, other = (values - values.mean(axis=1, keepdims=True) for values in (samples.implicit_reward,
                                                                          samples.scores["length"]))  # fmt: skip
    assert measures.pearson.value == pytest.approx(stats.pearsonr(one.ravel(), other.ravel()).statistic)
    right, reward = samples.scores["verifiable"], samples.implicit_reward
    pairs = right.sum(axis=1) * (1 - right).sum(axis=1)
    by_prompt = [roc_auc_score(*row) if pair else 0 for *row, pair in zip(right, reward, pairs, strict=True)]
    assert found.scores["verifiable"].concordance.value == pytest.approx(np.average(by_prompt, weights=pairs))


def test_the_coefficients_are_those_of_a_regression_on_scores_without_their_prompts_means() -> None:
    samples, _ = draw({"self_certainty": 1.0, "length": 0.5})
    found, explained = regression(samples.implicit_reward, samples.scores, Bootstrap(PROMPTS, resamples=10, seed=0))
    columns = [samples.implicit_reward, *samples.scores.values()]
    y, *x = (values - values.mean(axis=1, keepdims=True) for values in columns)
    standard = np.stack([(values / values.std()).ravel() for values in x], axis=1)
    gram = standard.T @ standard
    expected = np.linalg.solve(gram + 0.01 * np.diag(np.diag(gram)), standard.T @ (y / y.std()).ravel())
    assert [each.value for each in found.values()] == pytest.approx(expected)
    left = (y / y.std()).ravel() - standard @ expected
    assert explained.value == pytest.approx(1 - left @ left / len(left))


def test_a_reward_that_is_learnt_on_other_prompts_tells_models_apart_only_where_they_differ() -> None:
    _, moved = draw({"length": 1.0})
    assert moved.told_apart["text"].low > 0.6  # the states hold the length
    _, same = draw({"verifiable": 1.0})
    assert same.told_apart["text"].low < 0.5


def test_models_that_are_the_same_have_no_training_to_explain() -> None:
    _, found = draw({"length": 1.0}, moved=0.0)
    assert found.kl.value == 0
    assert math.isnan(found.explained.value)
    assert found.scores["length"].concordance.value == 0.5
    assert sentences(found)[-1] == "That is nothing: there is no training to explain."


def test_where_no_reward_varies_in_two_prompts_nothing_is_said_to_explain_the_training() -> None:
    _, found = draw({"length": 1.0})
    effects = {name: each for name, each in found.scores.items() if name == "length"}
    for scores in ({}, effects):
        last = sentences(replace(found, scores=scores))[-1]
        assert last.startswith(
            "No reward differs among the completions of two prompts or more, so that none can be told"
        )


def test_scores_that_do_not_vary_or_do_not_apply_are_left_out() -> None:
    samples, _ = draw({"length": 1.0})
    nothing = np.full_like(samples.implicit_reward, np.nan)
    scores = samples.scores | {"verifiable": nothing, "ended": np.ones_like(nothing)}
    found = measure(Samples(samples.implicit_reward, scores, samples.states), resamples=50)
    assert found.scores.keys() == {"self_certainty", "length"}
    assert found.accuracy is None
    assert found.scores["length"].against_right is None
