"""The suite `length-conditioned` trains in every way, goes on where it stopped, and draws its table."""

import json
import math
import re
from itertools import islice

import pytest

from benchmarks.report.length_conditioned import length_conditioned
from benchmarks.runner import Options
from benchmarks.steps import length_conditioned as suite
from rlif.tasks.arithmetic import ArithmeticConfig, teacher_solutions
from rlif.tasks.options import BaseModelConfig


def test_of_two_solutions_the_likelier_one_is_preferred_and_the_same_one_twice_makes_no_pair():
    def solution(ids, perplexity):
        return {"text": "".join(map(str, ids)), "ids": ids, "confidence": {"inverse_perplexity": perplexity}}

    completions = [solution([5, 6], 0.5), solution([5, 6, 7, 8], 0.6), solution([5, 6], 0.5), solution([9], 0.3)]
    row = suite.with_logprobs({"prompt": "1+1=", "prompt_ids": [4], "completions": completions})
    logprobs = [each["confidence"]["sequence_logprob"] for each in row["completions"]]
    # Sums: of two tokens of probability 0.5, of four of 0.6, of one of 0.3.
    assert logprobs == pytest.approx([math.log(p) for p in (0.25, 0.1296, 0.25, 0.3)])
    pairs = [(pair["chosen_ids"], pair["rejected_ids"]) for pair in suite.preferences([row])]
    assert pairs == [([5, 6], [5, 6, 7, 8]), ([9], [5, 6]), ([9], [5, 6, 7, 8])]


def test_steps_are_written_twice_as_often_in_right_solutions_as_in_wrong_ones_and_lengths_asked_for_are_kept():
    task = ArithmeticConfig()
    shares, kept = {True: [], False: []}, []
    written = islice(zip(suite.twice_written(task, 0), teacher_solutions(task, 0), strict=True), 2000)
    for (asked, longer), (prompt, solution) in written:
        if asked != prompt:  # a length is asked for, in tokens with the end
            direction, n = re.fullmatch(re.escape(prompt) + r"\?([-+])(\d+)\n", asked).groups()
            kept.append(len(longer) + 1 <= int(n) if direction == "-" else len(longer) + 1 >= int(n))
        lines, original = longer.split("\n"), solution.split("\n")
        assert list(dict.fromkeys(lines)) == list(dict.fromkeys(original))
        is_right = int(original[-1].removeprefix("#### ")) == sum(map(int, prompt.split("+")))
        shares[is_right].append(len(lines) / len(original))
    means = {kind: sum(each) / len(each) for kind, each in shares.items()}
    # The mean of a thousand solutions, whose lengths differ by a third of themselves, is exact to a hundredth.
    assert means[True] == pytest.approx(means[False], abs=0.04)
    assert min(map(min, shares.values())) == 1
    assert max(map(max, shares.values())) > 1.5
    assert all(kept)
    assert len(kept) / 2000 == pytest.approx(suite.INSTRUCTED, abs=0.04)


@pytest.mark.slow
def test_every_training_is_measured_and_what_is_finished_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path / "cache"))
    base = BaseModelConfig(task=ArithmeticConfig(digits=1), hidden_size=64, num_hidden_layers=1, pretraining_steps=60,
                           pretraining_batch_size=16)  # fmt: skip
    monkeypatch.setattr(suite, "base_config", lambda: base)
    monkeypatch.setattr(suite, "RUNS", tmp_path / "runs")
    options = Options(tmp_path, size="tiny")

    def measured():
        results = {"missing": {}, "entries": []}
        for step in suite.steps(options):
            step.run(results)
        return results

    first = measured()
    assert [entry["objective"] for entry in first["entries"]] == ["", *["reward_model"] * 3, *["dpo"] * 3]
    assert [entry["variant"] for entry in first["entries"][1:]] == [*suite.VARIANTS] * 2
    monkeypatch.setattr(suite, "learn_solutions", None)
    monkeypatch.setattr(suite, "write_directory", None)
    again = measured()
    assert json.dumps(again) == json.dumps(first)
    drawn = length_conditioned(first)
    assert drawn.count("| reward model | ") == drawn.count("| DPO | ") == 3
