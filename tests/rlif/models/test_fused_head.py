"""The head is the model's own: statistics, losses and updates are those of its logits, whatever its form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import rlif.rollouts.draw
import rlif.scoring.scorer
from rlif.data.prompts import Prompt
from rlif.errors import UserError
from rlif.models.float32_head import Float32Linear, keep_logits_in_float32
from rlif.models.fused_head import backbone, fused_head
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.scorer import LossInputs, Scorer
from rlif_kernels import linear_token_stats, sample_tokens
from runs import MakeConfig, train
from tiny_models import SIZES, make_tokenizer

GPT2_SIZES = dict(vocab_size=SIZES["vocab_size"], n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3)
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3, tied": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "gemma2, softcap": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=2.0)),
    "granite, scale": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)),
    "cohere, scale": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)),
    "cohere2, scale": lambda: Cohere2ForCausalLM(Cohere2Config(**SIZES, logit_scale=0.25)),
    "gpt2, tied": lambda: GPT2LMHeadModel(GPT2Config(**GPT2_SIZES, eos_token_id=1, bos_token_id=1)),
    "phi, bias": lambda: PhiForCausalLM(PhiConfig(**{k: v for k, v in SIZES.items() if k != "head_dim"})),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    bias = model.get_output_embeddings().bias
    if bias is not None:  # starts at 0, where it could not be missed
        nn.init.normal_(bias)
    return model


def make_rollout(model: PreTrainedModel, outputs: tuple[str, ...] = ()) -> Rollout:
    tokenizer = make_tokenizer()
    language_model = LanguageModel(model, tokenizer, (1,), 0)
    prompts = encode_prompts(language_model, [Prompt("1+2="), Prompt("10+200="), Prompt("7")], 6)
    return sample(
        language_model,
        prompts,
        num_generations=4,
        max_completion_length=6,
        temperature=0.7,
        seeds=[(0,), (1,), (2,)],
        outputs=outputs,
    )


def loss_inputs(rollout: Rollout) -> LossInputs:
    """An off-policy loss with every term that there is."""
    generator = torch.Generator().manual_seed(1)
    shape = rollout.completion_ids.shape
    noise = [torch.randn(shape, generator=generator) * 0.1 - 2.0 for _ in range(2)]
    options = {"beta": 0.1, "entropy_coef": 0.3, "self_certainty_coef": 0.2}
    return LossInputs(torch.randn(shape[0], generator=generator), *noise, rollout.completion_mask, options)


def test_statistics_and_gradients_are_those_of_the_models_own_logits(model: PreTrainedModel) -> None:
    rollout = make_rollout(model)
    results = []
    for head in (fused_head(model), None):
        model.zero_grad()
        stats = Scorer(model, head)(rollout, 0.7)
        (stats.logprob - 0.5 * stats.entropy + 0.3 * stats.self_certainty).sum().backward()
        results.append((stats, [parameter.grad for parameter in model.parameters()]))
    (fused, fused_gradients), (plain, plain_gradients) = results
    for name in ("logprob", "entropy", "self_certainty"):
        # Two float32 routes from the hidden states to logits of order 1 to 30.
        torch.testing.assert_close(getattr(fused, name), getattr(plain, name), atol=2e-5, rtol=2e-5)
    for ours, theirs in zip(fused_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()) + 1e-7, rtol=1e-4)


def test_the_loss_and_its_gradients_are_those_of_the_models_own_logits(model: PreTrainedModel) -> None:
    rollout = make_rollout(model)
    results = []
    for head in (fused_head(model), None):
        model.zero_grad()
        loss = Scorer(model, head)(rollout, 0.7, loss=loss_inputs(rollout)).loss
        loss.backward()
        results.append((loss.item(), [parameter.grad for parameter in model.parameters()]))
    (fused, fused_gradients), (plain, plain_gradients) = results
    assert fused == pytest.approx(plain, rel=1e-4)  # a float32 mean of terms of order 1, some of which cancel
    for ours, theirs in zip(fused_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()) + 1e-7, rtol=1e-4)


def test_a_fused_head_never_calls_the_models_own(model: PreTrainedModel) -> None:
    rollout, scorer = make_rollout(model), Scorer(model, fused_head(model))
    calls: list[None] = []
    model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(None))
    scorer(rollout, 1.0).logprob.sum().backward()
    scorer(rollout, 1.0, loss=loss_inputs(rollout)).loss.backward()
    assert calls == []


@pytest.mark.parametrize("num_iterations", [1, 2])
def test_a_run_learns_the_same_with_and_without_a_fused_head(
    num_iterations: int, make_config: MakeConfig, tmp_path: Path
) -> None:
    rows = [
        train(make_config(output_dir=tmp_path / str(fused), fused_head=fused, num_iterations=num_iterations)).rows
        for fused in (True, False)
    ]
    for fused, plain in zip(*rows, strict=True):
        for name in ("reward", "entropy", "loss", "grad_norm", "kl", "clip_ratio"):
            # Two steps of float32; the second starts from weights that differ by the first one's rounding.
            assert fused[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-5), name


class Shifted(Qwen3ForCausalLM):
    """Its logits are not what its output embedding makes of the last hidden state."""

    def forward(self, *args: object, **kwargs: object) -> object:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + torch.arange(output.logits.shape[-1])
        return output


def test_a_model_with_another_kind_of_head_is_refused_by_name_with_a_way_out() -> None:
    config = Qwen3Config(**SIZES)
    with pytest.raises(UserError, match=r"^model: Shifted's logits are not .*--no-fused-head"):
        fused_head(Shifted(config).eval())
    model = Qwen3ForCausalLM(config).eval()
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(UserError, match=r"^model: Qwen3ForCausalLM has Sequential as its output.*--no-fused-head"):
        fused_head(model)


def test_in_bfloat16_the_check_passes_too(model: PreTrainedModel) -> None:
    fused_head(model.to(torch.bfloat16))


def silence_layers(model: PreTrainedModel) -> None:
    """Let the layers add nothing to the residual stream: a token's hidden state has the same bits in any forward."""
    last = ("o_proj", "down_proj", "c_proj", "dense", "fc2")  # of attention and MLP, as the architectures name them
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.split(".")[-2] in last:
                parameter.zero_()


def test_float32_logits_of_bfloat16_weights_are_those_of_sampling_and_of_scoring(model: PreTrainedModel) -> None:
    model.bfloat16()
    silence_layers(model)
    keep_logits_in_float32(model)
    head = fused_head(model)
    rollout = make_rollout(model, outputs=("logprob", "entropy"))
    assert rollout.stats is not None

    ids = torch.cat([rollout.prompt_ids, rollout.completion_ids], 1)
    positions = (torch.cat([rollout.prompt_mask, rollout.completion_mask], 1).cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        hidden = backbone(model)(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        linear = head.linear
        bias = 0 if linear.bias is None else linear.bias.double()
        logits = head.scale * (hidden.double() @ linear.weight.double().T + bias)
    if head.cap is not None:
        logits = head.cap * torch.tanh(logits / head.cap)
    log_p = (logits[:, rollout.prompt_ids.shape[1] - 1 : -1] / 0.7).log_softmax(-1)
    exact = log_p.gather(-1, rollout.completion_ids[..., None])[..., 0]

    mask = rollout.completion_mask
    scored = [Scorer(model, each)(rollout, 0.7, ("logprob", "entropy")) for each in (head, None)]
    for stats in (rollout.stats, *scored):
        # float32's rounding of logits of order 1 to 30, where bfloat16's is 1e-2.
        torch.testing.assert_close(stats.logprob[mask].double(), exact[mask], atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(stats.entropy, rollout.stats.entropy, atol=2e-5, rtol=2e-5)

    gradients = []
    for stats in scored:
        model.zero_grad()
        stats.logprob.sum().backward()
        gradients.append(linear.weight.grad.float().clone())
    # Both round the logits' gradient to bfloat16, and the result.
    assert (gradients[0] - gradients[1]).norm() < 2**-8 * gradients[1].norm()


def test_a_head_with_float32_logits_is_saved_and_loaded_as_any_other(tmp_path: Path) -> None:
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True)).bfloat16().eval()
    model.save_pretrained(tmp_path / "start")
    make_tokenizer().save_pretrained(tmp_path / "start")
    kept = load_language_model(str(tmp_path / "start"), device="cpu", dtype="bfloat16", logits_dtype="float32")
    assert isinstance(kept.model.get_output_embeddings(), Float32Linear)
    kept.save(tmp_path / "saved")
    again = load_language_model(str(tmp_path / "saved"), device="cpu", dtype="bfloat16").model
    assert type(again.get_output_embeddings()) is nn.Linear
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))


def test_logits_that_cannot_be_kept_in_float32_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES)).bfloat16().eval()
    forward = model.forward

    def rounded(**inputs: object) -> object:
        output = forward(**inputs)
        output.logits = output.logits.bfloat16()
        return output

    monkeypatch.setattr(model, "forward", rounded)
    with pytest.raises(UserError, match=r"logits_dtype: Qwen3ForCausalLM gives logits of torch\.bfloat16 whatever"):
        keep_logits_in_float32(model)
    model.set_output_embeddings(nn.Sequential(nn.Linear(32, 8)).bfloat16())
    with pytest.raises(UserError, match="logits_dtype: Qwen3ForCausalLM has Sequential as its output embedding"):
        keep_logits_in_float32(model)


def test_a_run_samples_and_scores_with_float32_logits(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[object]] = {"drawn": set(), "scored": set()}

    def draw(logits: Tensor, *arguments: object, **options: object) -> object:
        seen["drawn"].add(logits.dtype)
        return sample_tokens(logits, *arguments, **options)

    def score(hidden: Tensor, *arguments: object, **options: object) -> object:
        seen["scored"].add((hidden.dtype, options["logits_dtype"]))
        return linear_token_stats(hidden, *arguments, **options)

    monkeypatch.setattr(rlif.rollouts.draw, "sample_tokens", draw)
    monkeypatch.setattr(rlif.scoring.scorer, "linear_token_stats", score)
    train(make_config(dtype="bfloat16", logits_dtype="float32", max_steps=1))
    assert seen == {"drawn": {torch.float32}, "scored": {(torch.bfloat16, torch.float32)}}
