"""Continuous batching samples from the model's distribution and returns what one-batch sampling returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM, FalconConfig, FalconForCausalLM, PreTrainedModel

from rlif.data.prompts import Prompt
from rlif.errors import UserError
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.rollouts.draw import truncate
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.paged import check_paged, sample_paged
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.scorer import make_scorer
from rlif.training.options import TrainConfig
from rlif.training.progress import SilentProgress
from rlif.training.setup import prepare
from runs import train
from tiny_models import EOS, PAD, make_tokenizer

PROMPTS = [Prompt("1+2=", "3"), Prompt("10+200=", "210"), Prompt("7", None)]
SEEDS = [(0, position) for position in range(len(PROMPTS))]


def roll(
    language_model: LanguageModel,
    sampler: Callable[..., Rollout] = sample_paged,
    prompts: list[Prompt] = PROMPTS,
    **settings: object,
) -> Rollout:
    options: dict[str, object] = {"num_generations": 4, "max_completion_length": 12, "temperature": 1.0, "seeds": SEEDS}
    return sampler(language_model, encode_prompts(language_model, prompts, 12), **(options | settings))


@pytest.mark.parametrize(
    ("model_dir", "attention"),
    [("qwen3", "sdpa"), ("qwen3", "eager"), ("llama", "sdpa"), ("mistral", "sdpa")],
    indirect=["model_dir"],
)
@pytest.mark.parametrize("ends", [(), (EOS, 5, 8, 9, 14)])
def test_greedy_rollouts_are_those_of_one_batch(model_dir: str, ends: tuple[int, ...], attention: str) -> None:
    loaded = load_language_model(str(model_dir), device="cpu", dtype="float32", attn_implementation=attention)
    language_model = replace(loaded, eos_token_ids=ends)
    expected, rollout = (roll(language_model, sampler, temperature=0.0) for sampler in (sample, sample_paged))
    for name, value in vars(expected).items():
        ours = getattr(rollout, name)
        assert torch.equal(ours, value) if isinstance(value, Tensor) else ours == value, name
    assert language_model.model.config._attn_implementation == attention


def test_sampled_rollouts_end_with_their_first_end_token_and_are_padding_after_it(
    language_model: LanguageModel,
) -> None:
    ends = (EOS, 5, 9)
    rollout = roll(replace(language_model, eos_token_ids=ends), num_generations=20)
    assert rollout.prompts == [prompt.content for prompt in PROMPTS for _ in range(20)]
    assert rollout.answers == [prompt.answer for prompt in PROMPTS for _ in range(20)]
    assert rollout.finished.any()
    assert not rollout.finished.all()
    for ids, mask, finished, text in zip(
        rollout.completion_ids.tolist(), rollout.completion_mask.tolist(), rollout.finished, rollout.texts, strict=True
    ):
        stops = [position for position, token in enumerate(ids) if token in ends]
        length = stops[0] + 1 if stops else 12
        assert finished == bool(stops)
        assert mask == [True] * length + [False] * (len(ids) - length)
        assert ids[length:] == [PAD] * (len(ids) - length)
        assert text == language_model.tokenizer.decode(ids[:length], skip_special_tokens=True)


def test_a_completion_of_nothing_but_the_end_token_has_one_token(language_model: LanguageModel) -> None:
    vocabulary = tuple(range(language_model.model.config.vocab_size))
    rollout = roll(replace(language_model, eos_token_ids=vocabulary))
    assert rollout.completion_mask.tolist() == [[True]] * 12
    assert rollout.finished.all()


@pytest.mark.parametrize("limits", [{}, {"top_k": 4}, {"top_p": 0.7}, {"top_k": 6, "top_p": 0.8}])
def test_tokens_are_drawn_with_the_probabilities_of_the_model(
    language_model: LanguageModel, limits: dict[str, float]
) -> None:
    count, temperature = 600, 1.7
    prompt = PROMPTS[1]
    rollout = roll(
        language_model,
        prompts=[prompt],
        seeds=[(0,)],
        num_generations=count,
        max_completion_length=2,
        temperature=temperature,
        **limits,
    )
    start = torch.tensor([language_model.tokenizer(prompt.content)["input_ids"]])
    likeliest = int(rollout.completion_ids[:, 0].mode().values)
    after = rollout.completion_ids[rollout.completion_ids[:, 0] == likeliest, 1]  # of completions that began alike
    for ids, tokens in (
        (start, rollout.completion_ids[:, 0]),
        (torch.cat([start, torch.tensor([[likeliest]])], dim=1), after),
    ):
        with torch.no_grad():
            logits = language_model.model(ids).logits[:, -1]
        logits = truncate(logits, temperature, top_k=limits.get("top_k"), top_p=limits.get("top_p", 1.0))  # type: ignore[arg-type]
        probabilities = (logits[0] / temperature).softmax(dim=-1)
        frequency = torch.bincount(tokens, minlength=len(probabilities)) / len(tokens)
        assert (frequency[probabilities == 0] == 0).all()
        # Five standard deviations of a binomial share.
        deviation = (probabilities * (1 - probabilities) / len(tokens)).sqrt()
        assert ((frequency - probabilities).abs() <= 5 * deviation + 1 / len(tokens)).all()


def test_the_sampler_says_the_log_probabilities_that_a_forward_has(language_model: LanguageModel) -> None:
    rollout = roll(language_model, temperature=0.7, outputs=("logprob",))
    expected = make_scorer(language_model.model, TrainConfig(model="m", data="d"))(rollout, 0.7, outputs=("logprob",))
    assert rollout.stats is not None
    # Pages and one row differ in the order of float32 sums.
    torch.testing.assert_close(rollout.stats.logprob, expected.logprob.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_seeds_decide_every_draw(language_model: LanguageModel) -> None:
    first, again, other = (
        roll(language_model, seeds=[(seed, 0), (seed, 1), (seed, 2)]).completion_ids for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.slow
def test_a_run_with_continuous_batching_trains_and_repeats_itself(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config(use_transformers_continuous_batching=True, top_k=8, top_p=0.9, lora_rank=4)
    rows = []
    for name in ("first", "second"):
        run_dir = tmp_path / name
        train(replace(config, output_dir=run_dir))
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        rows.append([(row["loss"], row["entropy"], row["num_tokens"]) for row in lines])
    assert len(rows[0]) == 2
    assert rows[0] == rows[1]


def test_more_completions_than_memory_holds_are_an_error(language_model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"memory for all completions of a step, .*MemoryError"):
        roll(language_model, num_generations=10**6)


def small_bloom() -> PreTrainedModel:
    """Its positions are a bias of its own attention, which continuous batching leaves out without a word."""
    return BloomForCausalLM(BloomConfig(vocab_size=18, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.3))


def small_falcon() -> PreTrainedModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return FalconForCausalLM(FalconConfig(vocab_size=18, alibi=True, initializer_range=0.3, **sizes))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (small_bloom, "BloomForCausalLM gives other distributions there than in one forward"),
        (small_falcon, "it failed with FalconForCausalLM on cpu; expected"),
    ],
)
def test_a_model_that_continuous_batching_cannot_serve_is_an_error(
    make: Callable[[], PreTrainedModel], reason: str
) -> None:
    torch.manual_seed(0)
    language_model = LanguageModel(make().eval(), make_tokenizer(), (EOS,), PAD)
    with pytest.raises(UserError, match=f"use_transformers_continuous_batching: .*{reason}"):
        check_paged(language_model, [4, 13, 5, 14])


def test_the_model_is_tried_before_the_run_begins(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = make_config(use_transformers_continuous_batching=True)
    torch.manual_seed(0)
    small_bloom().save_pretrained(tmp_path / "bloom")
    make_tokenizer().save_pretrained(tmp_path / "bloom")
    config = replace(config, model=str(tmp_path / "bloom"))
    with pytest.raises(UserError, match="use_transformers_continuous_batching: BloomForCausalLM"):
        prepare(config, SilentProgress())
    assert not config.output_dir.exists()  # type: ignore[union-attr]
