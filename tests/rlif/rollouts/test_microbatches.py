"""Parts of a rollout stay within the budget of tokens, and together they are the rollout."""

from __future__ import annotations

from dataclasses import replace

from rlif.data.prompts import Prompt
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.microbatches import groups_fit, microbatches, pack_sharing
from rlif.rollouts.sample import sample
from rlif.training.options import TrainConfig


def test_microbatches_stay_within_the_budget_and_lose_nothing(language_model: LanguageModel) -> None:
    config = TrainConfig(model="m", data="d", num_generations=4, max_completion_length=12)
    prompts = encode_prompts(language_model, [Prompt("1"), Prompt("10+200=30"), Prompt("7+8")], 12)
    rollout = sample(
        replace(language_model, eos_token_ids=(1, 5, 9)),
        prompts,
        num_generations=config.num_generations,
        max_completion_length=12,
        temperature=1.0,
        seeds=[(0,), (1,), (2,)],
    )
    everything = list(range(12))
    for budget in (1, 20, 40, 100, 1000):
        for whole_groups in (False, True):
            parts = microbatches(rollout, everything, budget, whole_groups=whole_groups)
            assert sorted(row for part in parts for row in part) == everything
            for part in parts:
                size = rollout.select(part).prompt_ids.numel() + rollout.select(part).completion_ids.numel()
                assert size <= budget or len(part) == (4 if whole_groups else 1)
                if whole_groups:
                    assert part == [row for start in part[::4] for row in range(start, start + 4)]
    assert groups_fit(rollout, 1000)
    assert not groups_fit(rollout, 20)


def test_a_prompt_that_rows_share_counts_once_and_parts_are_filled_up() -> None:
    prompts, completions = [10] * 4 + [3] * 4 + [6] * 2, [5, 5, 5, 5, 1, 2, 3, 4, 7, 7]
    numbers = [0] * 4 + [1] * 4 + [2] * 2
    groups, rows = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]], [[row] for row in range(10)]
    assert pack_sharing(groups, numbers, prompts, completions, 30 + 20 + 13) == [[0, 1, 2, 3, 8, 9, 4, 5, 6, 7]]
    # 30 tokens of the first group and 13 of the second are just 43; the third, 20, stands alone.
    assert pack_sharing(groups, numbers, prompts, completions, 43) == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9]]
    # 25 hold three completions of the first prompt, and then only whole groups that are no larger.
    assert pack_sharing(rows, numbers, prompts, completions, 25) == [[0, 1, 2], [8, 9], [3], [4, 5, 6, 7]]
    assert pack_sharing(rows, numbers, prompts, completions, 1) == [[row] for row in (0, 1, 2, 3, 8, 9, 7, 6, 5, 4)]
