"""What a run keeps of its completions: which ones, their rewards, and how sure the policy was of each token."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from made_rollouts import TOKENIZER, make_rollout, make_stats
from rlif.scoring.token_confidence import TokenConfidence
from rlif.training import loop
from rlif.training.options import TrainConfig
from rlif.training.samples import NUM_EXTREMES, extremes, step_rows
from runs import train


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("rewards", "rows", "expected"),
    [
        ([3.0, 1.0, 5.0, 2.0, 4.0], range(5), [2, 4, 3, 1]),
        ([3.0, 1.0, math.nan, 2.0, 4.0], range(5), [4, 0, 3, 1]),
        ([3.0, 1.0, 5.0, 2.0, 4.0], [0, 1], [0, 1]),
        ([3.0, 1.0, 5.0], range(3), [2, 1]),
        ([1.0], [0], []),
        ([math.nan, math.nan], range(2), []),
    ],
)
def test_the_rows_with_the_highest_and_the_lowest_rewards_are_taken_once(rewards, rows, expected) -> None:
    assert extremes(rewards, rows) == expected


def test_completions_that_are_the_same_are_kept_once() -> None:
    rollout = make_rollout(["1"] * 6 + ["12", "123"], num_generations=8)
    _, stats = make_stats(rollout)
    rewards = stats.entropy.new_tensor([9.0] * 6 + [5.0, 1.0]).double()
    rows = step_rows(rollout, rewards, stats, TOKENIZER, one_of_each=False)
    assert [row["completion"] for row in rows] == ["1", "123"]
    rows = step_rows(rollout, rewards, stats, TOKENIZER, one_of_each=True)
    assert [row["reward"] for row in rows] == [9.0, 1.0]  # the first of the prompt is one of these


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_iterations": 2, "scale_rewards": "batch"},  # advantages known before the loss
        {"max_tokens_per_forward": 24},
        {"share_prompts": False, "fused_head": False},
    ],
    ids=str,
)
def test_the_reward_of_a_completion_is_the_mean_of_what_is_kept_of_its_tokens(
    changes: dict[str, object], make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config(reward=("self_certainty",), max_steps=1, **changes)
    rows = rows_of(train(replace(config, eval_data=config.data)).run_dir)
    rewarded = [row for row in rows if row["split"] == "train"]
    assert len(rewarded) == 2 * NUM_EXTREMES
    for row in rewarded:
        sureness = row["tokens"]["self_certainty"]
        assert row["reward"] == pytest.approx(sum(sureness) / len(sureness), rel=5e-3)  # three digits of each
    assert [row["reward"] for row in rewarded] == sorted((row["reward"] for row in rewarded), reverse=True)
    for row in rows:
        tokens = TokenConfidence.from_json(row["completion"], row["tokens"])
        assert "".join(tokens.texts) == row["completion"]
        # 30 bytes a token, of all but the shortest: these have the names too.
        assert len(json.dumps(row["tokens"])) / len(tokens.texts) < 45
        assert not row["finished"] or tokens.texts[-1] == ""  # the end, of which the policy is sure or not, too
        assert (row["reward"] is None) is (row["split"] == "eval")


def test_a_reward_that_applies_to_nothing_is_null(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    reward = tmp_path / "mine.py"
    reward.write_text("def none(completions, **_):\n    return [None] * len(completions)\n")
    rows = rows_of(train(make_config(reward=(f"{reward}:none",), max_steps=1)).run_dir)
    assert rows
    assert {row["reward"] for row in rows} == {None}


def test_rows_of_a_step_are_there_before_it_is_evaluated(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a run that is stopped in the evaluation, and goes on, has them once."""
    config = make_config(max_steps=2)
    config = replace(config, eval_data=config.data)
    whole = rows_of(train(replace(config, output_dir=config.output_dir.with_name("whole"))).run_dir)
    evaluate = loop.Run.evaluate

    def interrupted(run: loop.Run, step: int) -> object:
        if step == 1:
            raise KeyboardInterrupt
        return evaluate(run, step)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt, match="stopped after step 1"):
            train(config)
    train(replace(config, resume=True))
    assert rows_of(config.output_dir) == whole
