"""Evaluation measures what its metrics are named after, over all prompts, and repeats exactly."""

import math
from dataclasses import replace

import pytest
import torch

from made_rollouts import make_rollout, make_stats
from rlif.data.prompts import Prompt
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt, encode_prompts
from rlif.rollouts.rollout import Rollout
from rlif.scoring.scorer import Scorer
from rlif.scoring.start_model import StartModel
from rlif.training import validation
from rlif.training.validation import mean_metrics, rollout_totals
from runs import MakeConfig, evaluated
from tiny_models import EOS, frozen_copy, frozen_start_model


@pytest.fixture
def prompts(language_model: LanguageModel) -> list[EncodedPrompt]:
    rows = [Prompt(f"{a}+{b}=", str(a + b)) for a in (1, 20) for b in (3, 4, 50)]
    return encode_prompts(language_model, rows, 6)


def test_metrics_are_what_their_names_say(
    language_model: LanguageModel,
    prompts: list[EncodedPrompt],
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    language_model = replace(language_model, eos_token_ids=(EOS, 5, 9))
    rollouts: list[Rollout] = []
    sample = validation.sample
    texts = ["#### 4", "#### 5", "no answer", "####"]  # right for the first prompt, wrong, unparsed, unparsed

    def record(*args: object, **settings: object) -> Rollout:
        rollout = sample(*args, **settings)  # type: ignore[arg-type]
        rollouts.append(replace(rollout, texts=texts * 6, answers=["4"] * 4 + ["9"] * 8 + [None] * 12))
        return rollouts[-1]

    monkeypatch.setattr(validation, "sample", record)
    start = frozen_copy(language_model.model)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.mul_(0.9)
    # The start model was asked about the first four prompts, of which two have a majority answer.
    consensus = ["5", None, "4", None]
    metrics = evaluated(
        language_model, StartModel(Scorer(start, None)), prompts, make_config(prompts_per_step=6), consensus
    ).metrics
    (rollout,) = rollouts
    tokens = int(rollout.completion_mask.sum())
    assert metrics["accuracy"] == 1 / 12  # of the 12 completions whose prompt has an answer
    assert metrics["parse_rate"] == 0.5
    assert metrics["agreement"] == 1 / 4  # the two answers of a group differ
    assert (metrics["consensus"], metrics["num_compared"], metrics["consensus_prompts"]) == (1 / 4, 8, 1 / 2)
    assert metrics["completion_length"] == tokens / 24
    assert metrics["eos_rate"] == rollout.finished.double().mean().item()

    entropy, base_nll, drifts = 0.0, 0.0, []
    for row in range(24):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
        completion = rollout.completion_ids[row][rollout.completion_mask[row]]
        ids = torch.cat([prompt, completion])[None]
        with torch.no_grad():
            log_p = language_model.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
            base = start(ids).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
        entropy -= (log_p.exp() * log_p).sum().item()
        base_logprob, logprob = (each.gather(1, completion[:, None]).double() for each in (base, log_p))
        base_nll -= base_logprob.sum().item()
        k3 = (base_logprob - logprob).exp() - (base_logprob - logprob) - 1
        drifts.append((k3.sum() - base_logprob.sum()).item())
    assert metrics["entropy"] == pytest.approx(entropy / tokens, rel=1e-4)  # float32
    assert metrics["base_nll"] == pytest.approx(base_nll / tokens, rel=1e-4)
    assert metrics["kl"] > 0
    # The error of a ratio of two sums over independent completions, by the delta method.
    lengths = rollout.completion_mask.sum(dim=1).tolist()
    ratio = sum(drifts) / tokens
    residuals = [drift - ratio * length for drift, length in zip(drifts, lengths, strict=True)]
    assert metrics["base_nll_error"] == pytest.approx(math.hypot(*residuals) / tokens, rel=1e-4)


def test_an_evaluation_repeats_exactly_and_leaves_the_policy_alone(
    language_model: LanguageModel, prompts: list[EncodedPrompt], make_config: MakeConfig
) -> None:
    start_model = frozen_start_model(language_model.model)
    first = evaluated(language_model, start_model, prompts, make_config())
    assert evaluated(language_model, start_model, prompts, make_config()) == first
    assert all(parameter.grad is None for parameter in language_model.model.parameters())


def test_greedy_evaluation_gives_every_completion_of_a_prompt_the_same_text(
    language_model: LanguageModel,
    prompts: list[EncodedPrompt],
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts: list[str] = []
    sample = validation.sample

    def record(*args: object, **settings: object) -> Rollout:
        rollout = sample(*args, **settings)  # type: ignore[arg-type]
        texts.extend(rollout.texts)
        return rollout

    monkeypatch.setattr(validation, "sample", record)
    config = make_config(eval_temperature=0.0, eval_generations=2)
    evaluated(language_model, frozen_start_model(language_model.model), prompts, config)
    assert len(texts) == 12
    assert texts[::2] == texts[1::2]


def test_every_prompt_is_evaluated_once_however_small_the_batches(
    language_model: LanguageModel,
    prompts: list[EncodedPrompt],
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    sample = validation.sample

    def record(model: LanguageModel, batch: list[EncodedPrompt], **settings: object) -> Rollout:
        sizes.append(len(batch))
        return sample(model, batch, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(validation, "sample", record)
    config = make_config(
        prompts_per_step=2, num_generations=4, eval_generations=2
    )  # 8 completions: 4 prompts at a time
    evaluation = evaluated(language_model, frozen_start_model(language_model.model), prompts, config)
    assert sizes == [4, 2]
    assert [sample["prompt"] for sample in evaluation.samples] == [prompt.text for prompt in prompts]


def test_without_gold_answers_there_is_no_accuracy(language_model: LanguageModel, make_config: MakeConfig) -> None:
    prompts = encode_prompts(language_model, [Prompt("1+2="), Prompt("3+4=")], 6)
    metrics = evaluated(language_model, frozen_start_model(language_model.model), prompts, make_config()).metrics
    assert "accuracy" not in metrics
    assert "parse_rate" in metrics


def test_completions_without_tokens_are_counted_where_there_are_any() -> None:
    rollout = make_rollout(["#### 2", "7"])
    _, stats = make_stats(rollout)
    assert "empty_completions" not in mean_metrics(rollout_totals(rollout, stats, None))
    rollout.completion_mask[1] = False
    assert mean_metrics(rollout_totals(rollout, stats, None))["empty_completions"] == 0.5
