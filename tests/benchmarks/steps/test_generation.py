"""Sampling with statistics is measured beside plain sampling."""

from benchmarks.runner import Options, run_suite
from benchmarks.steps import generation


def test_sampling_with_statistics_is_compared_with_plain_sampling_and_with_a_second_forward(tmp_path):
    options = Options(tmp_path, size="tiny")
    results = run_suite("generation", options, generation.steps(options))
    (entry,) = results["models"].values()
    assert entry["tokens"] == 2 * 2 * 4  # nothing ends a completion
    seconds = entry["seconds"]
    assert {len(values) for values in seconds.values()} == {3}
    shares = [more / plain - 1 for more, plain in zip(seconds["statistics"], seconds["plain"], strict=True)]
    assert entry["statistics_share"] == sorted(shares)[1]
    assert entry["second_forward_share"] > 0
