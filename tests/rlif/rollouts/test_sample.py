"""Sampling draws from the model's distribution, stops at the end token, and pads without a trace."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from rlif.data.prompts import Prompt
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.scorer import Scorer
from rlif_kernels import TokenStats
from tiny_models import EOS, PAD

PROMPTS = [Prompt("1+2=", "3"), Prompt("10+200=", "210"), Prompt("7", None)]


def roll(language_model: LanguageModel, *, prompts: list[Prompt] = PROMPTS, seed: int = 0, **settings: Any) -> Rollout:
    options = {"num_generations": 4, "max_completion_length": 12, "temperature": 1.0} | settings
    encoded = encode_prompts(language_model, prompts, int(options["max_completion_length"]))
    seeds = [(seed, position) for position in range(len(prompts))]
    return sample(language_model, encoded, seeds=seeds, **options)


@pytest.mark.parametrize("model_dir", ["qwen3", "llama", "mistral"], indirect=True)
@pytest.mark.parametrize("ends", [(), (EOS, 5, 8, 9, 14)])
def test_greedy_completions_are_those_of_transformers_generate(
    language_model: LanguageModel, ends: tuple[int, ...]
) -> None:
    # generate() implements padding, positions and cache on its own; mistral's window is shorter than the text.
    prompts = [Prompt(text) for text in ("1+2=", "10+200=", "7", "8 8", "3=3", "40+4", "=", "123456789", "##", "0 0 0")]
    rollout = roll(replace(language_model, eos_token_ids=ends), prompts=prompts, num_generations=2, temperature=0.0)
    lengths = rollout.completion_mask.sum(dim=1)
    # Half of them end before the last, so that finished completions leave the batch on the way.
    assert not ends or lengths.float().quantile(0.5) < lengths.max()
    language_model.model.generation_config.eos_token_id = list(ends) or None
    for row in range(len(rollout.texts)):
        ids = rollout.prompt_ids[row][rollout.prompt_mask[row]][None]
        config = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=PAD)
        expected = language_model.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        assert (
            rollout.completion_ids[row][rollout.completion_mask[row]].tolist() == expected[0, ids.shape[1] :].tolist()
        )


def test_tokens_are_drawn_with_the_probabilities_of_the_model_at_the_temperature(language_model: LanguageModel) -> None:
    count, temperature = 4000, 1.7
    prompt = PROMPTS[1]
    rollout = roll(
        language_model, prompts=[prompt], num_generations=count, max_completion_length=1, temperature=temperature
    )
    ids = torch.tensor([language_model.tokenizer(prompt.content)["input_ids"]])
    with torch.no_grad():
        probabilities = (language_model.model(ids).logits[0, -1] / temperature).softmax(dim=-1)
    frequency = torch.bincount(rollout.completion_ids[:, 0], minlength=len(probabilities)) / count
    # Five standard deviations of a binomial share, for each of 18 tokens: a right sampler fails once in 10⁵ seeds.
    deviation = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((frequency - probabilities).abs() <= 5 * deviation + 1 / count).all()


def test_a_completion_ends_with_its_first_end_token_and_is_padding_after_it(language_model: LanguageModel) -> None:
    ends = (EOS, 5, 9)  # chat models have several
    rollout = roll(replace(language_model, eos_token_ids=ends), num_generations=40)
    assert rollout.finished.any()
    for ids, mask, finished, text in zip(
        rollout.completion_ids.tolist(), rollout.completion_mask.tolist(), rollout.finished, rollout.texts, strict=True
    ):
        stops = [position for position, token in enumerate(ids) if token in ends]
        length = stops[0] + 1 if stops else len(ids)
        assert finished == bool(stops)
        assert mask == [True] * length + [False] * (len(ids) - length)
        assert ids[length:] == [PAD] * (len(ids) - length)
        assert text == language_model.tokenizer.decode(ids[:length], skip_special_tokens=True)


def test_a_completion_of_nothing_but_the_end_token_has_one_token_and_no_text(language_model: LanguageModel) -> None:
    vocabulary = tuple(range(language_model.model.config.vocab_size))
    rollout = roll(replace(language_model, eos_token_ids=vocabulary), num_generations=2)
    assert rollout.completion_mask.tolist() == [[True]] * 6
    assert rollout.finished.all()


def test_where_nothing_ends_every_completion_is_cut_off_at_the_limit(language_model: LanguageModel) -> None:
    rollout = roll(replace(language_model, eos_token_ids=()), max_completion_length=5)
    assert rollout.completion_mask.shape == (12, 5)
    assert rollout.completion_mask.all()
    assert not rollout.finished.any()


def test_padding_that_shares_its_id_with_the_end_token_does_not_shorten_a_completion(
    language_model: LanguageModel,
) -> None:
    rollout = roll(replace(language_model, eos_token_ids=(5,), pad_token_id=5), num_generations=20)
    lengths = rollout.completion_mask.sum(dim=1)
    for ids, length, finished in zip(rollout.completion_ids.tolist(), lengths.tolist(), rollout.finished, strict=True):
        assert finished == (ids[length - 1] == 5)
        assert 5 not in ids[: length - 1]


def test_completions_of_a_prompt_stand_side_by_side_with_their_answer(language_model: LanguageModel) -> None:
    rollout = roll(language_model, num_generations=2)
    assert rollout.prompts == ["1+2=", "1+2=", "10+200=", "10+200=", "7", "7"]
    assert rollout.answers == ["3", "3", "210", "210", None, None]
    decoded = [
        language_model.tokenizer.decode(ids[mask])
        for ids, mask in zip(rollout.prompt_ids, rollout.prompt_mask, strict=True)
    ]
    assert decoded == rollout.prompts


def test_the_seed_decides_every_draw(language_model: LanguageModel) -> None:
    first, again, other = (roll(language_model, seed=seed).completion_ids for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


def test_a_prompt_has_the_same_completions_in_any_company(language_model: LanguageModel) -> None:
    prompts = encode_prompts(language_model, PROMPTS, 12)
    settings: dict[str, Any] = {"num_generations": 4, "max_completion_length": 12, "temperature": 1.0}
    together = sample(language_model, prompts, seeds=[(5, 0), (5, 1), (5, 2)], **settings)
    for position, prompt in enumerate(prompts):
        alone = sample(language_model, [prompt], seeds=[(5, position)], **settings)
        assert alone.texts == together.texts[4 * position : 4 * position + 4]
    swapped = sample(language_model, prompts[1::-1], seeds=[(5, 1), (5, 0)], **settings)
    assert swapped.texts == together.texts[4:8] + together.texts[:4]


def test_selected_completions_keep_everything_but_padding_that_none_of_them_needs(
    language_model: LanguageModel,
) -> None:
    rollout = roll(replace(language_model, eos_token_ids=(EOS, 5, 9)))
    for rows in ([0, 1, 2, 3], [11, 4], [8]):
        part = rollout.select(rows)
        assert part.prompt_mask[:, 0].any()
        assert part.completion_mask[:, -1].any()
        assert part.texts == [rollout.texts[row] for row in rows]
        assert part.answers == [rollout.answers[row] for row in rows]
        assert part.finished.tolist() == rollout.finished[rows].tolist()
        for index, row in enumerate(rows):
            for ids, mask in (("prompt_ids", "prompt_mask"), ("completion_ids", "completion_mask")):
                kept = getattr(part, ids)[index][getattr(part, mask)[index]]
                assert torch.equal(kept, getattr(rollout, ids)[row][getattr(rollout, mask)[row]])


STATISTICS = ("logprob", "entropy", "self_certainty", "top_probs")


@pytest.mark.parametrize("model_dir", ["qwen3", "mistral"], indirect=True)
@pytest.mark.parametrize(
    "settings", [{"temperature": 0.7}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.6, "temperature": 1.3}]
)
def test_statistics_of_the_sampling_pass_are_those_of_a_forward_over_the_completions(
    language_model: LanguageModel, settings: dict[str, Any]
) -> None:
    language_model = replace(language_model, eos_token_ids=(EOS, 5, 8, 9, 14))  # rows leave the batch on the way
    rollout = roll(language_model, outputs=STATISTICS, **settings)
    assert not rollout.completion_mask.all()
    with torch.no_grad():
        expected = Scorer(language_model.model, None)(rollout, settings.get("temperature") or 1.0, STATISTICS)
    assert isinstance(expected, TokenStats)
    assert rollout.stats is not None
    for name, values, reference in zip(TokenStats._fields, rollout.stats, expected, strict=True):
        assert (values is None) == (name not in STATISTICS)
        if values is not None:
            # float32 logits of a few tens, computed token by token and all at once: 1e-5 of rounding.
            torch.testing.assert_close(values, reference, rtol=1e-5, atol=1e-4)
            assert (values[~rollout.completion_mask] == 0).all()


def test_statistics_change_no_completion_and_are_selected_with_theirs(language_model: LanguageModel) -> None:
    language_model = replace(language_model, eos_token_ids=(EOS, 5, 9))
    rollout = roll(language_model, outputs=STATISTICS)
    plain = roll(language_model)
    assert torch.equal(rollout.completion_ids, plain.completion_ids)
    assert plain.stats is None
    assert plain.select([1, 0]).stats is None
    part = rollout.select([11, 4])
    assert part.stats is not None
    assert rollout.stats is not None
    for values, everything in zip(part.stats, rollout.stats, strict=True):
        if values is not None and everything is not None:
            assert values.shape[:2] == part.completion_mask.shape
            for index, row in enumerate([11, 4]):
                length = int(part.completion_mask[index].sum())
                assert torch.equal(values[index, :length], everything[row, :length])


def test_sampling_among_the_most_likely_token_alone_is_greedy(language_model: LanguageModel) -> None:
    greedy = roll(language_model, temperature=0.0).completion_ids
    assert torch.equal(roll(language_model, top_k=1).completion_ids, greedy)
    assert torch.equal(roll(language_model, top_p=1e-6).completion_ids, greedy)
    assert not torch.equal(roll(language_model).completion_ids, greedy)
