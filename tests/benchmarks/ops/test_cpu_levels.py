"""The suite `levels`: each instruction set in a process of its own, and the worst ratio beside the table."""

import pytest

from benchmarks.ops import cpu_levels
from benchmarks.report.levels import levels


def test_a_level_that_cannot_be_built_is_named_with_its_reason(monkeypatch):
    monkeypatch.setitem(cpu_levels.LEVELS, "AVX9", {"RLIF_CPU_LEVEL": "x86-64-v9"})
    with pytest.raises(RuntimeError, match=r"^the process of level AVX9 ended with exit code 1: there are no C"):
        cpu_levels.add_level("AVX9", 0.0, {"entries": []})


def test_the_table_says_the_worst_ratio_to_the_fastest_peer():
    def case(threads, **speed_up):
        return {"op": "token_stats", "shape": "8 x 100, float32", "threads": threads, "speed_up": speed_up}

    cases = [case(2, eager=1.0, rlif=6.0, TRL=3.0, **{"torch.compile": 2.0}), case(1, eager=1.0, rlif=4.0, TRL=5.0)]
    text = levels({"entries": [{"library": "AVX2", "torch": "AVX2", "cases": cases}]})
    assert "| 6.0x | 2.0x | 3.0x | 2.0x |" in text
    assert "| 4.0x |  | 5.0x | 0.8x |" in text
    assert text.endswith("0.8 times as fast as the fastest peer: `token_stats`, 8 x 100, float32, 1 thread, AVX2.")
