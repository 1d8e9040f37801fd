"""The suite `rlcr` makes a model that knows the form, trains it, goes on where it stopped, and draws its table."""

from itertools import islice

import pytest

from benchmarks.report.rlcr import rlcr
from benchmarks.runner import Options
from benchmarks.steps import kept_runs
from benchmarks.steps import rlcr as suite
from rlif.answers.extract import stated_answer
from rlif.answers.tags import read_tags, strict_confidence
from rlif.demo.options import DemoConfig
from rlif.tasks.arithmetic import ArithmeticConfig
from rlif.tasks.options import BaseModelConfig
from rlif.tasks.tokenizer import build_tokenizer


def test_the_tags_are_tokens_and_a_tagged_solution_has_the_form_that_is_rewarded():
    tokenizer = build_tokenizer()
    before = len(tokenizer)
    tokenizer.add_tokens(list(suite.TAGS))
    assert len(tokenizer) == before + len(suite.TAGS)
    confidences = set()
    for _, solution in islice(suite.tagged_solutions(DemoConfig()), 100):
        ids = tokenizer(solution)["input_ids"]
        assert tokenizer.decode(ids) == solution
        assert len(ids) < suite.max_completion_length()
        tags = read_tags(solution)
        assert tags.well_formed
        assert stated_answer(solution).tier == "tag"
        confidences.add(strict_confidence(tags.confidence))
    assert confidences == {level / 10 for level in range(11)}


@pytest.mark.slow
def test_every_run_is_measured_and_what_is_finished_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path / "cache"))
    base = BaseModelConfig(task=ArithmeticConfig(digits=1), hidden_size=64, num_hidden_layers=1, pretraining_steps=60,
                           pretraining_batch_size=16)  # fmt: skip
    monkeypatch.setattr(suite, "demo_config", lambda seed: DemoConfig(seed=seed, base=base))
    monkeypatch.setattr(suite, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(suite, "SIZES", {"tiny": (300, 2, 4, 6, 2)})  # enough to learn the form
    monkeypatch.setattr(suite, "TUNING_BATCH_SIZE", 32)
    options = Options(tmp_path, size="tiny")
    first = {"missing": {}, "entries": []}
    suite.add_start(options, first)
    suite.add_run(options, "RLCR", 0, first)
    assert [entry["run"] for entry in first["entries"]] == ["start", "RLCR"]
    # One layer does not learn all of the form; without tuning none of it.
    assert all(stated > 0 for stated in [entry["held_out"]["stated"] for entry in first["entries"]])
    monkeypatch.setattr(kept_runs, "train", None)
    again = {"missing": {}, "entries": []}
    suite.add_start(options, again)
    suite.add_run(options, "RLCR", 0, again)
    assert again == first
    assert "| RLCR | " in rlcr(first)
