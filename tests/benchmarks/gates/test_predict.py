"""What is predicted follows from counts, plans and facts: launches fill devices, and the bound is the right one."""

import json

import pytest

from benchmarks.gates.hardware import GPUS, resident_programs
from benchmarks.gates.predict import (
    COLUMNS,
    ITEMSIZES,
    OPS,
    ROWS,
    SHAPES,
    Pass,
    kernel_seconds,
    ours,
    passes,
    simulated_balance,
    together,
)
from benchmarks.report import newest
from rlif_kernels.backends.triton import plan

HOPPERS = ("H100", "H200")
LEAST_SHARE = 0.9


@pytest.fixture(scope="module")
def counts():
    """Of the committed suite `static`, by target and kernel; `test_static.py` holds the kernels to them."""
    found = {}
    for each in json.loads(newest("static").read_text())["counts"]:
        assert "in_flight" in each, (
            "counts of an earlier version: python -m benchmarks static --output benchmarks/results"
        )
        found.setdefault(each["target"], {})[each["kernel"]] = each
    return found


@pytest.mark.parametrize("name", GPUS)
def test_no_shape_of_the_report_leaves_a_device_idle(name, counts):
    gpu = GPUS[name]
    idle = {
        (op, dtype, rows, columns): share
        for op in OPS
        for dtype in ITEMSIZES
        for rows, columns in SHAPES
        for each in passes(gpu, op, rows, columns, dtype, counts[gpu.target])
        if (share := simulated_balance(gpu, each)) < LEAST_SHARE
    }
    assert idle == {}


@pytest.mark.parametrize("name", HOPPERS)
def test_waves_over_their_ceiling_are_at_least_095_from_1024_rows_on(name):
    device = GPUS[name].device
    for itemsize in ITEMSIZES.values():
        for rows in (each for each in ROWS if each >= 1024):
            for columns in COLUMNS:
                loss = plan.loss(rows, columns, itemsize, device)
                forward, backward = (
                    function(rows, columns, itemsize, device) for function in (plan.forward, plan.backward)
                )
                for planned in (forward, backward, *([loss] if loss.path == "fused" else [])):
                    assert planned.balance >= 0.95, (rows, columns, itemsize, planned)


def test_a_forward_is_two_launches_and_a_memset_at_most_and_a_backward_one_launch():
    for gpu in GPUS.values():
        for itemsize in ITEMSIZES.values():
            for rows, columns in SHAPES:
                forward = plan.forward(rows, columns, itemsize, gpu.device)
                backward = plan.backward(rows, columns, itemsize, gpu.device)
                assert forward.launches <= 2
                assert forward.memsets <= 1
                assert (backward.launches, backward.memsets) == (1, 0)


def test_the_rows_of_a_fused_loss_stay_in_the_cache():
    for gpu in GPUS.values():
        for itemsize in ITEMSIZES.values():
            for rows, columns in SHAPES:
                loss = plan.loss(rows, columns, itemsize, gpu.device)
                if loss.path == "fused":
                    under_way = min(rows, loss.resident * gpu.device.multiprocessors) * columns * itemsize
                    assert under_way <= 0.8 * gpu.device.cache_bytes, (gpu.name, rows, columns, itemsize)


def test_a_simulated_launch_knows_a_bad_one():
    counted = {"in_flight": 64 << 10, "programs": 1, "instructions": 9.0, "exponentials": 1.0}
    gpu = GPUS["H200"]
    # Six rows more than there are multiprocessors, each of which holds one: they run alone, no faster than their
    # own loads under way let them.
    alone = Pass(counted, 138.0, 138.0, 138, 1, plan.balance(138, 1, 132))
    assert alone.balance == pytest.approx(138 / 264)
    assert simulated_balance(gpu, alone) < 0.8
    assert simulated_balance(gpu, Pass(counted, 264.0, 264.0, 264, 1, 1.0)) == 1.0
    # Four to each, of which the last wave still draws all that the memory has.
    shared = Pass(counted | {"programs": 4}, 900.0, 900.0, 900, 4, plan.balance(900, 4, 132))
    assert shared.balance < 0.9 < simulated_balance(gpu, shared)


def test_residency_is_what_the_tightest_resource_allows():
    hopper, amd = GPUS["H100"].device, GPUS["MI300X"].device
    assert resident_programs(hopper, registers=128, warps=16, shared_bytes=0) == 1
    assert resident_programs(hopper, registers=113, warps=4, shared_bytes=0) == 4  # 120 a thread are given out
    assert resident_programs(hopper, registers=32, warps=4, shared_bytes=0) == 16  # threads
    assert resident_programs(hopper, registers=32, warps=1, shared_bytes=0) == 32  # programs
    assert resident_programs(hopper, registers=128, warps=4, shared_bytes=75 << 10) == 3  # shared memory
    assert resident_programs(amd, registers=128, warps=4, shared_bytes=0) == 4  # wavefronts of 64


@pytest.mark.parametrize(
    ("changes", "programs", "launches", "bound"),
    [
        ({}, 8192, 1, "bytes"),
        ({"in_flight": 4096}, 8192, 1, "latency"),
        ({"instructions": 32.0}, 8192, 1, "instructions"),
        ({"exponentials": 4.0}, 8192, 1, "exponentials"),
        ({}, 64, 9, "launches"),
    ],
)
def test_the_bound_is_that_of_what_is_scarce(changes, programs, launches, bound):
    counted = {"in_flight": 64 << 10, "programs": 4, "instructions": 9.0, "exponentials": 1.1} | changes
    gpu, elements = GPUS["H200"], programs * 32000.0
    each = Pass(counted, 2 * elements, 2 * elements, programs, 4, 1.0)
    predicted = together(gpu, elements, [each], launches, 0)
    assert predicted.bound == bound
    assert predicted.seconds >= max(kernel_seconds(gpu, elements, each).values())
    assert predicted.seconds >= 2 * elements / gpu.bandwidth


def test_the_prediction_of_a_full_device_is_the_reads_time(counts):
    predicted = ours(GPUS["H100"], "forward", 8192, 151936, "bf16", counts["sm_90"])
    read = 8192 * 151936 * 2 / GPUS["H100"].copy_bandwidth
    assert read <= predicted.seconds < 1.1 * read
