"""Write the README's tables from the results files: a figure without a file cannot appear.

    python -m benchmarks.report [--check]

Each table stands in the README between `<!-- table NAME -->` and `<!-- end -->`, and is drawn from the newest file
`benchmarks/results/*-NAME.json`, or from the lab's, as is the record that `rlif diagnose` gives of its own verdicts.
`--check` writes nothing and fails if anything says otherwise.
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.machine import PEERS
from rlif.verdict import LAB_FINDINGS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"


def newest(name: str) -> Path:
    if name in LAB_TABLES:
        return RESULTS / "lab" / "lab.json"
    files = sorted(RESULTS.glob(f"*-{name}.json"), key=lambda path: (json.loads(path.read_text())["date"], path.name))
    if not files:
        raise FileNotFoundError(f"no results file {RESULTS}/*-{name}.json: run the command that makes it")
    return files[-1]


def table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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


def cpu_token_stats(results: dict[str, Any]) -> str:
    rows = []
    groups: dict[str, dict[str, Any]] = {}
    for benchmark in results["benchmarks"]:
        groups.setdefault(benchmark["group"], {})[benchmark["params"]["name"]] = benchmark
    for group, by_name in groups.items():
        _, shape, dtype = group.split(", ")
        for name, benchmark in by_name.items():
            median = benchmark["stats"]["median"]
            ratio = by_name["naive"]["stats"]["median"] / median
            extra = benchmark["extra_info"]["extra MB"] / benchmark["extra_info"]["logits MB"]
            cells = [
                f"{1e3 * median:.0f} ms",
                f"{ratio:.1f}x",
                f"{extra:.0%}",
                f"{benchmark['extra_info']['largest error']:.0e}",
            ]
            rows.append([f"{shape}, {dtype.removeprefix('torch.')}", name, *cells])
    headings = ["logits", "implementation", "forward + backward", "speed-up", "extra memory", "error"]
    return table(headings, rows)


def cpu_linear_grpo(results: dict[str, Any]) -> str:
    groups: dict[str, dict[str, Any]] = {}
    for benchmark in results["benchmarks"]:
        groups.setdefault(benchmark["group"], {})[benchmark["params"]["name"]] = benchmark
    rows = []
    for group, by_name in groups.items():
        for name, benchmark in by_name.items():
            median = benchmark["stats"]["median"]
            ratio = by_name["naive"]["stats"]["median"] / median
            cells = [f"{1e3 * median:.0f} ms", f"{ratio:.1f}x", f"{benchmark['extra_info']['largest error']:.0e}"]
            rows.append([group, name, *cells])
    headings = ["head", "implementation", "forward + backward", "speed-up", "error"]
    # Once for each implementation, not for each shape that it was not there for.
    missing = sorted(set(results["missing"].values()))
    return table(headings, rows) + notes(results["machine_info"]["versions"], missing)


def memory(results: dict[str, Any]) -> str:
    rows = [
        [name, f"{entry['extra_bytes'] / 1e6:.0f} MB", f"{entry['extra_bytes'] / results['logits_bytes']:.0%}"]
        for name, entry in results["implementations"].items()
    ]
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return table(["implementation", "extra memory", "of the logits"], rows) + notes(
        results["machine"]["versions"], missing
    )


def training_step(results: dict[str, Any]) -> str:
    rows = []
    entries = results["implementations"]
    for name, entry in entries.items():
        ratio = entry["tokens_per_second"] / entries["TRL"]["tokens_per_second"] if "TRL" in entries else float("nan")
        phases = ", ".join(f"{phase} {s:.1f} s" for phase, s in entry["seconds"].items() if phase != "step")
        peak = f"{entry['peak_bytes'] / 1e9:.1f} GB"
        rows.append([name, f"{entry['tokens_per_second']:.0f}", f"{ratio:.1f}x", phases, peak])
    headings = ["trainer", "tokens a second", "speed-up", "phases of a step", "peak memory"]
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return table(headings, rows) + notes(results["machine"]["versions"], missing)


def trl_step(results: dict[str, Any]) -> str:
    rows = []
    entries = results["implementations"]
    for name, entry in entries.items():
        seconds = entry["seconds"]
        low, high = entry["step_quartiles"]
        speedup = entries["TRL"]["seconds"]["step"] / seconds["step"] if "TRL" in entries else float("nan")
        phases = ", ".join(f"{phase} {s:.1f} s" for phase, s in seconds.items() if phase != "step")
        step = f"{seconds['step']:.1f} s ({low:.1f} to {high:.1f})"
        rows.append([name, step, f"{speedup:.1f}x", phases, f"{entry['peak_bytes'] / 1e9:.1f} GB"])
    headings = ["trainer", "step (quartiles)", "speed-up", "phases", "peak memory"]
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return table(headings, rows) + notes(results["machine"]["versions"], missing)


def generation(results: dict[str, Any]) -> str:
    rows = []
    for name, entry in results["models"].items():
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
        ratio = entry["pairs_per_second"] / entries["TRL"]["pairs_per_second"] if "TRL" in entries else float("nan")
        cells = [f"{entry['pairs_per_second']:.2f}", f"{ratio:.1f}x", f"{entry['peak_bytes'] / 1e9:.1f} GB"]
        rows.append([name, *cells])
    second = table(["DPO", "pairs a second", "speed-up", "peak memory"], rows)
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return f"{first}\n\n{sentence}\n\n{second}{notes(results['machine']['versions'], missing)}"


def interval(values: list[float]) -> tuple[float, float]:
    """The 95% interval of the mean of a few normal values (Student's t)."""
    mean = statistics.fmean(values)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def notes(versions: dict[str, str | None], missing: list[str]) -> str:
    """Versions of the peers that took part, and what did not run."""
    peers = ", ".join(f"{name} {versions[name]}" for name in PEERS if versions.get(name))
    return (f"\n\nWith {peers}." if peers else "") + (f"\n\nNot run: {'; '.join(missing)}." if missing else "")


def static(results: dict[str, Any]) -> str:
    shown = (
        "forward (bf16)", "backward (bf16)", "forward (fp32)", "backward (fp32)", "forward (bf16, unaligned)",
        "grpo statistics (bf16)", "grpo gradient (bf16)",
    )  # fmt: skip
    peers = sorted({c["kernel"] for c in results["counts"] if c["kernel"].startswith("TRL")}, reverse=True)
    rows = []
    for kernel in (*shown, *peers):
        counts = {c["target"]: c for c in results["counts"] if c["kernel"] == kernel}
        cells = [f"{counts[target]['instructions']:.1f}" for target in ("sm_80", "sm_90", "sm_100", "gfx942")]
        hopper = counts["sm_90"]
        access = f"{hopper['load_bytes']} bytes"
        cells += [f"{hopper['barriers']} / {hopper['shuffles']}", access, str(hopper["registers"])]
        cells += [str(max(c["spills"] for c in counts.values()))]
        rows.append([kernel, *cells])
    headings = [
        "main loop",
        "sm_80",
        "sm_90",
        "sm_100",
        "gfx942",
        "barriers / shuffles",
        "loads",
        "registers (sm_90)",
        "spills",
    ]
    return table(headings, rows)


def lab_findings(results: dict[str, Any]) -> str:
    rows = [[each["title"], f"**{each['agreement']}**"] for each in results["findings"]]
    return table(["the paper's finding", "here"], rows)


def lab_guard(results: dict[str, Any]) -> str:
    rows = [
        [each["rule"], f"{100 * each['regret']:.1f}", f"{100 * each['worst']:.1f}", f"{100 * each['gain']:+.1f}"]
        for each in results["guard_rules"]
    ]
    return table(["keep the policy of", "below the best: mean", "worst", "above the start model: mean"], rows)


def lab_diagnosis(results: dict[str, Any]) -> str:
    rows = []
    for name, held_out in (("set the thresholds", False), ("held out", True)):
        pairs = [each for each in results["pairs"] if each["held_out"] is held_out]
        right = sum(each["verdict"] == each["outcome"] for each in pairs)
        rows.append([name, ", ".join(dict.fromkeys(each["start"] for each in pairs)), str(len(pairs)), str(right)])
    return table(["pairs of start model and reward", "start models", "pairs", "verdict came true"], rows)


LAB_TABLES = ("lab-findings", "lab-guard", "lab-diagnosis")
TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "demo": demo,
    "cpu-token-stats": cpu_token_stats,
    "cpu-linear-grpo": cpu_linear_grpo,
    "memory": memory,
    "training-step": training_step,
    "trl-step": trl_step,
    "generation": generation,
    "static": static,
    "lab-findings": lab_findings,
    "lab-guard": lab_guard,
    "lab-diagnosis": lab_diagnosis,
    "self-feedback": self_feedback,
}


def render(readme: str) -> str:
    """The README with every table drawn anew."""
    for name, draw in TABLES.items():
        path = newest(name)
        place = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        body = f"{draw(json.loads(path.read_text()))}\n\nFrom [`{path.name}`]({place.as_posix()})."
        pattern = rf"(<!-- table {name} -->\n).*?(\n<!-- end -->)"
        readme, count = re.subn(pattern, lambda match, body=body: match[1] + body + match[2], readme, flags=re.DOTALL)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"README.md has {count} places for the table {name!r}; expected 1")
    return readme


def lab_record(results: dict[str, Any]) -> str:
    """What `rlif diagnose` says of its own verdicts: how often each came true in the lab, on held-out pairs."""
    held_out = [each for each in results["pairs"] if each["held_out"]]
    verdicts = {
        outlook: {
            "agreed": sum(each["verdict"] == each["outcome"] == outlook for each in held_out),
            "pairs": sum(each["verdict"] == outlook for each in held_out),
        }
        for outlook in sorted({each["verdict"] for each in held_out})
    }
    return json.dumps({"verdicts": verdicts}, indent=1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if the README differs from the results")
    arguments = parser.parse_args()
    written = {
        README: render(README.read_text()),
        LAB_FINDINGS: lab_record(json.loads(newest("lab-diagnosis").read_text())),
    }
    if arguments.check:
        stale = [path.name for path, text in written.items() if not path.exists() or path.read_text() != text]
        sys.exit(
            f"{' and '.join(stale)} differs from benchmarks/results: run python -m benchmarks.report" if stale else 0
        )
    for path, text in written.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
