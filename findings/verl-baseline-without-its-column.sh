#!/usr/bin/env bash
# One would guess: `algorithm.adv_estimator=optimal_token_baseline` with `actor.calculate_sum_pi_squared=true`, which its
# error message asks for, works in verl's default trainer.
# What happens in verl 0.9.1: the default trainer (`trainer.use_v1=true`) fetches a fixed list of columns for the advantage,
# which the sum of squared probabilities is not among, so that the estimator always fails with the advice to set what is
# set. The trainer that is deprecated hands the column on. The data store, a Ray cluster, is stood in for by a dictionary
# that has every column.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 verl==0.9.1 transferqueue==0.1.11 cachetools fastapi msgspec pyzmq uvicorn \
  2>/dev/null
cat > "$work/look.py" <<'PY'
from importlib.metadata import version
from types import SimpleNamespace

import torch
import transfer_queue
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

keys = ["a_0_0", "a_1_0"]


def jagged(*rows):
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


columns = {
    "uid": ["a", "a"],
    "response_mask": jagged([1, 1, 1], [1, 1]),
    "rm_scores": jagged([0.0, 0.0, 1.0], [0.0, 0.0]),
    "old_log_probs": jagged([-1.0, -2.0, -1.5], [-0.5, -1.0]),
    "sum_pi_squared": jagged([0.5, 0.2, 0.3], [0.7, 0.4]),
}
asked = []


def get(keys, partition_id, select_fields):
    asked.extend(select_fields)
    return TensorDict({name: columns[name] for name in select_fields if name in columns}, batch_size=2)


transfer_queue.kv_batch_get = get
transfer_queue.kv_batch_put = lambda keys, partition_id, fields: fields
config = OmegaConf.create(
    {
        "algorithm": {"adv_estimator": "optimal_token_baseline", "gamma": 1.0, "lam": 1.0, "use_kl_in_reward": False},
        "actor_rollout_ref": {"rollout": {"n": 2}, "actor": {"calculate_sum_pi_squared": True}},
    }
)
batch = KVBatchMeta(keys=keys, partition_id="train", tags=[{}] * 2, fields=list(columns))
print("verl", version("verl"))
try:
    PPOTrainer._compute_advantage(SimpleNamespace(config=config), batch, {})
except AssertionError as error:
    print("columns that the trainer asked for:", asked)
    print("AssertionError:", error)
    assert "sum_pi_squared" not in asked
else:
    raise SystemExit("changed: the default trainer computes the baseline")
PY
"$work/venv/bin/python" "$work/look.py" 2>/dev/null
