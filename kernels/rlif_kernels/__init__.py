"""Fused statistics of vocabulary-sized logits: log-probability, entropy, self-certainty, differentiable, in one pass.

`token_stats` takes logits, `linear_token_stats` hidden states and the head. `grpo_loss` and `linear_grpo_loss` go on to
the loss and compute its gradient in the same pass. `divergence` and `linear_divergence` compare a student's rows with
a teacher's. `sample_tokens` draws tokens and measures them. `float32_logits` are those of a half-precision head before
they are rounded. `policy_loss` is the loss in plain torch, from statistics that are there already, `k3_kl` its estimate
of the KL divergence, and `importance_weight` what corrects it for a sampler of other probabilities. `captured_mass` is
how much of the probability several targets have. The package works without a GPU and without Triton: C and torch serve
there.

What is where, in the order to read it:

- `reference`: the definition of every op in plain torch.
- `stats`, `functional`, `policy_loss`, `pairs`: the result types with their formulas and gradients, what a statistic is
  made of, and the loss. `loss_options` has the table of its types, `token_selection` what chooses tokens by all of
  them, `loss_terms` the loss in closed form.
- `token_stats`, `linear_token_stats`, `grpo_loss`, `linear_grpo_loss`, `divergence`, `linear_divergence`,
  `sample_tokens`, `float32_logits`: one public function each, with its library op. `checks` and `pair_checks`
  have the checks of their arguments, `kl_penalty` what holds a loss to a reference by a divergence, `loss_tiles` the
  tiles of the loss through a head, `op_values` the boundary of the ops, `loss_functions` the autograd of those that
  compute their gradient with the loss.
- `requested`, `top_logprobs`: which fields a caller asks for, and what follows from those of the k largest columns.
- `transforms`: what the ops do under torch.func, forward-mode AD and retain_graph, and what they refuse.
- `rows`, `backends`: what a backend is told and must return, and which of them serves. `backends.torch`, `backends.c`
  and `backends.triton` compute; `backends.sharded` makes whole rows of slices of the vocabulary, `backends.choices`
  serves rows with several targets, `backends.order` finishes what the order of the columns says, and
  `backends.tangents` has the forward-mode derivatives.
- `compat`: the functions that other trainers read logits with, under their names.
- `hub` makes a kernel for the Hugging Face Hub of this package, and `op_names` keeps the ops of copies apart.
- `head`: the product of hidden states with the head, in tiles.
- `dtensors`: what lets the functions take DTensors; `backends.sharded.dtensors` has the placements.
"""

# Here alone: hatchling reads it for the distribution, `rlif.__version__` is this, and so is a Hub kernel's.
__version__ = "0.1.0"

from rlif_kernels import compat, reference
from rlif_kernels.captured_mass import captured_mass
from rlif_kernels.divergence import divergence
from rlif_kernels.float32_logits import float32_logits
from rlif_kernels.grpo_loss import grpo_loss
from rlif_kernels.importance import importance_weight
from rlif_kernels.linear_divergence import linear_divergence
from rlif_kernels.linear_grpo_loss import linear_grpo_loss
from rlif_kernels.linear_token_stats import linear_token_stats
from rlif_kernels.loss_options import LossVariant
from rlif_kernels.pairs import Divergence
from rlif_kernels.policy_loss import GRPOLoss, k3_kl, policy_loss
from rlif_kernels.sample_tokens import SampledTokens, sample_tokens
from rlif_kernels.stats import TokenStats
from rlif_kernels.token_stats import token_stats

__all__ = [
    "Divergence",
    "GRPOLoss",
    "LossVariant",
    "SampledTokens",
    "TokenStats",
    "captured_mass",
    "compat",
    "divergence",
    "float32_logits",
    "grpo_loss",
    "importance_weight",
    "k3_kl",
    "linear_divergence",
    "linear_grpo_loss",
    "linear_token_stats",
    "policy_loss",
    "reference",
    "sample_tokens",
    "token_stats",
]
