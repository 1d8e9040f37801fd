"""What trainers call on logits, under their names, signatures and conventions: one import, or one line that replaces.

| function | of |
| --- | --- |
| `selective_log_softmax`, `entropy_from_logits`, `selective_log_softmax_and_entropy` | TRL, ms-swift |
| `log_probs_from_logits`, `compute_entropy` | OpenRLHF |
| `logprobs_from_logits` | verl |
| `compute_logprobs` | torchtitan |
| `chunked_selective_log_softmax` | unsloth |
| `logits_to_logprobs` | torchtune |
| `get_next_token_logprobs_from_logits` | NeMo-RL |

The page `docs/kernels.md` says of each what it replaces, what differs, and what it was compared with.

`patch` replaces the functions of a package that is installed, checks them on the first batch, and undoes itself.
"""

from rlif_kernels.compat.functions import (
    chunked_selective_log_softmax,
    compute_entropy,
    compute_logprobs,
    entropy_from_logits,
    get_next_token_logprobs_from_logits,
    log_probs_from_logits,
    logits_to_logprobs,
    logprobs_from_logits,
    selective_log_softmax,
    selective_log_softmax_and_entropy,
)
from rlif_kernels.compat.patching import Patch, patch

__all__ = [
    "Patch",
    "chunked_selective_log_softmax",
    "compute_entropy",
    "compute_logprobs",
    "entropy_from_logits",
    "get_next_token_logprobs_from_logits",
    "log_probs_from_logits",
    "logits_to_logprobs",
    "logprobs_from_logits",
    "patch",
    "selective_log_softmax",
    "selective_log_softmax_and_entropy",
]
