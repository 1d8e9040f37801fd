"""Heads whose vocabulary is divided over processes, as Megatron divides them: verl's values, on two gloo processes.

Megatron cannot be installed without CUDA. What verl asks of it here is the name of the group, which a stand-in gives;
verl's functions are its own. Log-probabilities, which verl takes from Megatron, are compared with their definition.
"""

import os
from pathlib import Path

import pytest
import torch.multiprocessing as mp

pytest.importorskip("verl.utils", reason="verl is not installed")

from verl_ranks import WORLD, process


def test_a_divided_vocabulary_has_the_values_and_gradients_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # verl compiles one product and sum, which takes longer than this whole test.
    monkeypatch.setitem(os.environ, "TORCHDYNAMO_DISABLE", "1")
    mp.spawn(process, args=(str(tmp_path / "store"),), nprocs=WORLD)
