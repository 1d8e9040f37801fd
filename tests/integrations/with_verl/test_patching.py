"""What is replaced is replaced wherever verl holds it, and put back to the very objects; another verl is refused."""

import importlib
import logging
import subprocess
import sys
import types

import pytest

pytest.importorskip("verl.utils", reason="verl is not installed")

from verl.trainer.ppo import core_algos
from verl.trainer.ppo.v1 import trainer_base
from verl.utils import torch_functional
from verl.utils.experimental.torch_functional import FusedLinearForPPO
from verl.utils.kernel import linear_cross_entropy as kernel
from verl.workers.engine.fsdp import transformer_impl

from rlif.integrations import supported
from rlif.integrations.supported import UnsupportedVersionError
from rlif.integrations.verl import functions, patch, unpatch

ENGINE = transformer_impl.FSDPEngineWithLMHead


def held() -> dict[str, object]:
    """Everything that a patch may touch, where it is looked up."""
    return {
        "home": torch_functional.logprobs_from_logits,
        "imported by name": transformer_impl.logprobs_from_logits,
        "entropy": torch_functional.entropy_from_logits,
        "chunked entropy": torch_functional.entropy_from_logits_with_chunking,
        "collision": torch_functional.calculate_sum_pi_squared_from_logits,
        "fused head": FusedLinearForPPO.forward,
        "kernel": kernel.linear_cross_entropy,
        "step": ENGINE.forward_step,
        "outputs": ENGINE.prepare_model_outputs,
        "old log-probabilities": trainer_base.PPOTrainer._compute_old_log_prob,
        "advantages": trainer_base.PPOTrainer._compute_advantage,
        "trajectories": trainer_base.compute_advantage_for_multi_trajectories,
    }


def test_a_patch_reaches_every_module_and_an_undo_restores_the_very_objects() -> None:
    before = held()
    report = patch()
    try:
        during = held()
        assert all(during[name] is not before[name] for name in before)
        assert transformer_impl.logprobs_from_logits is functions.logprobs_from_logits
        assert "intuitor" in core_algos.ADV_ESTIMATOR_REGISTRY
        assert patch() is report
        assert held() == during
    finally:
        unpatch()
    assert all(value is before[name] for name, value in held().items())
    assert "intuitor" not in core_algos.ADV_ESTIMATOR_REGISTRY
    unpatch()


def test_a_module_that_was_imported_while_patched_gets_verls_function_back(monkeypatch: pytest.MonkeyPatch) -> None:
    patch()
    late = types.ModuleType("imported_late")
    late.logprobs_from_logits = torch_functional.logprobs_from_logits
    monkeypatch.setitem(sys.modules, "imported_late", late)
    unpatch()
    assert late.logprobs_from_logits is torch_functional.logprobs_from_logits is not functions.logprobs_from_logits


def test_what_somebody_else_put_in_the_place_of_ours_stays() -> None:
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    original = FusedLinearForPPO.forward
    patch()
    ours = FusedLinearForPPO.forward

    def theirs(*args: object, **kwargs: object) -> object:
        return ours(*args, **kwargs)

    FusedLinearForPPO.forward = theirs
    try:
        unpatch()
        assert FusedLinearForPPO.forward is theirs
    finally:
        FusedLinearForPPO.forward = original


def test_the_report_names_what_was_replaced_and_what_is_absent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rlif"):
        report = patch()
        unpatch()
    assert "verl 0.9.1: replaced" in caplog.text
    for name in ("verl.utils.torch_functional.logprobs_from_logits", 'algorithm.adv_estimator="intuitor"'):
        assert name in report.replaced
        assert name in caplog.text
    if importlib.util.find_spec("megatron") is None:
        assert report.absent["verl.utils.megatron.tensor_parallel"].startswith("megatron")
        assert "not verl.utils.megatron.tensor_parallel: megatron" in caplog.text


def test_another_release_is_refused_and_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    before = held()
    monkeypatch.setattr(supported, "version", lambda package: "0.10.0")
    with pytest.raises(UnsupportedVersionError, match=r"supports verl .*0\.9\.1.* and verl 0\.10\.0 is installed"):
        patch()
    assert held() == before


def test_functions_that_are_not_those_of_the_release_are_refused_and_nothing_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ENGINE, "forward_step", lambda self, micro_batch: None)
    before = held()
    with pytest.raises(UnsupportedVersionError, match=r"forward_step takes .*: was it changed\?"):
        patch()
    assert held() == before
    assert "intuitor" not in core_algos.ADV_ESTIMATOR_REGISTRY


def test_importing_the_package_imports_no_verl() -> None:
    script = "import sys, rlif.integrations.verl; assert 'verl' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
