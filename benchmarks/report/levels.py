"""The table of the suite `levels`: the C kernels at each instruction set."""

from __future__ import annotations

from typing import Any

from benchmarks.report.markdown import table

PEERS = ("torch.compile", "TRL")


def levels(results: dict[str, Any]) -> str:
    """Return what each is times as fast as eager, forward and backward, and the worst ratio to the fastest peer."""
    rows, worst = [], []
    for entry in results["entries"]:
        name = f"{entry['library']} (torch: {entry['torch'].replace('AVX512', 'AVX-512')})"
        for number, case in enumerate(entry["cases"]):
            shown = (f"{case['speed_up'][each]:.1f}x" if each in case["speed_up"] else "" for each in ("rlif", *PEERS))
            rivals = [case["speed_up"][each] for each in PEERS if each in case["speed_up"]]
            ratio = case["speed_up"]["rlif"] / max(rivals) if rivals else None
            threads = f"{case['threads']} thread" + "s" * (case["threads"] != 1)
            what = f"`{case['op']}`, {case['shape']}, {threads}"
            rows.append([name if number == 0 else "", what, *shown, f"{ratio:.1f}x" if ratio else ""])
            if ratio:
                worst.append((ratio, f"{what}, {entry['library']}"))
    text = table(["instructions", "op and shape", "rlif", *PEERS, "rlif over the fastest of these"], rows)
    if worst:
        text += f"\n\nThe worst of these is {min(worst)[0]:.1f} times as fast as the fastest peer: {min(worst)[1]}."
    return text
