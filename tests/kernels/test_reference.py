"""The definition: differentiated correctly, and the same as torch's own distributions."""

import torch

from comparison import random_targets
from rlif_kernels import reference
from rlif_kernels.functional import DIFFERENTIABLE
from rlif_kernels.stats import FIELDS


def test_the_reference_is_differentiated_correctly():
    logits = (2 * torch.randn(3, 11, dtype=torch.float64)).requires_grad_()
    targets = torch.tensor([2, -100, 7])
    temperature = torch.rand(3, dtype=torch.float64) + 0.5

    def differentiable(x):
        stats = reference.token_stats(x, targets, temperature=temperature, softcap=3.0, outputs=DIFFERENTIABLE)
        return tuple(getattr(stats, name) for name in DIFFERENTIABLE)

    assert torch.autograd.gradcheck(differentiable, (logits,))


def test_the_reference_agrees_with_torch_distributions():
    logits = 2 * torch.randn(5, 23, dtype=torch.float64)
    targets = random_targets(logits)
    stats = reference.token_stats(logits, targets, outputs=FIELDS)
    model = torch.distributions.Categorical(logits=logits)
    uniform = torch.distributions.Categorical(logits=torch.zeros_like(logits))
    torch.testing.assert_close(stats.logprob, model.log_prob(targets))
    torch.testing.assert_close(stats.entropy, model.entropy())
    torch.testing.assert_close(stats.self_certainty, torch.distributions.kl_divergence(uniform, model))
    torch.testing.assert_close(stats.sum_sq_probs, model.probs.square().sum(-1))
    surprise = -model.logits
    spread = (model.probs * surprise.square()).sum(-1) - model.entropy().square()
    torch.testing.assert_close(stats.varentropy, spread)
    torch.testing.assert_close(stats.top_probs, model.probs.sort(descending=True).values[:, :2])
    top = model.logits.sort(descending=True)
    assert torch.equal(stats.argmax, top.indices[:, 0])
    assert torch.equal(top.indices.gather(-1, stats.target_rank[:, None])[:, 0], targets)
    assert torch.equal(stats.top_ids, top.indices[:, :20])
    torch.testing.assert_close(stats.top_logprobs, top.values[:, :20])
    torch.testing.assert_close(stats.mass_topk, top.values[:, :20].exp().sum(-1))
    among = torch.distributions.Categorical(logits=top.values[:, :20])
    torch.testing.assert_close(stats.entropy_topk, among.entropy())
