"""A prompt that completions share is computed once, and logits and gradients are those of rows of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from architectures import ARCHITECTURES, InFloat64, tiny_model
from rlif.models.activation_checkpointing import enable_checkpointing
from rlif.models.fused_head import fused_head
from rlif.models.lora import add_lora
from rlif.models.packed_row import NAME
from rlif.models.sharing_check import shares_prompts
from rlif.rollouts.encode import pad_left
from rlif.rollouts.rollout import Rollout
from rlif.scoring.scorer import Scorer

Ids = list[int]
# Groups as (tokens of the prompt, tokens of its completions), of unlike lengths, alone, of one token, and of none.
GROUPS = ((9, (4, 1, 8)), (1, (3, 3)), (5, (6,)), (2, (0, 2)), (7, (3, 3, 3)))


def made_up(groups: Sequence[tuple[int, Sequence[int]]], num_tokens: int = 40) -> Rollout:
    """A rollout of random tokens."""
    draw = torch.Generator().manual_seed(0)

    def tokens(length: int) -> Ids:
        return torch.randint(2, num_tokens, (length,), generator=draw).tolist()

    prompts, completions = [], []
    for prompt, lengths in groups:
        prompts += [tokens(prompt)] * len(lengths)
        completions += [tokens(length) for length in lengths]
    prompt_ids, prompt_mask = pad_left(prompts, 0, torch.device("cpu"))
    width = max(map(len, completions))
    return Rollout(
        prompts=[""] * len(prompts),
        answers=[None] * len(prompts),
        texts=[""] * len(prompts),
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=torch.tensor([ids + [0] * (width - len(ids)) for ids in completions]),
        completion_mask=torch.tensor([[t < len(ids) for t in range(width)] for ids in completions]),
        finished=torch.ones(len(prompts), dtype=torch.bool),
        num_generations=1,
    )


def scores_and_gradients(scorer: Scorer, rollout: Rollout) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Of the completion tokens: logits; a loss with a weight of its own for each token; its gradients."""
    scorer.zero_grad()
    logits = scorer.scores(rollout)
    logprob = logits.log_softmax(-1).gather(2, rollout.completion_ids[:, :, None]).squeeze(2)
    weights = torch.randn(logprob.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = (logprob * weights.to(logprob))[rollout.completion_mask].sum()
    loss.backward()
    gradients = [each.grad.clone() for each in scorer.parameters() if each.grad is not None]
    return logits.detach()[rollout.completion_mask], loss.detach(), gradients


def largest_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest number of each tensor."""
    assert len(found) == len(expected)
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_loss_and_gradients_are_those_of_separate_rows(architecture: str) -> None:
    with InFloat64():
        model = tiny_model(architecture)
        assert shares_prompts(model)
        rollout = made_up(GROUPS)
        logits, loss, gradients = scores_and_gradients(Scorer(model, None, share_prompts=True), rollout)
        expected_logits, expected_loss, expected = scores_and_gradients(Scorer(model, None), rollout)
    # Float64 in another order: 1e-16 by a few hundred operations. A gradient of keys' biases is zero but for rounding.
    assert largest_error([logits, loss], [expected_logits, expected_loss]) < 1e-10
    scale = max(float(each.abs().max()) for each in expected)
    assert max(float((a - b).abs().max()) for a, b in zip(gradients, expected, strict=True)) < 1e-10 * scale


def test_statistics_through_a_fused_head_are_those_of_separate_rows() -> None:
    model = tiny_model("qwen3", torch.float32)
    head, rollout = fused_head(model), made_up(GROUPS)
    outputs = ("logprob", "entropy", "self_certainty", "top_probs")
    shared, separate = (
        Scorer(model, head, share_prompts=share_prompts)(rollout, 0.7, outputs=outputs)
        for share_prompts in (True, False)
    )
    for name in outputs:
        a, b = getattr(shared, name), getattr(separate, name)
        # Two float32 routes through two layers with activations of order 10.
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        assert not a.detach()[~rollout.completion_mask].any()


def test_in_bfloat16_sharing_adds_no_more_error_than_the_dtype_has() -> None:
    rollout = made_up(GROUPS)
    exact = Scorer(tiny_model("llama", torch.float32), None).scores(rollout)
    model = tiny_model("llama", torch.bfloat16)
    errors = [
        (Scorer(model, None, share_prompts=share_prompts).scores(rollout).float() - exact)[rollout.completion_mask]
        .square()
        .mean()
        .sqrt()
        .item()
        for share_prompts in (True, False)
    ]
    # Both are roundings to 8 bits, of the same numbers in another order.
    assert 0 < errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_layers_that_are_computed_again_attend_as_they_did_the_first_time(architecture: str) -> None:
    model, rollout = tiny_model(architecture, torch.float32), made_up(GROUPS)
    plain = scores_and_gradients(Scorer(model, None, share_prompts=True), rollout)
    enable_checkpointing(model)
    again = scores_and_gradients(Scorer(model, None, share_prompts=True), rollout)
    assert all(torch.equal(a, b) for a, b in zip([plain[0], *plain[2]], [again[0], *again[2]], strict=True))


def test_an_adapter_learns_the_same_from_shared_prompts() -> None:
    model, rollout = tiny_model("llama", torch.float32), made_up(GROUPS)
    add_lora(model, rank=4, alpha=8, target_modules=["all-linear"], seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start, so that nothing would come of A
            torch.nn.init.normal_(parameter, std=0.1)
    found = scores_and_gradients(Scorer(model, None, share_prompts=True), rollout)[2]
    expected = scores_and_gradients(Scorer(model, None), rollout)[2]
    assert largest_error(found, expected) < 1e-4  # float32 in another order


def test_of_the_prompt_of_a_group_the_backbone_sees_one() -> None:
    prompt, length, size = 160, 64, 8
    model = tiny_model("llama", torch.float32, max_position_embeddings=256)
    rollout = made_up([(prompt, [length] * size)] * 2)
    tokens: dict[bool, int] = {}
    for share_prompts in (True, False):
        seen: list[int] = []
        hook = model.model.layers[0].mlp.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(inputs[0].shape[:-1].numel())
        )
        Scorer(model, None, share_prompts=share_prompts).scores(rollout)
        hook.remove()
        tokens[share_prompts] = sum(seen)
    wanted = (prompt + size * length) / (size * (prompt + length))
    # The last token of each completion is not fed, which is 0.7 of these 2%.
    assert tokens[True] / tokens[False] == pytest.approx(wanted, rel=0.02)


def test_equal_completions_have_equal_statistics_to_the_bit_and_are_computed_once() -> None:
    model, rollout = tiny_model("llama", torch.float32), made_up([(9, (7, 7, 7, 7)), (9, (5, 7))])
    rollout.completion_ids[2] = rollout.completion_ids[1] = rollout.completion_ids[0]
    assert rollout.packed.num_tokens == 9 + 2 * 6 + 9 + 4 + 6  # but for each one's last token
    found = scores_and_gradients(Scorer(model, None, share_prompts=1), rollout)
    scores = found[0][: 3 * 7].unflatten(0, (3, 7))
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])
    # float32 in another order
    assert largest_error(found[2], scores_and_gradients(Scorer(model, None), rollout)[2]) < 1e-4


def test_rows_that_share_nothing_and_have_no_padding_stay_as_they_are() -> None:
    model, rollout = tiny_model("llama", torch.float32), made_up([(5, (4,)), (5, (4,)), (5, (4,))])
    shared, separate = (Scorer(model, None, share_prompts=share).scores(rollout) for share in (True, False))
    assert torch.equal(shared, separate)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=32, n_layer=1, n_head=4)), "cannot be replaced"),
        (MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1)), "recurrent"),
    ],
)
def test_a_model_that_cannot_share_says_so_and_is_left_as_it_is(model: PreTrainedModel, reason: str) -> None:
    with pytest.warns(UserWarning, match=f"{type(model).__name__} computes a prompt again .*{reason}"):
        assert not shares_prompts(model.eval())
    assert not shares_prompts(model, wanted=False)


@pytest.mark.parametrize(("no_rope_layers", "tuned"), [([1, 0], True), ([1, 0], False), ([1, 1], True)])
def test_a_model_shares_unless_its_queries_are_scaled_by_their_place(no_rope_layers: list[int], tuned: bool) -> None:
    # A scale that changes at token 32: behind the rows that are tried at the start, within the row below.
    model = tiny_model(
        "llama4_text",
        torch.float32,
        no_rope_layers=no_rope_layers,
        attn_temperature_tuning=tuned,
        floor_scale=32,
        attn_scale=1.0,
    )
    if tuned and 0 in no_rope_layers:
        with pytest.warns(UserWarning, match="scales queries by their place in the row"):
            assert not shares_prompts(model)
        return
    assert shares_prompts(model)
    rollout = made_up([(9, (5, 5, 5, 5, 5)), (9, (5, 5, 5, 5))])
    shared, separate = (Scorer(model, None, share_prompts=share).scores(rollout) for share in (True, False))
    # Logits of about 6, in float32.
    torch.testing.assert_close(shared, separate, atol=1e-4, rtol=0.0)


def test_a_model_whose_packed_rows_go_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", torch.float32)

    def leaks(module: object, query: Tensor, key: Tensor, value: Tensor, *others: object, **more: object) -> object:
        key, value = (each.repeat_interleave(2, dim=1) for each in (key, value))
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return found.transpose(1, 2).contiguous(), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, NAME, leaks)
    with pytest.warns(UserWarning, match="its logits would differ by"):
        assert not shares_prompts(model)


def test_a_forward_that_fails_leaves_the_model_its_attention() -> None:
    model = tiny_model("gemma2", torch.float32)
    before = model.config._attn_implementation
    rollout = made_up(GROUPS)
    broken = replace(rollout, completion_ids=rollout.completion_ids + 1000)
    with pytest.raises(IndexError):
        Scorer(model, None, share_prompts=True).scores(broken)
    assert model.config._attn_implementation == before == "eager"
