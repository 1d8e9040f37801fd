"""Tables of `python -m benchmarks releases`: what each release of Triton makes of the kernels for each target."""

from __future__ import annotations

from typing import Any

from benchmarks.report.markdown import table

Entry = dict[str, Any]


def faults_of(compiled: list[Entry]) -> list[str]:
    """What is wrong with compiled kernels: errors and spills, one line each."""
    faults = []
    for each in compiled:
        if "error" in each:
            faults.append(f"{each['kernel']} does not compile ({each['error']})")
        elif each["spills"]:
            faults.append(f"{each['kernel']} spills ({each['spills']})")
    return faults


def names(entries: list[Entry], key: str) -> list[str]:
    return list(dict.fromkeys(each[key] for each in entries))


def of(entries: list[Entry], release: str, target: str) -> list[Entry]:
    return [each for each in entries if (each["triton"], each["target"]) == (release, target)]


def releases_table(results: dict[str, Any]) -> str:
    """Of each target and release the most registers and all spills; then every kernel that spills or fails."""
    entries: list[Entry] = results["entries"]
    releases, targets = sorted(names(entries, "triton")), names(entries, "target")

    def cell(release: str, target: str) -> str:
        found = of(entries, release, target)
        counted = [each for each in found if "error" not in each]
        if not found:
            return "not compiled"
        said = [f"{max(each['registers'] for each in counted)} registers"] if counted else []
        spills = sum(each["spills"] for each in counted)
        said += [f"{spills} spills"] if spills else ["no spill"]
        failed = len(found) - len(counted)
        return ", ".join([*said, *([f"{failed} do not compile"] if failed else [])])

    drawn = table(
        [f"{len(names(entries, 'kernel'))} kernels, at most", *(f"Triton {release}" for release in releases)],
        [[target, *(cell(release, target) for release in releases)] for target in targets],
    )
    faults = [
        f"- {release}, {target}: {fault}"
        for target in targets
        for release in releases
        for fault in faults_of(of(entries, release, target))
    ]
    return drawn + ("\n\n" + "\n".join(faults) if faults else "\n\nEvery kernel compiles everywhere, and none spills.")


def releases_report(results: dict[str, Any]) -> str:
    """The registers of every kernel, by release and target, and its spills where it has some."""
    entries: list[Entry] = results["entries"]
    targets = names(entries, "target")
    parts = [releases_table(results)]
    for release in sorted(names(entries, "triton")):
        cells = {(each["kernel"], each["target"]): each for each in entries if each["triton"] == release}

        def shown(kernel: str, target: str, cells: dict[tuple[str, str], Entry] = cells) -> str:
            each = cells.get((kernel, target))
            if each is None:
                return ""
            if "error" in each:
                return "no"
            return f"{each['registers']}" + (f", {each['spills']} spills" if each["spills"] else "")

        rows = [[kernel, *(shown(kernel, target) for target in targets)] for kernel in names(entries, "kernel")]
        parts += [f"### Registers by Triton {release}", table(["kernel", *targets], rows)]
    return "\n\n".join(parts)
