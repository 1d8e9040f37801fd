"""The least time that an op's entry in the results could have taken, by what was measured beside it."""

from __future__ import annotations

from typing import Any


def floor_milliseconds(entry: dict[str, Any], phase: str) -> float | None:
    """The least time of an entry's phase, from its own floors; None if they were not measured.

    Of logits a read, and for the gradient a write: `token_stats` cannot know its gradient before all of the forward is
    done, and so has to read them again; the loss can. Of a head one product, and two for the gradients.
    """
    floors = entry.get("floors", {})
    if not all(phase in floor for floor in floors.values()) or not floors:
        return None
    # The faster of its two medians: where the system hands out memory slowly for a while, that is no bound.
    times = {name: min(each["median"] for each in floor.values()) for name, floor in floors.items()}
    if "logits" in times:
        return times["logits"] if phase == "forward" else sum(times.values())
    if phase == "forward":
        return times["read"]
    return times["copy"] + (0.0 if entry["op"] == "grpo_loss" else times["read"])
