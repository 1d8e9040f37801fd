"""Tables of the results files from before the suite `ops`."""

from typing import Any

from benchmarks.report.markdown import notes, table


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
