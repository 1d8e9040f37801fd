"""A run says after its first step that completions lack what its rewards go by, and what may help."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlif.answers.outcomes import Outcome
from rlif.rewards import load_rewards
from rlif.rollouts.rollout import Rollout
from rlif.training.distributed import make_accelerator
from rlif.training.silence import warn_of_silence

FORMAL = "</think><answer>1</answer><analysis>sure</analysis><confidence>0.5</confidence>"


class Verifier:
    def rating(self, answer: str) -> Outcome | None:
        return Outcome.RIGHT if answer == "1" else None


def said(
    reward: str,
    texts: list[str],
    verifications: list[str] | None = None,
    *,
    finished: bool = True,
    labels: str = "majority",
) -> list[str]:
    """What a run warns of where its first step has these completions, and these verifications of some of them."""
    both = [*texts, *(verifications or ())]
    ids = torch.zeros(len(both), 1, dtype=torch.int64)
    rollout = Rollout(
        [""] * len(both), [None] * len(both), both, ids, ids == 0, ids, ids == 0,
        torch.full((len(both),), finished), len(texts), verifies=[row >= len(texts) for row in range(len(both))],
    )  # fmt: skip
    warnings: list[str] = []
    run: Any = SimpleNamespace(
        learner=SimpleNamespace(
            accelerator=make_accelerator("cpu", (), Path("unused")),
            rewards=load_rewards(reward),
            verifier=None if verifications is None else Verifier(),
            config=SimpleNamespace(verify_labels=labels),
        ),
        progress=SimpleNamespace(warn=warnings.append),
    )
    warn_of_silence(run, rollout)
    return warnings


@pytest.mark.parametrize("reward", ["rlcr", "rlcr_majority"])
def test_a_reward_for_a_form_that_no_completion_has_is_said_to_teach_nothing(reward: str) -> None:
    (warning,) = said(reward, ["#### 1", f"{FORMAL} and more"], finished=False)
    assert warning.startswith(
        f"no completion of this step has the form that {reward} rewards, which so tells none from another: try "
        "a system_prompt that asks for … </think><answer>…</answer>"
    )
    assert warning.endswith("a longer max_completion_length (100% were cut off)")
    assert said(reward, ["#### 1", FORMAL]) == []


def test_verifications_of_which_few_state_a_rating_are_said_to_teach_little() -> None:
    (warning,) = said("rise_majority", ["#### 1", "#### 2"], ["#### 3", "I do not know"])
    assert warning.startswith("no verification of this step states a rating, by which they are told apart: try a")
    assert "cut off" not in warning
    (warning,) = said("rise_majority", ["#### 1", "#### 2"], ["#### 3", "#### 1", "#### 3", "#### 20"])
    assert warning.startswith("only 25% of the verifications of this step state a rating; any other answer is rewarded")
    assert said("rise_majority", ["#### 1", "#### 2"], ["#### 3", "#### 1"]) == []


@pytest.mark.parametrize(("labels", "by"), [("gold", "gold answers"), ("majority", "the majorities of their groups")])
def test_a_step_that_verifies_nothing_says_what_that_takes(labels: str, by: str) -> None:
    (warning,) = said("rise_majority", ["#### 1", "#### 2"], [], labels=labels)
    assert warning.startswith(
        f"no completion of this step is verified, for which it takes a right one and one that is not, by {by}, and"
    )


def test_an_answer_that_a_verification_states_is_none_of_a_completion() -> None:
    (warning,) = said("rise_majority", ["so", "thus"], ["#### 1", "#### 1"])
    assert warning.startswith("no completion of this step states an answer, by which rise_majority tells them apart")
    assert said("self_certainty", ["so", "thus"]) == []
