"""Scores are the formulas of the papers, of a whole completion and of a span, in the sampling pass and in a forward."""

from __future__ import annotations

import math

import pytest
import torch

from made_rollouts import make_rollout, make_stats
from rlif.models.language_model import LanguageModel
from rlif.rewards import REWARDS
from rlif.rewards.interface import describe_reward
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.sample import sample
from rlif.scoring.confidence import (
    CONFIDENCE_SCORES,
    EVALUATED_OUTPUTS,
    OUTPUTS,
    confidence_scores,
    entropy_confidence,
    inverse_perplexity,
    probability_disparity,
    self_certainty,
    sequence_logprob,
    span_scores,
    token_entropy,
    token_probability,
    trajectory_entropy,
)
from rlif.scoring.scorer import Scorer
from rlif.scoring.sequences import as_rollout
from tiny_models import EOS, make_model
from toy_completions import SCORE_NAMES


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
        outputs=EVALUATED_OUTPUTS,
    )
    vocab_size = language_model.model.config.vocab_size
    scores = confidence_scores(rollout, language_model.tokenizer, vocab_size, 4)
    assert set(scores) == SCORE_NAMES
    assert tuple(scores) == CONFIDENCE_SCORES
    with torch.no_grad():
        stats = Scorer(language_model.model, None)(rollout, 0.7, EVALUATED_OUTPUTS)
    inputs = {
        "stats": stats,
        "completion_mask": rollout.completion_mask,
        "stated": rollout.stated,
        "completion_ids": rollout.completion_ids,
        "tokenizer": language_model.tokenizer,
    }
    for name in scores.keys() & REWARDS.keys():
        reward = describe_reward(name, REWARDS[name], 1.0)
        expected = reward.function(**reward.arguments(inputs))
        # Sums of a dozen float32 statistics of logits that were computed in two ways: token by token and all at once.
        torch.testing.assert_close(scores[name], expected, rtol=1e-4, atol=1e-3)
    spread, mask = -stats.varentropy.where(rollout.completion_mask, 0), rollout.completion_mask
    torch.testing.assert_close(scores["token_varentropy"], spread.sum(1) / mask.sum(1), rtol=1e-4, atol=1e-3)
    for name in ("inverse_perplexity", "entropy_confidence"):
        assert ((scores[name] >= 0) & (scores[name] <= 1)).all()


def test_every_score_equals_a_slow_float64_computation_from_the_full_distributions(
    language_model: LanguageModel,
) -> None:
    prompts, completions, span = [[5, 6, 13], [4, 13]], [[7, 8, 9, EOS], [9, 10, 11, 12, 3, EOS]], slice(1, 4)
    scorer = Scorer(language_model.model, None)
    with torch.no_grad():
        rollout = as_rollout(language_model, prompts, completions)
        stats = scorer(rollout, 1.0, outputs=OUTPUTS)
        model = make_model().double().eval()
    vocab_size = model.config.vocab_size
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        disparity, probability, log_probability, entropy, certainty = [], [], [], [], []
        for t in range(span.start, span.stop):
            p = [math.exp(x) for x in logits[t].tolist()]
            p = [x / sum(p) for x in p]
            disparity.append(p[completion[t]] - sorted(p)[-2])
            probability.append(p[completion[t]])
            log_probability.append(math.log(p[completion[t]]))
            entropy.append(-sum(x * math.log(x) for x in p))
            certainty.append(sum(math.log(1 / vocab_size / x) / vocab_size for x in p))
        expected = {
            "probability_disparity": sum(disparity) / 3,
            "token_probability": sum(probability) / 3,
            "entropy_confidence": 1 - sum(entropy) / 3 / math.log(vocab_size),
            "inverse_perplexity": math.exp(sum(log_probability) / 3),
            "self_certainty": sum(certainty) / 3,
        }
        # Float32 activations and statistics against float64 ones.
        assert span_scores(stats, rollout.completion_mask, row, span, vocab_size) == pytest.approx(expected, abs=2e-5)
    assert set(span_scores(stats, rollout.completion_mask, 0, None, vocab_size).values()) == {0.0}


def test_a_completion_without_tokens_has_no_confidence_rather_than_none_that_is_a_number() -> None:
    rollout = make_rollout(["1+1=2", "7"])
    _, stats = make_stats(rollout, ("logprob", "entropy", "self_certainty", "top_probs"))
    mask = rollout.completion_mask.clone()
    mask[1] = False
    for score in (self_certainty, token_entropy, trajectory_entropy, sequence_logprob, inverse_perplexity):
        assert score(stats, mask)[1] == 0
    assert entropy_confidence(stats, mask, 18)[1] == token_probability(stats, mask)[1] == 0
    assert probability_disparity(stats, mask)[1] == 0
