"""The plans of launches: every multiprocessor has work, few rows too, and nothing is launched that need not be."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlif_kernels.backends import triton as triton_backend
from rlif_kernels.backends.triton import launches, plan
from rlif_kernels.backends.triton.plan import Device
from rlif_kernels.functional import DIFFERENTIABLE, STATISTICS
from rlif_kernels.loss_options import LossOptions
from rlif_kernels.loss_terms import LossRows
from rlif_kernels.rows import Rows

# Multiprocessors and L2 as NVIDIA states them. An H100 and an H200 differ in what no plan asks for.
HOPPER = Device("sm_90", 132, 50 << 20)
GPUS = {
    "A100": Device("sm_80", 108, 40 << 20, shared_bytes=164 << 10),
    "L40S": Device("sm_89", 142, 96 << 20, threads=1536, shared_bytes=100 << 10),
    "H200": HOPPER,
    "B200": Device("sm_100", 148, 126 << 20),
    "RTX PRO 6000": Device("sm_120", 188, 128 << 20, threads=1536, shared_bytes=100 << 10),
    "MI300X": Device("gfx942", 304, 256 << 20, warp=64, registers=131072, shared_bytes=64 << 10),
}
# The vocabularies of the report: Llama 2, GPT-2, Phi-4's padded head, Llama 3, Qwen2.5, Gemma.
VOCABULARIES = (32000, 50257, 102400, 128256, 151936, 262144)


@pytest.mark.parametrize("num_columns", VOCABULARIES)
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("num_rows", [1024, 4096, 8192])
def test_many_rows_keep_every_multiprocessor_busy(num_rows, itemsize, num_columns):
    shape = (num_rows, num_columns, itemsize)
    for planned in (plan.forward(*shape, HOPPER), plan.backward(*shape, HOPPER), plan.loss(*shape, HOPPER)):
        assert planned.balance >= 0.95, planned
    # Elsewhere as even as the multiprocessors let rows be: 1.7 waves of 592 programs are two, 5.4 of others six.
    bound = 0.89 if num_rows == 8192 else 0.8
    for name, device in GPUS.items():
        for planned in (plan.forward(*shape, device), plan.backward(*shape, device), plan.loss(*shape, device)):
            assert planned.balance >= bound, (name, planned)


@pytest.mark.parametrize("num_columns", VOCABULARIES)
@pytest.mark.parametrize("itemsize", [2, 4])
def test_the_fused_loss_has_no_more_rows_under_way_than_the_cache_holds(itemsize, num_columns):
    for device in GPUS.values():
        planned = plan.loss(8192, num_columns, itemsize, device)
        rows = planned.resident * device.multiprocessors
        if planned.path == "fused":
            assert planned.rows_in_flight == rows
            assert rows * num_columns * itemsize < device.cache_bytes
        else:
            assert planned.rows_in_flight * num_columns * itemsize > plan.CACHE_SHARE * device.cache_bytes


def test_rows_beyond_the_cache_take_the_pair():
    assert plan.loss(8192, 151936, 2, HOPPER).path == "fused"  # 132 rows of 304 KB
    assert plan.loss(8192, 262144, 2, HOPPER).path == "pair"
    assert plan.loss(8192, 151936, 4, HOPPER).path == "pair"


@pytest.mark.parametrize("num_rows", [1, 8, 64, 130, 133, 200, 529, 600])
@pytest.mark.parametrize("num_columns", VOCABULARIES)
def test_few_rows_are_split_until_they_fill_the_device(num_columns, num_rows):
    forward = plan.forward(num_rows, num_columns, 2, HOPPER)
    assert forward.balance >= plan.balance(num_rows, 4, HOPPER.multiprocessors)
    if num_rows >= 64:
        # Enough loads under way for two thirds of the memory's rate, at the balance that there is.
        assert forward.efficiency >= 0.5
        assert plan.backward(num_rows, num_columns, 2, HOPPER).efficiency >= 0.5
    assert (forward.launches, forward.memsets) <= (2, 1)
    assert plan.backward(num_rows, num_columns, 2, HOPPER).launches == 1


@pytest.mark.parametrize(("num_rows", "in_flight"), [(64, 32 << 10), (132, 32 << 10), (133, 8 << 10)])
def test_a_pair_of_rows_that_has_a_multiprocessor_to_itself_has_more_loads_under_way(num_rows, in_flight):
    launch = plan.divergence(num_rows, 151936, 2, HOPPER)
    assert plan.bytes_in_flight(launch) == in_flight  # of either side
    assert plan.resident_programs(launch, HOPPER) == (1 if num_rows <= 132 else 2)


def test_a_table_for_one_shape_changes_no_other():
    entry = {"kernel": "forward", "architecture": "sm_90", "itemsize": 2, "columns": [100000, None]}
    entry["choices"] = {"num_stages": 3}
    table = launches.Table([*launches.current().entries, entry])
    assert table.find("forward", "sm_90", 2, 151936).num_stages == 3
    for other in (("forward", "sm_100", 2, 151936), ("forward", "sm_90", 4, 151936), ("forward", "sm_90", 2, 32000)):
        assert table.find(*other).num_stages == 1


def test_an_override_is_laid_over_the_table_and_taken_away():
    before = plan.forward(8192, 151936, 2, HOPPER)
    with launches.override("forward", num_stages=3, num_warps=8):
        inside = plan.forward(8192, 151936, 2, HOPPER).launch
    assert (inside.num_stages, inside.num_warps) == (3, 8)
    assert plan.forward(8192, 151936, 2, HOPPER) == before


@pytest.mark.parametrize(
    ("kernel", "choices", "message"),
    [
        ("forwards", {}, r"kernel: got 'forwards', expected one of"),
        ("forward", {"warps": 4}, r"choices: got \['warps'\], expected some of"),
        ("forward", {"num_warps": 3}, r"num_warps: got 3, expected a power of two, 1 to 32"),
        ("grpo", {"load": "last"}, r"load: got 'last', expected one of"),
        ("divergence", {"load": "descriptor"}, r"load: got 'descriptor' for divergence, expected one of"),
        ("forward", {"slices": 3}, r"slices: got 3, expected None, 0, 1, 2 or 4"),
        ("grpo", {"path": "both"}, r"path: got 'both', expected one of"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(kernel, choices, message):
    with pytest.raises(ValueError, match=message), launches.override(kernel, **choices):
        pass


class Launches(TorchDispatchMode):
    """Counts what would be launched on a GPU: our kernels, and torch's operations that are neither views nor empty."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.kernels, self.operations = [], []
        for name in ("forward_kernel", "backward_kernel", "grpo_kernel", "terms_kernel"):
            monkeypatch.setattr(triton_backend, name, Recorder(name, self.kernels))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view and "empty" not in str(function):
            self.operations.append(str(function))
        return result


class Recorder:
    """Stands for a kernel: writes down that it was launched."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def __getitem__(self, grid):
        return lambda *arguments, **constants: self.log.append((self.name, *grid))


def rows_of(logits):
    return Rows(torch.zeros(len(logits), dtype=torch.int64), 1.0, 0.0, logits.shape[-1] - 7)


@pytest.mark.parametrize("outputs", [("logprob",), tuple(STATISTICS)])
@pytest.mark.parametrize("slices", [0, 1, 4])
def test_a_forward_is_a_launch_and_at_most_one_clearing_and_a_backward_a_launch(slices, outputs, monkeypatch):
    logits = torch.empty(3, 40000)
    rows = rows_of(logits)
    name = "forward" if outputs == ("logprob",) else "forward_all"
    with launches.override(name, slices=slices), Launches(monkeypatch) as launched:
        fields, state = triton_backend.forward(logits, rows, outputs)
        assert launched.kernels == [("forward_kernel", 3 * max(1, 3 * slices))]  # three chunks of 16384
        assert launched.operations == (["aten.new_zeros.default"] if slices else [])
        grads = {name: fields[name] for name in outputs if name in DIFFERENTIABLE}
        triton_backend.backward(torch.empty_like(logits), grads, logits, rows, state)
        assert [name for name, _ in launched.kernels] == ["forward_kernel", "backward_kernel"]
        assert launched.operations == (["aten.new_zeros.default"] if slices else [])


@pytest.mark.parametrize(
    ("path", "kernels"), [("fused", ["grpo_kernel"]), ("pair", ["forward_kernel", "terms_kernel", "backward_kernel"])]
)
def test_a_loss_is_one_launch_or_three(path, kernels, monkeypatch):
    logits, ones = torch.empty(2, 300), torch.ones(2)
    rows = rows_of(logits)
    with launches.override("grpo", path=path), Launches(monkeypatch) as launched:
        triton_backend.grpo(
            torch.empty_like(logits), logits, rows, ("logprob",),
            LossRows(ones, ones, ones, None, None), LossOptions(0.2, 0.2, float("inf"), 0.0, 0.0, 0.0),
        )  # fmt: skip
    assert [name for name, _ in launched.kernels] == kernels
    assert launched.operations == []
