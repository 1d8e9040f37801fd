"""Scores of the sampling pass are those of a forward over the completions."""

from __future__ import annotations

import torch

from rlif.models.language_model import LanguageModel
from rlif.rewards import REWARDS
from rlif.rewards.interface import describe
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.sample import sample
from rlif.scoring.confidence import OUTPUTS, confidence_scores
from rlif.scoring.scorer import Scorer

SCORES = {
    "self_certainty",
    "token_entropy",
    "trajectory_entropy",
    "sequence_logprob",
    "inverse_perplexity",
    "entropy_confidence",
    "probability_disparity",
}


def test_scores_of_the_sampling_pass_are_the_rewards_of_their_names(language_model: LanguageModel) -> None:
    ids = language_model.tokenizer("1+2=")["input_ids"]
    prompts = [EncodedPrompt("1+2=", "3", ids)]
    rollout = sample(
        language_model,
        prompts,
        num_generations=16,
        max_completion_length=12,
        temperature=0.7,
        seeds=[(0, 0)],
        outputs=OUTPUTS,
    )
    vocab_size = language_model.model.config.vocab_size
    scores = confidence_scores(rollout, language_model.tokenizer, vocab_size)
    assert set(scores) == SCORES
    with torch.no_grad():
        stats = Scorer(language_model.model, None)(rollout, 0.7, OUTPUTS)
    inputs = {
        "stats": stats,
        "completion_mask": rollout.completion_mask,
        "completions": rollout.texts,
        "completion_ids": rollout.completion_ids,
        "tokenizer": language_model.tokenizer,
    }
    for name in scores.keys() & REWARDS.keys():
        reward = describe(name, REWARDS[name], 1.0)
        expected = reward.function(**reward.arguments(inputs))
        # Sums of a dozen float32 statistics of logits that were computed in two ways: token by token and all at once.
        torch.testing.assert_close(scores[name], expected, rtol=1e-4, atol=1e-3)
    for name in ("inverse_perplexity", "entropy_confidence"):
        assert ((scores[name] >= 0) & (scores[name] <= 1)).all()
