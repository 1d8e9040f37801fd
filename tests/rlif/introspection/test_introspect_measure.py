"""What turns are worth is what is counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlif.files.checksums import sealed
from rlif.files.jsonl import write_rows
from rlif.introspection.measure import Taken, measure, read_taken

NAN = np.nan


def row(gold: str | None, stated: list[str | None], samples: list[str | None], tokens: int) -> dict[str, object]:
    return {
        "prompt": "p", "answer": gold, "completions": ["x"] * len(stated), "stated": stated, "end": None,
        "tokens": [tokens] * len(stated), "finished": [True] * len(stated), "samples": ["x"] * len(samples),
        "samples_stated": samples, "samples_tokens": [tokens] * len(samples), "scores": {},
    }  # fmt: skip


@pytest.fixture
def taken(tmp_path: Path) -> Taken:
    """Mended at the second turn and kept; lost at the second turn and mended; without a gold answer; too long after
    the first turn, which is right."""
    rows = [
        row("2", ["1", "2", "2"], [None, "1", "2"], 5),
        row("7", ["7", "8", "7"], ["7", "7", "7"], 4),
        row(None, ["7", "8", "7"], ["7", "7", "7"], 4),
        row("3", ["3"], ["4", "4", "4"], 6),
    ]
    write_rows(tmp_path / "eval-start.jsonl", map(sealed, rows))
    return read_taken(tmp_path / "eval-start.jsonl", 3)


def test_every_turn_is_counted(taken: Taken) -> None:
    found = taken.by_prompt()
    expected = {
        "right": [[0, 1, 1], [1, 0, 1], [1, 1, 1]],
        # Of equally common answers the first wins.
        "majority": [[0, 0, 1], [1, 1, 1], [1, 1, 1]],
        "any_right": [[0, 1, 1], [1, 1, 1], [1, 1, 1]],
        # With one sample the mean over all three; with two, of the first two.
        "samples_majority": [[1 / 3, 0, 0], [1, 1, 1], [0, 0, 0]],
        "samples_any_right": [[1 / 3, 2 / 3, 1], [1, 1, 1], [0, 0, 0]],
        "gained": [[NAN, 1, 0], [NAN, 0, 1], [NAN, 0, 0]],
        "lost": [[NAN, 0, 0], [NAN, 1, 0], [NAN, 0, 0]],
        "mended": [[NAN, 1, NAN], [NAN, NAN, 1], [NAN, NAN, NAN]],
        "kept": [[NAN, NAN, 1], [NAN, 0, NAN], [NAN, NAN, NAN]],
        "same": [[NAN, 0, 1], [NAN, 0, 0], [NAN, NAN, NAN]],
        "tokens": [15, 12, 6],
        "tokens_with_oracle": [10, 4, 6],
        "samples_tokens": [15, 12, 18],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], np.array(values), err_msg=name)
    changed = np.diff(found["right"], axis=1)
    np.testing.assert_array_equal(changed, (found["gained"] - found["lost"])[:, 1:])


def test_differences_are_of_the_same_prompts(taken: Taken) -> None:
    alone = measure({"start": taken}, resamples=50)
    assert (alone.prompts, alone.attempts) == (3, {"start": [3, 2, 2]})
    assert alone.models["start"]["kept"][1].value == 0  # of the one that was right and tried again
    assert alone.models["start"]["tokens"][0].value == 11
    assert {name: each.value for name, each in alone.compared["start"].items()} == {
        "m1@t3 less m3@t1": pytest.approx(2 / 3),
        "p1@t3 less pass@3": pytest.approx(1 / 3),
        "last turn less m1@t1": pytest.approx(1 / 3),
    }
    both = measure({"start": taken, "tuned": taken}, resamples=50).compared["tuned less start"]
    assert set(both) == {"m1@t1", "m3@t1", "m1@t3", "p1@t3", "pass@3", "m1@t3 less m3@t1 of the start"}
    # Resampled together, what is equal differs by nothing in any resample.
    assert all((each.low, each.value, each.high) == (0, 0, 0) for name, each in both.items() if " less " not in name)
    assert alone.to_json()["models"]["start"]["kept"][0]["value"] is None
