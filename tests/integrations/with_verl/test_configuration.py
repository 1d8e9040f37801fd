"""The configuration that ships composes with verl's own, and verl accepts it, as docs/verl.md shows it."""

import re
import warnings

import pytest
import yaml

pytest.importorskip("verl.utils", reason="verl is not installed")

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config

from pages import ROOT, snippet


def composed(*overrides: str):
    with initialize_config_module("rlif.integrations.verl", version_base=None):
        return compose("intuitor", [*overrides, "trainer.n_gpus_per_node=1"])


OVERRIDES = (
    "data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=2",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=2", "actor_rollout_ref.rollout.name=vllm",
)  # fmt: skip


def test_the_configuration_is_verls_with_intuitor_in_it() -> None:
    config = composed(*OVERRIDES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # verl remarks that there is no critic, as there should not be
        assert not need_critic(config)
        assert need_reference_policy(config)
        validate_config(config=config, use_reference_policy=True, use_critic=False)
    assert config.trainer.use_v1
    assert config.algorithm.adv_estimator == "intuitor"
    assert config.algorithm.gamma == 1.0  # verl's own
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert (actor.use_kl_loss, actor.kl_loss_coef, actor.kl_loss_type) == (True, 0.005, "low_var_kl")
    assert OmegaConf.to_container(config.actor_rollout_ref.model)["external_lib"] == "rlif.integrations.verl.autopatch"


def test_verl_accepts_the_pages_command_as_it_stands() -> None:
    command = snippet("docs/verl.md", "python -m verl.trainer.main_ppo ")
    with initialize_config_module("rlif.integrations.verl", version_base=None):
        config = compose("intuitor", re.findall(r"[\w.]+=[^\s\\]+", command))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        validate_config(config=config, use_reference_policy=True, use_critic=False)
    omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)


def test_verls_own_configuration_takes_the_pages_block_of_the_baseline() -> None:
    block = OmegaConf.create(snippet("docs/verl.md", "adv_estimator: optimal_token_baseline"))
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = OmegaConf.merge(compose("ppo_trainer", [*OVERRIDES, "trainer.n_gpus_per_node=1"]), block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not need_critic(config)
        validate_config(config=config, use_reference_policy=False, use_critic=False)
    assert config.trainer.use_v1
    assert omega_conf_to_dataclass(config.actor_rollout_ref.actor).calculate_sum_pi_squared


def test_the_command_line_wins_over_the_file() -> None:
    config = composed(*OVERRIDES, "actor_rollout_ref.rollout.n=4", "algorithm.rule_reward_weight=0.5")
    assert config.actor_rollout_ref.rollout.n == 4
    assert config.algorithm.rule_reward_weight == 0.5


def test_the_reward_function_rewards_nothing() -> None:
    function = get_custom_reward_fn(composed())
    assert function is not None
    assert function(data_source="any", solution_str="4", ground_truth="", extra_info={"num_turns": 1}) == 0.0


def test_the_block_on_the_page_is_the_file_that_ships() -> None:
    block = snippet("docs/verl.md", "adv_estimator: intuitor")
    shipped = yaml.safe_load((ROOT / "rlif/integrations/verl/intuitor.yaml").read_text())
    assert yaml.safe_load(block) == {name: shipped[name] for name in shipped.keys() - {"defaults", "hydra"}}
