"""`rlif train`: train, and say what came of it."""

from __future__ import annotations

from accelerate import PartialState

from rlif.training.loop import TrainResult, train
from rlif.training.options import TrainConfig


def run(config: TrainConfig) -> None:
    """Train, and say what came of it.

    Raises:
        UserError: bad input, before any work starts; a file that cannot be written.
        KeyboardInterrupt: Ctrl-C; a checkpoint is saved, and the message says how to go on.
    """
    result = train(config)
    if not PartialState().is_main_process:
        return
    skipped = int(result.rows[-1].get("skipped_updates", 0))
    note = f" ({skipped} updates skipped: loss or gradient was not finite)" if skipped else ""
    print(f"{result.last_step} steps done{note}; metrics and samples are in {result.run_dir}, the model in its model/")
    if result.guard_step is not None:
        print(f"guard: {guard_summary(result)}")


def guard_summary(result: TrainResult) -> str:
    """What the guard found, and which policy is where."""
    best = "the start model is still the best" if result.guard_step == 0 else f"step {result.guard_step} was the best"
    if result.guard_step == result.last_step:
        return f"{best}: the policy was still getting better when the run ended"
    stopped = "stopped the run, since the policy was falling; " if result.stopped else ""
    policies = "best/ has that policy"
    if (result.run_dir / "last").is_dir():
        policies = "model/ and best/ have that policy, last/ the last one"
    collapsed = f" (collapse step {result.collapse_step})" if result.collapse_step is not None else ""
    return f"{stopped}{best}{collapsed}; {policies}"
