"""The loss in closed form: what each token adds to it, and the derivative by the token's own statistics.

The derivative needs nothing but the statistics of the token, or of its sequence. So the fused losses can write the
gradient of a row's logits while the row is still in the cache. With w, v the token's weights in the loss and in the
means of the two terms, P its policy term (`loss_options` has the table), and d = ref_logprob - logprob:

    loss = w (P + beta (exp(d) - d - 1)) - v (entropy_coef entropy + self_certainty_coef self_certainty)

    d loss / d logprob        = w (P' + beta (1 - exp(d)))
    d loss / d entropy        = -v entropy_coef
    d loss / d self_certainty = -v self_certainty_coef

In "k3_corrected" the penalty is beta r (exp(d) - d - 1), r the ratio before it is clipped: its derivative is -beta r d.

| term | P' |
| --- | --- |
| clip | -A r [not clipped] |
| cispo | -min(r, epsilon_high) A |
| sapo | -4 s (1 - s) A r, s = sigmoid(t (r - 1)) |
| vespo | -phi(W) A |
| gmpo | -G A [not clipped] |

Where the tokens of a sequence share r or G, the derivative of a token is the mean of w P' over the sequence's tokens,
since each of them moves the loss of all. Where they share the r of a penalty, that is beta r w (1 - exp(d)), and the
mean of beta r w (exp(d) - d - 1) over the sequence's tokens. "vespo" and "gmpo" share W and G alone.

On-policy r, W and G are 1 whatever the logits are, and P' is the clipped loss's with another advantage: `as_clipped`.
So the kernels of the clipped loss serve every term there, and know none of them.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from rlif_kernels.loss_options import HIGHEST_LOG_WEIGHT, LEAST_DECAY, LOWEST_LOG_WEIGHT, LossOptions


class LossRows(NamedTuple):
    """What each token brings along, (N,) float32 each."""

    advantage: Tensor
    """Times the weight of the token that the caller gave, but for "vespo"."""
    weight: Tensor
    """Of the token in the loss; 0 where it is masked."""
    mean_weight: Tensor
    """Of the token in a mean over all tokens."""
    old_logprob: Tensor | None
    """None on-policy: the ratio is 1."""
    ref_logprob: Tensor | None
    log_weight: Tensor | None = None
    """Logarithm of the weight of the token's sequence that the caller gave, for "vespo"; kernels do not read it."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "LossRows":
        """Apply a function to each tensor that there is."""
        return LossRows(*(None if value is None else function(value) for value in self))  # type: ignore[arg-type]


KERNEL_ROWS = LossRows._fields[:5]
"""Those that the kernels read, in their order."""


class TokenTerms(NamedTuple):
    """What each token adds to the loss, its estimate of the divergence and clip flag, and the derivative by field of
    `TokenStats`."""

    loss: Tensor
    kl: Tensor | None
    clipped: Tensor
    grads: dict[str, Tensor]


class Sequences:
    """Sums over the active tokens of a sequence, in the place of each of its tokens."""

    def __init__(self, active: Tensor, length: int, rows: Tensor | slice) -> None:
        """Know which tokens belong together.

        Args:
            active: (N,) bool, of all tokens, those of a sequence side by side.
            length: tokens of a sequence, those that are not active included.
            rows: which tokens the values are of: whole sequences, but for tokens that are not active.
        """
        self.active, self.length, self.rows = active, length, rows

    def mean(self, values: Tensor) -> Tensor:
        """Put the mean over the active tokens of a sequence in the place of each."""
        return self._sum(values, self.active.view(-1, self.length).sum(-1).clamp(min=1))

    def sum(self, values: Tensor) -> Tensor:
        """Put the sum over the active tokens of a sequence in the place of each."""
        return self._sum(values, 1)

    def _sum(self, values: Tensor, divisor: Tensor | int) -> Tensor:
        whole = values.new_zeros(self.active.shape)
        whole[self.rows] = values
        sums = whole.where(self.active, 0).view(-1, self.length).sum(-1) / divisor
        return sums.repeat_interleave(self.length).where(self.active, 0)[self.rows]


def token_weights(
    active: Tensor,
    loss_type: str,
    num_items_in_batch: int | Tensor | None,
    max_completion_length: int | None,
    loss_scale: float,
) -> tuple[Tensor, Tensor]:
    """Return the weight of each token of (..., T) in the loss and in the mean over tokens, float32; 0 where not active.

    `loss_options` says how tokens add up in a loss of each type.
    """
    # As few operations as can be: each is a launch on a GPU.
    num_tokens = active.sum().clamp(min=1)
    weight = mean_weight = active / num_tokens * loss_scale
    num_sequences = max(1, active[..., 0].numel()) if active.shape[-1] else 1
    if loss_type in ("grpo", "sapo", "gmpo"):
        weight = active / active.sum(-1, keepdim=True).clamp(min=1) * (loss_scale / num_sequences)
    elif loss_type == "luspo":
        weight = active * (loss_scale / num_sequences)
    elif loss_type == "dr_grpo":
        weight = active * (loss_scale / (num_sequences * (max_completion_length or max(1, active.shape[-1]))))
    if num_items_in_batch is not None:
        # Not torch.as_tensor of an integer: torch.compile would fix it, and compile anew for each.
        mean_weight = active / (mean_weight.new_ones(()) * num_items_in_batch).clamp(min=1) * loss_scale
    return (mean_weight if loss_type in ("dapo", "cispo", "vespo") else weight), mean_weight


def token_terms(
    fields: Mapping[str, Tensor],
    rows: LossRows,
    options: LossOptions,
    term: str = "clip",
    sequences: Sequences | None = None,
) -> TokenTerms:
    """Return the loss and its derivative from the statistics of each token, (N,).

    Args:
        fields: of `TokenStats`, float32: "logprob", and those whose coefficient is not 0.
        rows: what the tokens bring along.
        options: the numbers of the loss.
        term: what the ratio does, see `loss_options.policy_term`.
        sequences: which tokens share a ratio; None where each has its own, or all are 1.
    """
    logprob, weight = fields["logprob"], rows.weight
    # On-policy the ratio is exactly 1, but NaN where the log-probability is NaN.
    log_ratio = logprob - (logprob if rows.old_logprob is None else rows.old_logprob)
    loss, g_logprob, clipped = _TERMS[term](logprob, log_ratio, rows, options, sequences)
    kl = None
    if rows.ref_logprob is not None:
        difference = rows.ref_logprob - logprob
        growth = torch.expm1(difference)
        kl, fall, shared = growth - difference, growth, None
        if options.kl_ratio:
            shared = None if term in ("vespo", "gmpo") else sequences
            ratio = (shared.mean(log_ratio) if shared else log_ratio).exp()
            kl, fall = ratio * kl, ratio * (growth if shared else difference)
        if options.beta:
            loss = loss + options.beta * kl
            g_logprob = g_logprob - weight * options.beta * fall
            if shared:
                g_logprob = g_logprob + options.beta * shared.mean(weight * kl)
    loss, grads = weight * loss, {"logprob": g_logprob}
    for name in ("entropy", "self_certainty"):
        coefficient = getattr(options, f"{name}_coef")
        if coefficient:
            loss = loss - coefficient * rows.mean_weight * fields[name]
            grads[name] = -coefficient * rows.mean_weight
    return TokenTerms(loss, kl, clipped, grads)


def as_clipped(rows: LossRows, options: LossOptions, term: str) -> tuple[LossRows, LossOptions] | None:
    """Return rows and options whose clipped loss has the gradient of this term; None where there are none: off-policy.

    The value of the loss is another one, and so is the clip flag.
    """
    if term == "clip":
        return rows, options
    if rows.old_logprob is not None:
        return None
    advantage = rows.advantage
    if term == "cispo":
        advantage = advantage * min(1.0, options.epsilon_high)
    elif term == "vespo" and rows.log_weight is not None:
        advantage = advantage * gamma_weight(rows.log_weight, advantage, options)
    return rows._replace(advantage=advantage), options._replace(delta=math.inf)


def gamma_weight(log_weight: Tensor, advantage: Tensor, options: LossOptions) -> Tensor:
    """Return phi(W) = exp(lambda + k log W - lambda W) of "vespo" from the logarithm of a sequence's weight W."""
    log_weight = log_weight.clamp(LOWEST_LOG_WEIGHT, HIGHEST_LOG_WEIGHT)
    gains = advantage >= 0
    one = log_weight.new_ones(())
    k = torch.where(gains, one * options.vespo_k_pos, one * options.vespo_k_neg)
    decay = torch.where(gains, one * options.vespo_lambda_pos, one * options.vespo_lambda_neg).clamp(min=LEAST_DECAY)
    return (decay + k * log_weight - decay * log_weight.exp()).exp().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


# ---------------------------------------------------------------- the policy terms
#
# Each returns the loss of a token, the derivative of the whole loss by its log-probability, and its clip flag, from
# the log-probability, the logarithm of the ratio, what the tokens bring along, the numbers, and the sequences.

Term = tuple[Tensor, Tensor, Tensor]


def _clip(_: Tensor, log_ratio: Tensor, rows: LossRows, options: LossOptions, sequences: Sequences | None) -> Term:
    advantage = rows.advantage
    if sequences:
        log_ratio = sequences.mean(log_ratio)
    ratio = log_ratio.exp()
    low, high = 1 - options.epsilon_low, 1 + options.epsilon_high
    capped, in_range = ratio.clamp(max=options.delta) * advantage, ratio.clamp(low, high) * advantage
    # Where both are equal, either the ratio is in range or the advantage is 0: both give the same derivative.
    flows = torch.where(capped <= in_range, ratio <= options.delta, (ratio >= low) & (ratio <= high))
    g_logprob = rows.weight * -(advantage * ratio).where(flows | ratio.isnan(), 0)
    if sequences:
        # Every token of the sequence moves the ratio, and with it the loss of every token; their advantages may differ.
        g_logprob = sequences.mean(g_logprob)
    clipped = ((ratio < low) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
    return -torch.minimum(capped, in_range), g_logprob, clipped


def _cispo(
    logprob: Tensor, log_ratio: Tensor, rows: LossRows, options: LossOptions, sequences: Sequences | None
) -> Term:
    ratio = (sequences.mean(log_ratio) if sequences else log_ratio).exp()
    slope = -ratio.clamp(max=options.epsilon_high) * rows.advantage
    clipped = (ratio > options.epsilon_high) & (rows.advantage > 0)
    return slope * logprob, rows.weight * slope, clipped


def _sapo(_: Tensor, log_ratio: Tensor, rows: LossRows, options: LossOptions, sequences: Sequences | None) -> Term:
    ratio, one = (sequences.mean(log_ratio) if sequences else log_ratio).exp(), log_ratio.new_ones(())
    pos, neg = one * options.sapo_temperature_pos, one * options.sapo_temperature_neg
    temperature = torch.where(rows.advantage > 0, pos, neg)
    gate = torch.sigmoid(temperature * (ratio - 1))
    g_logprob = rows.weight * (-4 * gate * (1 - gate) * rows.advantage * ratio)
    if sequences:
        g_logprob = sequences.mean(g_logprob)
    return -(gate * 4 / temperature) * rows.advantage, g_logprob, torch.zeros_like(gate, dtype=torch.bool)


def _vespo(
    logprob: Tensor, log_ratio: Tensor, rows: LossRows, options: LossOptions, sequences: Sequences | None
) -> Term:
    log_weight = log_ratio.clamp(-HIGHEST_LOG_WEIGHT, HIGHEST_LOG_WEIGHT)
    if sequences:
        log_weight = sequences.sum(log_weight)
    if rows.log_weight is not None:
        log_weight = log_weight + rows.log_weight
    slope = -gamma_weight(log_weight, rows.advantage, options) * rows.advantage
    return slope * logprob, rows.weight * slope, torch.zeros_like(slope, dtype=torch.bool)


def _gmpo(_: Tensor, log_ratio: Tensor, rows: LossRows, options: LossOptions, sequences: Sequences | None) -> Term:
    advantage, low, high = rows.advantage, -options.epsilon_low, options.epsilon_high
    gains = advantage > 0
    flows = torch.where(gains, log_ratio <= high, log_ratio >= low) | log_ratio.isnan()
    clipped = ((log_ratio < low) & (advantage < 0)) | ((log_ratio > high) & gains)
    log_ratio = torch.where(gains, log_ratio.clamp(max=high), log_ratio.clamp(min=low))
    loss = -(sequences.mean(log_ratio) if sequences else log_ratio).exp() * advantage
    g_logprob = rows.weight * loss
    return loss, (sequences.mean(g_logprob) if sequences else g_logprob).where(flows, 0), clipped


_TERMS: dict[str, Callable[[Tensor, Tensor, LossRows, LossOptions, Sequences | None], Term]] = {
    "clip": _clip,
    "cispo": _cispo,
    "sapo": _sapo,
    "vespo": _vespo,
    "gmpo": _gmpo,
}
