"""The losses of preference pairs are those that their papers write down, and those of TRL's DPOTrainer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rlif.models.fused_head import fused_head
from rlif.models.language_model import LanguageModel
from rlif.scoring.scorer import Scorer
from rlif.scoring.sequences import sequence_logprobs
from rlif.self_feedback.preference_loss import PreferenceLossType, preference_loss
from tiny_models import EOS, frozen_copy

PROMPTS = [[5, 6, 13], [4, 13], [9, 9, 8, 7, 13]]
CHOSEN = [[3, 4, 5, EOS], [7, EOS], [11, 12, 3, 4, 8, EOS]]
REJECTED = [[3, 9, EOS], [8, 8, 8, 8, EOS], [11, EOS]]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(
    log_pi: tuple[float, float],
    log_ref: tuple[float, float],
    lengths: tuple[int, int],
    beta: float,
    loss_type: str,
    e: float,
    margin: float,
) -> float:
    """The papers' formulas of ratios of probabilities, in Python's float64: no log-sigmoid, no tensor."""
    ratio = (log_pi[0] - log_ref[0]) - (log_pi[1] - log_ref[1])
    if loss_type == "ipo":
        means = [(log_pi[i] - log_ref[i]) / lengths[i] for i in (0, 1)]
        return (means[0] - means[1] - margin - 0.5 / beta) ** 2
    x = beta * ratio - margin
    if loss_type == "hinge":
        return max(0.0, 1 - x)
    wins = sigmoid(x)
    if loss_type == "robust":
        return ((1 - e) * -math.log(wins) - e * -math.log(1 - wins)) / (1 - 2 * e)
    return -(1 - e) * math.log(wins) - e * math.log(1 - wins)


@pytest.mark.parametrize(
    ("loss_type", "label_smoothing"),
    [("sigmoid", 0.0), ("sigmoid", 0.2), ("robust", 0.1), ("hinge", 0.0), ("ipo", 0.0)],
)
@pytest.mark.parametrize("with_margin", [False, True])
def test_each_loss_is_its_papers_formula(
    loss_type: PreferenceLossType, label_smoothing: float, with_margin: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    pi = -8 * torch.rand(2, 5, generator=generator, dtype=torch.float64)
    ref = -8 * torch.rand(2, 5, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    margin = torch.rand(5, generator=generator, dtype=torch.float64) if with_margin else None
    result = preference_loss(
        *pi, *ref, beta=0.3, loss_type=loss_type, label_smoothing=label_smoothing, margin=margin,
        lengths=(lengths[0], lengths[1]),
    )  # fmt: skip
    for n in range(5):
        expected = by_hand(
            (float(pi[0, n]), float(pi[1, n])),
            (float(ref[0, n]), float(ref[1, n])),
            (int(lengths[0, n]), int(lengths[1, n])),
            0.3,
            loss_type,
            label_smoothing,
            0.0 if margin is None else float(margin[n]),
        )
        # A few roundings of float64.
        assert float(result.loss[n]) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(result.chosen_reward, 0.3 * (pi[0] - ref[0]))
    torch.testing.assert_close(result.rejected_reward, 0.3 * (pi[1] - ref[1]))


def test_losses_of_scores_beyond_the_range_of_exp_are_finite_and_have_the_right_slope() -> None:
    chosen = torch.tensor([-2000.0, 0.0], requires_grad=True)
    zero = torch.zeros(2)
    result = preference_loss(chosen, torch.tensor([0.0, -2000.0]), zero, zero, beta=1.0)
    result.loss.sum().backward()
    assert result.loss.tolist() == [2000.0, 0.0]
    assert chosen.grad is not None
    assert chosen.grad.tolist() == [-1.0, 0.0]


def test_the_gradient_is_that_of_the_formula() -> None:
    def loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        lengths = torch.tensor([3, 2]), torch.tensor([2, 5])
        return torch.stack(
            [
                preference_loss(
                    chosen, rejected, ref[0], ref[1], beta=0.2, loss_type=kind, label_smoothing=e, lengths=lengths
                ).loss.sum()
                for kind, e in (("sigmoid", 0.1), ("robust", 0.2), ("hinge", 0.0), ("ipo", 0.0))
            ]  # type: ignore[arg-type]
        )

    ref = -torch.rand(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chosen = torch.tensor([-3.0, -1.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-2.0, -4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (chosen, rejected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "dpo"}, "loss_type: got 'dpo', expected one of sigmoid, robust, hinge, ipo"),
        ({"beta": 0.0}, "beta: got 0.0, expected"),
        ({"label_smoothing": 0.5}, "label_smoothing: got 0.5, expected a number in"),
        ({"label_smoothing": 0.1, "loss_type": "hinge"}, "label_smoothing: got 0.1 with hinge, expected 0"),
        ({"loss_type": "ipo"}, "lengths: got None, expected"),
    ],
)
def test_a_wrong_argument_is_named(changes: dict[str, object], message: str) -> None:
    settings = {"beta": 0.1} | changes
    with pytest.raises(ValueError, match=message):
        preference_loss(*torch.zeros(4, 2), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("fused", [True, False])
def test_log_probabilities_of_sequences_are_those_of_the_models_own_logits_each_sequence_alone(
    language_model: LanguageModel, fused: bool
) -> None:
    model = language_model.model
    scorer = Scorer(model, fused_head(model) if fused else None)
    with torch.no_grad():
        together = sequence_logprobs(scorer, language_model, [*PROMPTS, *PROMPTS], [*CHOSEN, *REJECTED])
        for row, (prompt, completion) in enumerate(zip([*PROMPTS, *PROMPTS], [*CHOSEN, *REJECTED], strict=True)):
            logits = model(input_ids=torch.tensor([prompt + completion])).logits[0].double()
            logprob = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            expected = sum(float(logprob[t, token]) for t, token in enumerate(completion))
            # Float32 activations of a batch with and without padding, summed over at most six tokens.
            assert float(together[row]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("loss_type", "label_smoothing"), [("sigmoid", 0.0), ("robust", 0.1), ("hinge", 0.0), ("ipo", 0.0)]
)
def test_loss_and_gradient_equal_those_of_trls_dpo_trainer(
    language_model: LanguageModel, loss_type: PreferenceLossType, label_smoothing: float, tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed: its DPOTrainer cannot be compared with")
    from datasets import Dataset

    beta, tokenizer = 0.2, language_model.tokenizer
    # A policy that has left its reference, or every log-ratio would be 0.
    reference = frozen_copy(language_model.model)
    for parameter in language_model.model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    texts = [[tokenizer.decode(ids, skip_special_tokens=True) for ids in rows] for rows in (PROMPTS, CHOSEN, REJECTED)]
    rows = Dataset.from_dict(dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)))
    config = trl.DPOConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=3, beta=beta, loss_type=[loss_type],
        label_smoothing=label_smoothing, use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
    )  # fmt: skip
    policy = frozen_copy(language_model.model).requires_grad_(True)
    trainer = trl.DPOTrainer(
        model=policy, ref_model=reference, args=config, train_dataset=rows, processing_class=tokenizer
    )
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(3)])
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()

    scorer = Scorer(language_model.model, fused_head(language_model.model))
    frozen = Scorer(reference, fused_head(reference))
    sequences = ([*PROMPTS, *PROMPTS], [*CHOSEN, *REJECTED])
    with torch.no_grad():
        ref_logprobs = sequence_logprobs(frozen, language_model, *sequences)
    logprobs = sequence_logprobs(scorer, language_model, *sequences)
    lengths = [torch.tensor([len(ids) for ids in each]) for each in (CHOSEN, REJECTED)]
    ours = preference_loss(
        *logprobs.chunk(2), *ref_logprobs.chunk(2), beta=beta, loss_type=loss_type, label_smoothing=label_smoothing,
        lengths=(lengths[0], lengths[1]),
    ).loss.mean()  # fmt: skip
    ours.backward()
    # The project's promise; float32 sums of log-probabilities of some tens of nats, added up in another order.
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5, rel=1e-5)
    assert ours.item() > 0
    by_name = dict(policy.named_parameters())
    for name, parameter in language_model.model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, by_name[name].grad, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: n + m
        )
