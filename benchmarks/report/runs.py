"""Tables of whole runs: the demonstration, self-feedback, a training step, sampling."""

import math
import statistics
from typing import Any

from scipy import stats

from benchmarks.report.markdown import notes, table


def demo(results: dict[str, Any]) -> str:
    rows = []
    for seed, runs in results["seeds"].items():
        for reward, evaluations in runs.items():
            if reward == "seconds":
                continue
            accuracy = {row["step"]: row["eval/accuracy"] for row in evaluations}
            best = max(accuracy, key=lambda step: accuracy[step])
            last = max(accuracy)
            cells = [
                seed,
                f"{accuracy[0]:.1%}",
                f"{accuracy[best]:.1%} at {best:.0f}",
                f"{accuracy[last]:.1%} at {last:.0f}",
            ]
            rows.append([f"`{reward}`", *cells])
    return table(["trained on", "seed", "start", "best, at step", "last, at step"], rows)


def over(rate: float, entries: dict[str, Any], name: str) -> str:
    """A rate over TRL's; nothing where TRL did not run."""
    return f"{rate / entries['TRL'][name]:.1f}x" if "TRL" in entries else ""


def training_step(results: dict[str, Any]) -> str:
    rows = []
    entries = results.get("implementations", {})
    for name, entry in entries.items():
        speed_up = over(entry["tokens_per_second"], entries, "tokens_per_second")
        phases = ", ".join(f"{phase} {s:.1f} s" for phase, s in entry["seconds"].items() if phase != "step")
        peak = f"{entry['peak_bytes'] / 1e9:.1f} GB"
        rows.append([name, f"{entry['tokens_per_second']:.0f}", speed_up, phases, peak])
    headings = ["trainer", "tokens a second", "speed-up", "phases of a step", "peak memory"]
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return table(headings, rows) + notes(results["machine"]["versions"], missing, ["trl"])


def trl_step(results: dict[str, Any]) -> str:
    rows = []
    entries = results["implementations"]
    for name, entry in entries.items():
        seconds = entry["seconds"]
        low, high = entry["step_quartiles"]
        speed_up = f"{entries['TRL']['seconds']['step'] / seconds['step']:.1f}x" if "TRL" in entries else ""
        phases = ", ".join(f"{phase} {s:.1f} s" for phase, s in seconds.items() if phase != "step")
        step = f"{seconds['step']:.1f} s ({low:.1f} to {high:.1f})"
        rows.append([name, step, speed_up, phases, f"{entry['peak_bytes'] / 1e9:.1f} GB"])
    headings = ["trainer", "step (quartiles)", "speed-up", "phases", "peak memory"]
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return table(headings, rows) + notes(results["machine"]["versions"], missing, ["trl"])


def generation(results: dict[str, Any]) -> str:
    rows = []
    for name, entry in results.get("models", {}).items():
        plain = statistics.median(entry["seconds"]["plain"])
        cells = [f"{entry['tokens'] / plain:.0f}", f"{entry['statistics_share']:+.1%}"]
        rows.append([name, *cells, f"{entry['second_forward_share']:+.1%}"])
    return table(["model", "tokens a second", "with statistics", "with a second forward"], rows)


def self_feedback(results: dict[str, Any]) -> str:
    seeds = results["seeds"].values()
    trace, answer = "inverse_perplexity", "probability_disparity"
    measured = {
        "accuracy": ("trace", "accuracy", "{:.1%}"),
        "ECE, confidence in the whole solution": ("trace", f"{trace}/ece", "{:.3f}"),
        "Brier score, likewise": ("trace", f"{trace}/brier", "{:.3f}"),
        "AUROC, likewise": ("trace", f"{trace}/auroc", "{:.3f}"),
        "ECE, confidence in the answer's tokens alone": ("answer", f"{answer}/ece", "{:.3f}"),
        "AUROC of the latter": ("answer", f"{answer}/auroc", "{:.3f}"),
    }
    rows = []
    for label, (part, name, form) in measured.items():
        pairs = [[run[part]["models"][model][name] for model in ("start model", "tuned model")] for run in seeds]
        before, after = (form.format(statistics.fmean(pair[side] for pair in pairs)) for side in (0, 1))
        low, high = interval([end - start for start, end in pairs])
        signed = form.replace(":", ":+")
        change = f"{signed.format(low)} to {signed.format(high)}".replace("%", " points")
        rows.append([label, before, after, change])
    first = table(["mean over seeds", "start model", "tuned model", "change, 95% interval"], rows)
    agreeing, judged = (sum(run["ranking"][key] for run in seeds) for key in ("agreeing", "judged"))
    sentence = (
        f"{len(seeds)} seeds, {results['eval_generations']} samples of each of {results['questions'] // 2} held-out "
        f"questions. Of {judged} pairs of a right and a wrong solution, the more confident one was the right one in "
        f"{agreeing / judged:.1%}."
    )
    rows = []
    entries = results["implementations"]
    for name, entry in entries.items():
        speed_up = over(entry["pairs_per_second"], entries, "pairs_per_second")
        low, high = entry["quartiles"]
        rate = f"{entry['pairs_per_second']:.1f} ({low:.1f} to {high:.1f})"
        rows.append([name, rate, speed_up, f"{entry['peak_bytes'] / 1e9:.1f} GB"])
    second = table(["DPO", "pairs a second (quartiles)", "speed-up", "peak memory"], rows)
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return f"{first}\n\n{sentence}\n\n{second}{notes(results['machine']['versions'], missing, ['trl'])}"


def interval(values: list[float]) -> tuple[float, float]:
    """The 95% interval of the mean of a few normal values (Student's t)."""
    mean = statistics.fmean(values)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half
