"""The advantage estimators that read our columns in verl's own computation of advantages, `intuitor` first of all."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("verl.utils", reason="verl is not installed")
pytest.importorskip("transfer_queue", reason="verl's trainer needs TransferQueue")

import transfer_queue
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.protocol import DataProto
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

import verl_on_cpu
from rlif.errors import UserError
from rlif.integrations.verl.intuitor import self_certainty_column

pytestmark = pytest.mark.usefixtures("patched")

UIDS = np.array(["a", "a", "b", "b", "b", "alone"], dtype=object)
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]])
REWARDS = torch.zeros(6, 4)
REWARDS[[0, 3, 4], [2, 1, 2]] = 1.0


def advantages(column: torch.Tensor, **algorithm) -> torch.Tensor:
    data = DataProto.from_dict(
        tensors={"token_level_rewards": REWARDS.clone(), "response_mask": MASK}, non_tensors={"uid": UIDS}
    )
    with self_certainty_column(column, MASK):
        return compute_advantage(data, adv_estimator="intuitor", config=OmegaConf.create(algorithm)).batch["advantages"]


def expected_advantages(reward: torch.Tensor, by_std: bool = True) -> torch.Tensor:
    result = torch.zeros(6)
    for uid in ("a", "b"):
        group = torch.from_numpy(np.flatnonzero(uid == UIDS))
        result[group] = reward[group] - reward[group].mean()
        if by_std:
            result[group] /= reward[group].std() + 1e-6
    return result[:, None] * MASK


def test_advantages_are_grpos_of_mean_self_certainty() -> None:
    column = 5 * torch.rand(6, 4)  # what is outside the mask does not count
    certainty = (column * MASK).sum(1) / MASK.sum(1)
    torch.testing.assert_close(advantages(column), expected_advantages(certainty))
    torch.testing.assert_close(
        advantages(column, norm_adv_by_std_in_grpo=False), expected_advantages(certainty, by_std=False)
    )
    torch.testing.assert_close(
        advantages(column, rule_reward_weight=0.5), expected_advantages(certainty + 0.5 * REWARDS.sum(1))
    )


def test_a_response_that_rollout_correction_rejects_keeps_its_place_in_the_group() -> None:
    column = 5 * torch.rand(6, 4)
    rejected = MASK.clone()
    rejected[2], rejected[0, 1:] = 0, 0  # a whole response, and tokens of another
    data = DataProto.from_dict(
        tensors={"token_level_rewards": REWARDS.clone(), "response_mask": rejected}, non_tensors={"uid": UIDS}
    )
    with self_certainty_column(column, MASK):
        result = compute_advantage(data, adv_estimator="intuitor", config=OmegaConf.create({})).batch["advantages"]
    torch.testing.assert_close(result, advantages(column) * rejected)


def test_a_batch_without_the_column_is_an_error_that_says_what_is_missing() -> None:
    data = DataProto.from_dict(
        tensors={"token_level_rewards": REWARDS, "response_mask": MASK}, non_tensors={"uid": UIDS}
    )
    with pytest.raises(UserError, match=r"no self-certainty .*external_lib=rlif\.integrations\.verl\.autopatch"):
        compute_advantage(data, adv_estimator="intuitor", config=OmegaConf.create({}))


def test_a_kl_penalty_in_the_rewards_is_refused() -> None:
    with pytest.raises(UserError, match=r"use_kl_in_reward is true; expected false: .*use_kl_loss"):
        advantages(MASK.float(), use_kl_in_reward=True)


def test_one_response_to_each_prompt_is_refused() -> None:
    data = DataProto.from_dict(
        tensors={"token_level_rewards": REWARDS, "response_mask": MASK},
        non_tensors={"uid": np.arange(6).astype(object)},
    )
    with (
        pytest.raises(UserError, match=r"rollout\.n is 1; expected at least 2"),
        self_certainty_column(MASK.float(), MASK),
    ):
        compute_advantage(data, adv_estimator="intuitor", config=OmegaConf.create({}))


def test_a_response_alone_in_its_group_has_no_advantage_where_verls_grpo_gives_it_its_reward() -> None:
    data = DataProto.from_dict(
        tensors={"token_level_rewards": REWARDS + MASK, "response_mask": MASK}, non_tensors={"uid": UIDS}
    )
    config = OmegaConf.create({})
    found = {
        name: compute_advantage(data, adv_estimator=name, config=config).batch["advantages"][-1].clone()
        for name in ("grpo", "rloo_vectorized")
    }
    alone = MASK[-1].float()
    # verl 0.9.1 takes 0 as the mean of a group of one, and 1 as its standard deviation.
    torch.testing.assert_close(found["grpo"], 2.0 * alone, atol=1e-5, rtol=0)
    assert not found["rloo_vectorized"].any()
    column = 5 * torch.rand(6, 4)
    for settings in ({}, {"rule_reward_weight": 0.5}, {"norm_adv_by_std_in_grpo": False}):
        ours = advantages(column, **settings)
        assert not ours[-1].any()
        assert ours[:-1].any()


class Store:
    """The two functions of verl's data store that a trainer's step uses, in memory: the real one is a Ray cluster."""

    def __init__(self) -> None:
        self.columns: dict[str, dict[str, torch.Tensor]] = {}

    def put(self, keys: list[str], partition_id: str, fields: TensorDict) -> KVBatchMeta:
        for name in fields.keys():  # noqa: SIM118  (a TensorDict is no mapping)
            values = fields[name]
            rows = values.unbind() if isinstance(values, torch.Tensor) else list(values)
            self.columns.setdefault(name, {}).update(zip(keys, rows, strict=True))
        return KVBatchMeta(keys=keys, partition_id=partition_id, tags=[{}] * len(keys), fields=list(self.columns))

    def get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        found = {name: [self.columns[name][key] for key in keys] for name in select_fields if name in self.columns}
        return TensorDict(
            {
                name: verl_on_cpu.jagged(rows) if isinstance(rows[0], torch.Tensor) else rows
                for name, rows in found.items()
            },
            batch_size=len(keys),
        )


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr(transfer_queue, "kv_batch_put", store.put)
    monkeypatch.setattr(transfer_queue, "kv_batch_get", store.get)
    return store


class Worker:
    """The actor's worker without Ray: verl's engine, whose outputs go to the store under their names."""

    def __init__(self, engine, store: Store, *, fused: bool = True) -> None:
        self.engine, self.store, self.fused = engine, store, fused

    def compute_log_prob(self, batch: KVBatchMeta) -> KVBatchMeta:
        self.asked = dict(batch.extra_info)
        data = verl_on_cpu.batch(fused=self.fused, packed=True, **batch.extra_info)
        with self.engine.eval_mode():
            outputs = self.engine.infer_batch(data, loss_function=None)["model_output"]
        return self.store.put(batch.keys, batch.partition_id, TensorDict(outputs, batch_size=len(batch.keys)))


def config(squares: bool = False, **algorithm):
    return OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": "intuitor", "gamma": 1.0, "lam": 1.0, "use_kl_in_reward": False, **algorithm,
            },
            "actor_rollout_ref": {
                "rollout": {"temperature": 0.7, "calculate_log_probs": False, "n": 2},
                "actor": {
                    "loss_agg_mode": "token-mean", "loss_scale_factor": None, "calculate_sum_pi_squared": squares,
                },
            },
        }
    )  # fmt: skip


def stored_batch(directory: Path, store: Store, scores: list[float]) -> KVBatchMeta:
    """Two completions of each of two prompts in the store, with their rewards, and a model to compute with."""
    verl_on_cpu.start(directory)
    torch.manual_seed(0)
    verl_on_cpu.save_model(directory)
    keys = ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
    masks = [torch.ones(n, dtype=torch.int64) for n in verl_on_cpu.RESPONSE_LENGTHS]
    rewards = [
        torch.cat([torch.zeros(len(mask) - 1), torch.tensor([each])]) for mask, each in zip(masks, scores, strict=True)
    ]
    store.put(keys, "train", TensorDict({"response_mask": verl_on_cpu.jagged(masks)}, batch_size=4))
    store.put(keys, "train", TensorDict({"rm_scores": verl_on_cpu.jagged(rewards)}, batch_size=4))
    store.columns["uid"] = dict(zip(keys, ["a", "a", "b", "b"], strict=True))
    return KVBatchMeta(keys=keys, partition_id="train", tags=[{}] * 4, fields=list(store.columns))


def test_verls_trainer_goes_from_the_engines_pass_to_advantages(tmp_path: Path, store: Store) -> None:
    batch = stored_batch(tmp_path, store, [0.0] * 4)
    keys = batch.keys
    metrics: dict[str, float] = {}
    with verl_on_cpu.fsdp_engine(tmp_path, fused=True, packed=True) as engine:
        trainer = SimpleNamespace(config=config(), actor_rollout_wg=Worker(engine, store))
        PPOTrainer._compute_old_log_prob(trainer, batch, metrics)
        PPOTrainer._compute_advantage(trainer, batch, metrics)

    certainty = []
    for key, length in zip(keys, verl_on_cpu.RESPONSE_LENGTHS, strict=True):
        whole = store.columns["self_certainty"][key]
        assert len(whole) > length  # of prompt and response, at the positions before each token
        certainty.append(whole[-length - 1 : -1].mean())
    for first in (0, 2):
        group = torch.stack(certainty[first : first + 2])
        expected = (group - group.mean()) / (group.std() + 1e-6)
        for key, value in zip(keys[first : first + 2], expected, strict=True):
            row = store.columns["advantages"][key]
            torch.testing.assert_close(row, value.expand_as(row), atol=1e-5, rtol=0)
    tokens = sum(n * c for n, c in zip(verl_on_cpu.RESPONSE_LENGTHS, certainty, strict=True))
    assert metrics["actor/self_certainty"] == pytest.approx(float(tokens / sum(verl_on_cpu.RESPONSE_LENGTHS)))


def test_other_estimators_get_what_they_got(store: Store) -> None:
    keys = ["a_0_0", "a_1_0"]
    ones = verl_on_cpu.jagged([torch.ones(3, dtype=torch.int64), torch.ones(2, dtype=torch.int64)])
    scores = verl_on_cpu.jagged([torch.tensor([0.0, 0.0, 1.0]), torch.zeros(2)])
    store.put(keys, "train", TensorDict({"response_mask": ones, "rm_scores": scores}, batch_size=2))
    store.columns["uid"] = dict(zip(keys, ["a", "a"], strict=True))
    batch = KVBatchMeta(keys=keys, partition_id="train", tags=[{}] * 2, fields=list(store.columns))
    metrics: dict[str, float] = {}
    PPOTrainer._compute_advantage(SimpleNamespace(config=config(adv_estimator="grpo")), batch, metrics)
    assert not metrics
    assert store.columns["advantages"]["a_0_0"][0] == pytest.approx(0.5**0.5, abs=1e-5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("estimator", ["optimal_token_baseline", "tir_optimal_token_baseline"])
def test_verls_default_trainer_has_the_optimal_token_baselines_of_its_deprecated_one(
    estimator: str, fused: bool, tmp_path: Path, store: Store
) -> None:
    batch = stored_batch(tmp_path, store, [1.0, 0.0, 0.5, 0.2])
    settings = config(squares=True, adv_estimator=estimator)
    with verl_on_cpu.fsdp_engine(tmp_path, fused=fused, packed=True) as engine:
        worker = Worker(engine, store, fused=fused)
        trainer = SimpleNamespace(config=settings, actor_rollout_wg=worker)
        PPOTrainer._compute_old_log_prob(trainer, batch, {})
        PPOTrainer._compute_advantage(trainer, batch, {})
    assert worker.asked["calculate_sum_pi_squared"]
    # Nobody after the actor is asked: a reference model's sums would take the place of the actor's.
    assert "calculate_sum_pi_squared" not in batch.extra_info

    lengths = verl_on_cpu.RESPONSE_LENGTHS
    rows = [store.columns["sum_pi_squared"][key] for key in batch.keys]
    columns = {
        "sum_pi_squared": [row[-n - 1 : -1] for row, n in zip(rows, lengths, strict=True)],
        **{name: list(store.columns[name].values()) for name in ("old_log_probs", "response_mask", "rm_scores")},
    }
    tensors = {name: verl_on_cpu.jagged(rows).to_padded_tensor(0) for name, rows in columns.items()}
    tensors["token_level_rewards"] = tensors.pop("rm_scores")
    data = DataProto.from_dict(tensors, non_tensors={"uid": np.array(["a", "a", "b", "b"], dtype=object)})
    expected = compute_advantage(data, adv_estimator=estimator, config=settings.algorithm).batch["advantages"]
    assert expected.any()
    for key, row, length in zip(batch.keys, expected, lengths, strict=True):
        torch.testing.assert_close(store.columns["advantages"][key], row[:length], atol=0, rtol=0)


def test_a_baseline_without_its_column_is_an_error_that_says_what_is_missing(store: Store) -> None:
    masks = verl_on_cpu.jagged([torch.ones(3, dtype=torch.int64), torch.ones(2, dtype=torch.int64)])
    batch = store.put(["a_0_0", "a_1_0"], "train", TensorDict({"response_mask": masks}, batch_size=2))
    settings = config(squares=True, adv_estimator="optimal_token_baseline")
    with pytest.raises(UserError, match=r"found no sum_pi_squared .* no algorithm\.rollout_correction\.bypass_mode"):
        PPOTrainer._compute_advantage(SimpleNamespace(config=settings), batch, {})


def test_a_baseline_that_nobody_asked_the_column_for_has_verls_own_message(tmp_path: Path, store: Store) -> None:
    batch = stored_batch(tmp_path, store, [1.0, 0.0, 0.5, 0.2])
    logprobs = verl_on_cpu.jagged([-torch.ones(n) for n in verl_on_cpu.RESPONSE_LENGTHS])
    store.put(batch.keys, "train", TensorDict({"old_log_probs": logprobs}, batch_size=4))
    trainer = SimpleNamespace(config=config(adv_estimator="optimal_token_baseline"))
    with pytest.raises(AssertionError, match=r"Please set actor\.calculate_sum_pi_squared=True"):
        PPOTrainer._compute_advantage(trainer, batch, {})
