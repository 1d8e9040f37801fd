"""Rewards without labels: the scores of `rlif.scoring.confidence`, of the policy's own distributions.

The EOS counts as a token; distributions are those at the sampling temperature. These are different objectives, not
estimates of one. The log-probability rewards depend on the tokens that were drawn: the policy gradient of the *summed*
log-probability is that of the negative sequence entropy. `token_entropy` and `self_certainty` of step t do not depend
on the token drawn at t, so they act only through the tokens before it, and a step on them can raise the entropy of the
sequence.
"""

from __future__ import annotations

from rlif.rewards.interface import uses
from rlif.scoring import confidence

self_certainty = uses("self_certainty")(confidence.self_certainty)
token_entropy = uses("entropy")(confidence.token_entropy)
trajectory_entropy = uses("logprob")(confidence.trajectory_entropy)
sequence_logprob = uses("logprob")(confidence.sequence_logprob)
# Of the answer's tokens alone.
probability_disparity = uses("logprob", "top_probs")(confidence.answer_disparity)
