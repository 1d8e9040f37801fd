"""The functions by other trainers' names return what the others' formulas do, with their shapes and dtypes."""

import importlib.metadata
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from comparison import DEVICE
from rlif_kernels import compat
from rlif_kernels.compat import functions, patching

V = 61


def logits_of(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, V, generator=generator)).to(dtype).to(DEVICE).requires_grad_()


def ids_of(*shape, seed=1):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def logprobs(logits, ids, temperature=1.0):
    """log softmax, gathered: what all of them are."""
    return (logits.double() / temperature).log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def entropies(logits, temperature=1.0):
    logp = (logits.double() / temperature).log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


LOGITS, IDS = (2, 5), (2, 5)
# Ours, the formula of the other's, and the dtype for bfloat16 logits.
FUNCTIONS = {
    "selective_log_softmax": (compat.selective_log_softmax, logprobs, torch.bfloat16),
    "chunked_selective_log_softmax": (compat.chunked_selective_log_softmax, logprobs, torch.float32),
    "log_probs_from_logits": (compat.log_probs_from_logits, logprobs, torch.bfloat16),
    "logprobs_from_logits": (compat.logprobs_from_logits, logprobs, torch.bfloat16),
    "logits_to_logprobs": (compat.logits_to_logprobs, logprobs, torch.bfloat16),
    "compute_logprobs": (compat.compute_logprobs, logprobs, torch.float32),
    "get_next_token_logprobs_from_logits": (
        lambda x, y: compat.get_next_token_logprobs_from_logits(y, x),
        lambda x, y: logprobs(x[:, :-1], y[:, 1:]), torch.float32,
    ),
    "entropy_from_logits": (
        lambda x, y: compat.entropy_from_logits(x), lambda x, y: entropies(x), torch.bfloat16,
    ),
    "compute_entropy": (lambda x, y: compat.compute_entropy(x), lambda x, y: entropies(x), torch.bfloat16),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_is_its_formula(name, dtype):
    ours, formula, narrow = FUNCTIONS[name]
    logits, ids = logits_of(*LOGITS, dtype=dtype), ids_of(*IDS)
    exact = logits.detach().double().requires_grad_()
    value, expected = ours(logits, ids), formula(exact, ids)
    assert value.dtype == (torch.float32 if dtype == torch.float32 else narrow)
    # Values are rounded once to their dtype; gradients of half-precision logits, and what they are of, too.
    bound = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7}
    torch.testing.assert_close(value.double(), expected, rtol=bound[value.dtype], atol=bound[torch.float32])
    weights = torch.linspace(0.5, 2, value.numel(), device=DEVICE).view(value.shape).to(value.dtype)
    (weights * value).sum().backward()
    (weights.double() * expected).sum().backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=2 * bound[dtype], atol=2 * bound[dtype])


@pytest.mark.parametrize("name", ["selective_log_softmax", "chunked_selective_log_softmax", "logits_to_logprobs"])
def test_a_temperature_divides_the_logits(name):
    logits, ids = logits_of(*LOGITS), ids_of(*IDS)
    value = getattr(compat, name)(logits, ids, 0.7)
    torch.testing.assert_close(value.double(), logprobs(logits, ids, 0.7), rtol=2e-6, atol=2e-6)


def test_several_ids_of_a_row_are_gathered_and_masked_rows_are_0():
    logits, ids = logits_of(*LOGITS), ids_of(*LOGITS, 4)
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 1, 1, 1]], device=DEVICE)
    exact = logits.detach().double().requires_grad_()
    value = compat.selective_log_softmax(logits, ids, 0.7, mask)
    expected = ((exact / 0.7).log_softmax(-1).gather(-1, ids)).where(mask[..., None] != 0, 0)
    torch.testing.assert_close(value.double(), expected, rtol=4e-6, atol=4e-6)  # differences of logits up to 12
    value.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)
    one = compat.selective_log_softmax(logits, ids[..., 0], row_mask=mask)
    assert (one[mask == 0] == 0).all()


@pytest.mark.parametrize("requires_grad", [True, False])
def test_trls_two_come_from_one_read(requires_grad, monkeypatch):
    reads = []
    read = functions.token_stats
    monkeypatch.setattr(functions, "token_stats", lambda *a, **o: (reads.append(o["outputs"]), read(*a, **o))[1])
    logits, ids = logits_of(*LOGITS), ids_of(*IDS)
    logprob, entropy = compat.selective_log_softmax_and_entropy(logits, ids, requires_grad, 0.7)
    assert reads == [("logprob", "entropy")]
    torch.testing.assert_close(logprob.double(), logprobs(logits, ids, 0.7), rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(entropy.double(), entropies(logits, 0.7), rtol=2e-6, atol=2e-6)
    assert entropy.requires_grad == requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grad", [True, False])
def test_openrlhfs_two_functions_share_a_read_in_either_order(grad, dtype, monkeypatch):
    reads = []
    read = functions.token_stats
    monkeypatch.setattr(functions, "token_stats", lambda *a, **o: (reads.append(o["outputs"]), read(*a, **o))[1])
    ids = ids_of(*IDS)
    bound = {torch.float32: 4e-6, torch.bfloat16: 2.0**-7}[dtype]
    for first in (compat.compute_entropy, compat.log_probs_from_logits):
        for temperature in (1.0,) if first is compat.compute_entropy else (1.0, 0.7):
            logits = logits_of(*LOGITS, dtype=dtype)
            exact = logits.detach().double().requires_grad_()
            before = logits.detach().clone()
            reads.clear()
            with torch.set_grad_enabled(grad):
                if first is compat.compute_entropy:
                    entropy = compat.compute_entropy(logits)
                    logprob = compat.log_probs_from_logits(logits, ids)
                else:  # OpenRLHF divides in place here, so that its entropy is at the temperature too
                    logprob = compat.log_probs_from_logits(logits, ids, temperature)
                    entropy = compat.compute_entropy(logits)
            assert len(reads) == 1
            assert torch.equal(logits, before)
            expected = logprobs(exact, ids, temperature), entropies(exact, temperature)
            for value, other in zip((logprob, entropy), expected, strict=True):
                assert value.dtype == dtype
                torch.testing.assert_close(value.double(), other, rtol=bound, atol=bound)
            assert logprob.requires_grad == entropy.requires_grad == grad
            if grad:
                (logprob.sum() + 0.3 * entropy.sum()).backward()
                (expected[0].sum() + 0.3 * expected[1].sum()).backward()
                torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=2 * bound, atol=2 * bound)


def test_a_read_is_shared_only_where_it_is_of_the_same_logits():
    logits, ids = logits_of(*LOGITS), ids_of(*IDS)
    # Of logits that were not read before, or that have changed since, it is their own.
    compat.log_probs_from_logits(logits, ids, 0.7)
    other = logits_of(*LOGITS, seed=4)
    torch.testing.assert_close(compat.compute_entropy(other).double(), entropies(other), rtol=2e-6, atol=2e-6)
    changed = logits.detach().clone()
    compat.log_probs_from_logits(changed, ids, 0.7)
    changed += torch.linspace(0, 1, V, device=DEVICE)
    torch.testing.assert_close(compat.compute_entropy(changed).double(), entropies(changed), rtol=2e-6, atol=2e-6)
    # After an entropy at temperature 1 a log-probability at another is its own.
    compat.compute_entropy(logits)
    value = compat.log_probs_from_logits(logits, ids, 0.7)
    torch.testing.assert_close(value.double(), logprobs(logits, ids, 0.7), rtol=2e-6, atol=2e-6)
    with torch.inference_mode():  # whose tensors do not say whether they have changed
        fresh = logits_of(*LOGITS).detach()
        compat.log_probs_from_logits(fresh, ids, 0.7)
        value = compat.compute_entropy(fresh)
        torch.testing.assert_close(value, compat.entropy_from_logits(fresh), rtol=0, atol=0)
    # What was read without a gradient has none, and is read again where it is to have one.
    for first, second in (
        (compat.compute_entropy, lambda x: compat.log_probs_from_logits(x, ids)),
        (lambda x: compat.log_probs_from_logits(x, ids), compat.compute_entropy),
    ):
        with torch.no_grad():
            first(logits)
        assert second(logits).requires_grad


def test_torchtitans_entropy_has_no_gradient_and_is_there_where_a_label_is_not():
    logits, labels = logits_of(*LOGITS), ids_of(*IDS)
    labels[0, 1] = -100
    logprob, entropy = compat.compute_logprobs(logits, labels, return_entropy=True)
    assert logprob[0, 1] == compat.compute_logprobs(logits, labels)[0, 1] == 0
    assert logprob.requires_grad
    assert not entropy.requires_grad
    torch.testing.assert_close(entropy.double(), entropies(logits.detach()), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"support_top_k": 5}, "support_top_k is 5; expected none"),
        ({"support_top_p": 0.9}, r"support_top_p is 0\.9; expected none"),
        ({"support_min_p": 0.1}, r"support_min_p is 0\.1; expected none"),
        ({"support_excluded_ids": torch.tensor([3])}, r"support_excluded_ids is tensor\(\[3\]\); expected none"),
    ],
)
def test_what_unsloth_can_leave_out_of_the_distribution_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        compat.chunked_selective_log_softmax(logits_of(*LOGITS), ids_of(*IDS), **options)


def test_an_in_place_backward_is_honoured_where_it_can_be():
    leaf, ids = logits_of(*LOGITS), ids_of(*IDS)
    compat.logprobs_from_logits(leaf, ids).sum().backward()  # a leaf is never overwritten
    logits = leaf.detach().requires_grad_() * 1.0
    before = logits.detach().clone()
    compat.logprobs_from_logits(logits, ids).sum().backward()
    assert not torch.equal(logits, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seq_index": torch.zeros(3)}, "seq_index is tensor"),
        ({"sampling_params": SimpleNamespace(top_k=5, top_p=1.0)}, r"sampling_params\.top_k is 5; expected none"),
        ({"sampling_params": SimpleNamespace(top_k=None, top_p=0.9)}, r"sampling_params\.top_p is 0\.9; expected none"),
        (
            {"vocab_parallel_group": SimpleNamespace(rank=lambda: 1), "vocab_parallel_rank": 0},
            "vocab_parallel_rank is 0; expected 1, that in the group",
        ),
    ],
)
def test_what_nemo_rl_can_divide_and_we_cannot_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        compat.get_next_token_logprobs_from_logits(ids_of(*IDS), logits_of(*LOGITS), **options)


# ---------------------------------------------------------------- patch, on a package that stands in for OpenRLHF


@pytest.fixture
def stand_in(monkeypatch):
    """Modules of the names, with OpenRLHF's signatures and its division in place; and a module that imported them."""
    utils, actor = ModuleType("openrlhf.models.utils"), ModuleType("openrlhf.models.actor")

    def log_probs_from_logits(logits: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        if temperature != 1.0:
            logits.div_(temperature)
        return logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]

    def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
        return entropies(logits).to(logits.dtype)

    for module in (utils, actor):
        module.log_probs_from_logits, module.compute_entropy = log_probs_from_logits, compute_entropy
    for name in ("openrlhf", "openrlhf.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "openrlhf.models.utils", utils)
    monkeypatch.setitem(sys.modules, "openrlhf.models.actor", actor)
    monkeypatch.setattr(patching, "version", lambda name: "0.11.2")
    return actor


def test_a_patch_compares_the_first_batch_says_so_and_undoes_itself(stand_in, caplog):
    caplog.set_level(logging.INFO, "rlif_kernels.compat")
    original, logits, ids = stand_in.log_probs_from_logits, logits_of(*LOGITS).detach(), ids_of(*IDS)
    with compat.patch("openrlhf") as patch:
        assert stand_in.log_probs_from_logits is not original
        for _ in range(2):
            value = stand_in.log_probs_from_logits(logits, ids, 0.7)
            torch.testing.assert_close(value.double(), logprobs(logits, ids, 0.7), rtol=2e-6, atol=2e-6)
            entropy = stand_in.compute_entropy(logits)
            torch.testing.assert_close(entropy.double(), entropies(logits, 0.7), rtol=2e-6, atol=2e-6)
        assert patch.version == "0.11.2"
        assert patch.compared.keys() == {"log_probs_from_logits", "compute_entropy"}
        assert max(patch.compared.values()) < 1e-5
    assert stand_in.log_probs_from_logits is original
    said = [record.message for record in caplog.records]
    assert said[0] == "openrlhf 0.11.2: replaced log_probs_from_logits, compute_entropy"
    assert [line.split(", first batch: ")[0] for line in said[1:]] == [
        "openrlhf.log_probs_from_logits", "openrlhf.compute_entropy",
    ]  # fmt: skip


def test_a_package_that_computes_something_else_gets_its_own_functions_back(stand_in, monkeypatch, caplog):
    own = stand_in.compute_entropy

    def in_bits(logits: torch.Tensor) -> torch.Tensor:
        return own(logits) / 0.6931

    for name in ("openrlhf.models.utils", "openrlhf.models.actor"):
        monkeypatch.setattr(sys.modules[name], "compute_entropy", in_bits)
    compat.patch("openrlhf")
    logits = logits_of(*LOGITS).detach()
    assert torch.equal(stand_in.compute_entropy(logits), in_bits(logits))
    assert stand_in.compute_entropy is in_bits
    assert "fused against eager" in caplog.text
    assert "its own functions are back" in caplog.text


def test_what_cannot_be_patched_is_named(stand_in, monkeypatch):
    with pytest.raises(ValueError, match=r"name is 'verl'; expected one of \('trl', 'ms-swift', 'openrlhf', 'torch"):
        compat.patch("verl")
    sys.modules["openrlhf.models.utils"].compute_entropy = lambda logits, dim: logits
    with pytest.raises(ImportError, match=r"compute_entropy takes \[\('logits'"):
        compat.patch("openrlhf")
    monkeypatch.setattr(patching, "version", lambda name: "0.12.0")
    with pytest.raises(ImportError, match=r"openrlhf is 0\.12\.0; expected 0\.11\.\*"):
        compat.patch("openrlhf")
    monkeypatch.setattr(patching, "version", importlib.metadata.version)
    with pytest.raises(ImportError, match="openrlhf is not installed"):
        compat.patch("openrlhf")
