"""Every part of the GPU command runs on a CPU, so that nothing but a device can make it fail on one."""

import json
import multiprocessing

import pytest
import torch

from benchmarks.gates import compiled
from benchmarks.gates.variants import count_variants, faults_of
from benchmarks.gpu import cases, contract, heads, ops, step, variants
from benchmarks.gpu.part import Task
from benchmarks.memory import in_fresh_process
from benchmarks.report import newest
from comparison import DEVICE
from rlif_kernels.backends.triton import launches


def measured(module):
    task = Task(DEVICE, "tiny", 100)
    module.measure(task)
    return task.found


def test_the_contract_holds_in_every_case_of_a_dry_run():
    found = measured(contract)
    assert found["wrong"] == {}
    assert found["not tried"] == []
    assert found["right"] == found["cases"] > len(cases.CONDITIONS)


@pytest.mark.parametrize("op", ["token_stats", "grpo_loss", "linear_token_stats", "linear_grpo_loss"])
def test_memory_that_a_kernel_leaves_unwritten_is_noticed(op, monkeypatch):
    whole = getattr(cases, op)

    def forgetful(*arguments, **options):
        result = whole(*arguments, **options)
        entropy = torch.empty_like(result.entropy)
        entropy[1:] = result.entropy.detach()[1:]
        return result._replace(entropy=result.entropy * 0 + entropy)

    monkeypatch.setattr(cases, op, forgetful)
    case = cases.Case(op, "float32", 8, 300, "as it comes")
    assert any(fault.startswith("entropy") for fault in cases.faults(case, DEVICE, None))


def test_a_case_that_faults_is_named_and_costs_the_others_nothing(monkeypatch):
    monkeypatch.setattr(contract, "grid", lambda tiny: cases.grid(True)[:3])
    monkeypatch.setattr(contract, "faults", lambda case, *_: 1 / 0 if case.condition == "all fields" else [])
    found = measured(contract)
    assert list(found["wrong"].values()) == [["ZeroDivisionError: division by zero"]]
    assert found["right"] == 2


def test_a_process_that_loses_its_device_without_a_word_is_named():
    here, there = multiprocessing.Pipe()
    there.close()
    asked = contract.ask(here, cases.grid(True)[0], Task(DEVICE, "full", 100))
    assert asked == (["its process ended without a word"], False)


@pytest.mark.slow
def test_cases_are_dealt_to_processes_and_what_there_is_no_time_for_is_named(monkeypatch):
    monkeypatch.setattr(contract, "PROCESSES", 1)
    monkeypatch.setattr(contract, "grid", lambda tiny: cases.grid(True)[:6])
    task = Task(DEVICE, "full", 200)
    contract.measure(task)
    assert (task.found["right"], task.found["wrong"], task.found["not tried"]) == (6, {}, [])
    late = Task(DEVICE, "full", 0)
    contract.measure(late)
    assert len(late.found["not tried"]) == 6


@pytest.mark.slow
def test_variants_are_compiled_beforehand_by_several_processes(monkeypatch):
    monkeypatch.setattr(variants, "PROCESSES", 1)
    monkeypatch.setattr(variants, "DTYPES", (torch.float32,))
    monkeypatch.setattr(variants, "COMPILED_ROWS", (4,))
    monkeypatch.setattr(variants, "COMPILED_COLUMNS", 300)
    monkeypatch.setattr(variants, "VARIANTS", {"forward": variants.VARIANTS["forward"][:1]})
    task = Task(DEVICE, "full", 1000)
    variants.compile_all(task)
    assert "compiled" not in task.found
    assert task.found["compile_seconds"] > 0


def test_the_ops_and_the_heads_are_timed_beside_their_floors():
    for module, who in ((ops, ops.WITHOUT_COMPILATION), (heads, heads.WHO)):
        found = measured(module)
        assert [entry["op"] for entry in found["entries"]] == list(who)
        for entry in found["entries"]:
            assert entry["implementations"]["rlif"]["forward_backward"]["n"] >= 1
            assert entry["floors"]


@pytest.mark.slow
def test_a_training_step_is_timed(monkeypatch):
    monkeypatch.setattr(step, "in_fresh_process", lambda function, *arguments: function(*arguments))
    found = measured(step)
    assert found["missing"] == {}
    assert found["implementations"]["rlif"]["tokens_per_second"] > 0


def test_variants_have_the_bits_of_the_table_or_are_not_timed(monkeypatch):
    found = measured(variants)
    assert [entry["op"] for entry in found["entries"]] == list(variants.VARIANTS)
    for entry in found["entries"]:
        assert entry["missing"] == {}
        assert set(entry["milliseconds"]) == {variants.TABLE, *entry["variants"]}
        assert entry["best"] in entry["milliseconds"]
    wrong = variants.Variant("forward", {"num_stages": 2})
    monkeypatch.setattr(variants, "launched", lambda call, variant: [value + 1 for value in call()])
    entry = variants.time_variants("forward", 4, 300, torch.float32, (wrong,), Task(DEVICE, "tiny", 100))
    assert entry["missing"] == {str(wrong): "its bits differ from the table's"}


@pytest.mark.parametrize("variant", [each for group in variants.VARIANTS.values() for each in group], ids=str)
def test_every_variant_is_one_that_the_table_can_hold(variant):
    with launches.override(variant.kernel, **variant.choices):
        pass


@pytest.mark.exhaustive
def test_every_variant_compiles_without_spills_and_within_its_registers():
    assert faults_of(in_fresh_process(count_variants, "sm_90", ("bfloat16",), forked=False)) == []


def test_the_report_has_every_variant_and_none_that_spills():
    counted = json.loads(newest("static").read_text())["variants"]
    expected = {
        (str(kernel), str(variant)) for dtype in variants.DTYPES for variant, kernel in compiled.variants(dtype)
    }
    assert {(each["kernel"], each["variant"]) for each in counted} == expected
    assert faults_of(counted) == []
