"""`rlif_kernels.compat`: TRL's own functions and ours return the same, and `patch` puts ours in their places."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from trl.experimental.sdft import loss_utils
from trl.trainer import utils

from pages import snippet
from rlif_kernels import compat

ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2.0**-6}  # TRL's sums of bfloat16 logits are rounded twice


def batch(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 6, 50, generator=generator)).to(dtype)
    return logits, torch.randint(50, (2, 6, 3), generator=generator), torch.rand(2, 6, generator=generator) > 0.3


@pytest.mark.parametrize("dtype", ROUNDING)
def test_every_function_is_trls_by_value_shape_dtype_and_gradient(dtype: torch.dtype) -> None:
    values, ids, mask = batch(dtype)
    calls = {
        "selective_log_softmax": [{"index": ids[..., 0]}, {"index": ids, "temperature": 0.7}],
        "selective_log_softmax_and_entropy": [{"index": ids[..., 0], "row_mask": mask, "temperature": 0.7}],
        "entropy_from_logits": [{}, {"chunk_size": 5}],
    }
    calls["selective_log_softmax"].append({"index": ids[..., 1], "row_mask": mask.int()})
    for name, options in calls.items():
        for given in options:
            found = []
            for module in (compat, utils):
                logits = values.clone().requires_grad_()
                result = getattr(module, name)(logits, **given)
                results = result if isinstance(result, tuple) else (result,)
                sum(each.float().sum() for each in results).backward()
                found.append((*results, logits.grad))
            for ours, theirs in zip(*found, strict=True):
                assert ours.dtype == theirs.dtype
                torch.testing.assert_close(ours, theirs, rtol=ROUNDING[dtype], atol=2 * ROUNDING[dtype])


def test_a_patch_reaches_whoever_imported_the_functions_and_undoes_itself() -> None:
    values, ids, _ = batch(torch.float32)
    stock = utils.selective_log_softmax
    with compat.patch("trl") as patch:
        assert loss_utils.selective_log_softmax is utils.selective_log_softmax is not stock
        patched = loss_utils.selective_log_softmax(values, ids[..., 0])
        utils.entropy_from_logits(values)
        assert patch.compared.keys() == {"selective_log_softmax", "entropy_from_logits"}
        assert max(patch.compared.values()) < 2e-6
        assert patch.version.startswith("1.16.")
    assert loss_utils.selective_log_softmax is utils.selective_log_softmax is stock
    torch.testing.assert_close(patched, stock(values, ids[..., 0]), rtol=2e-6, atol=2e-6)


def test_the_snippet_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    values, ids, _ = batch(torch.float32)

    class Trainer:
        def train(self) -> None:
            utils.selective_log_softmax(values, ids[..., 0])

    exec(snippet("docs/kernels.md", 'compat.patch("trl")'), {"trainer": Trainer()})
    assert capsys.readouterr().out.startswith("{'selective_log_softmax': ")
