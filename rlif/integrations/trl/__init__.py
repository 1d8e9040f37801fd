"""rlif inside TRL: statistics, rewards and the guard for its GRPOTrainer, each of use without the others.

`RLIFTrainer` is GRPOTrainer with rewards by rlif's names, scored from what the trainer computes anyway (`trainer.py`);
`use_fused_token_stats` gives a stock trainer rlif's per-token log-probabilities (`fused.py`); `trl_reward` makes a
reward function for one (`rewards.py`); `GuardCallback` finds when training does harm (`guard.py`).
"""

from rlif.integrations.supported import require

require("trl")

# What follows imports TRL's internals, which another release may not have.
from rlif.integrations.trl.fused import FusedTokenStats, use_fused_token_stats  # noqa: E402
from rlif.integrations.trl.guard import GuardCallback  # noqa: E402
from rlif.integrations.trl.rewards import TRLReward, trl_reward  # noqa: E402
from rlif.integrations.trl.trainer import RLIFTrainer  # noqa: E402

__all__ = ["FusedTokenStats", "GuardCallback", "RLIFTrainer", "TRLReward", "trl_reward", "use_fused_token_stats"]
