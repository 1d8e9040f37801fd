"""Tables of what language models answer, and of what their confidence knows about it."""

from __future__ import annotations

from typing import Any

from benchmarks.report.markdown import table


def word_prompts(results: dict[str, Any]) -> str:
    """Wordings over the levels that they are compared at, then the recipe's at all levels."""

    def cells(entry: dict[str, Any]) -> list[str]:
        shares = [f"{entry[key]['value']:.0%}" for key in ("ended", "stated", "right", "mixed")]
        shares[2] += f" ± {entry['right']['standard_error']:.0%}"
        return [*shares, f"{entry['tokens']:.0f}"]

    headings = ["ended", "answer stated", "right", "mixed groups", "tokens"]
    compared = [entry for entry in results["entries"] if entry["wording"] != "recipe"]
    recipe = [entry for entry in results["entries"] if entry["wording"] == "recipe"]
    wordings = [[entry["wording"], f"{entry['temperature']:g}", *cells(entry)] for entry in compared]
    levels = [[str(entry["level"]), *cells(entry)] for entry in recipe]
    texts = [
        [name, "that of the chat template" if text is None else text.replace("\n", " ⏎ "), str(each["shots"])]
        for name, each in results["wordings"].items()
        for text in [each["system_prompt"]]
    ]
    return (
        f"{table(['wording', 'temperature', *headings], wordings)}\n\n"
        f"Level {compared[0]['level']}, {compared[0]['prompts']} problems and {compared[0]['completions']} completions "
        f"a row. The wordings are:\n\n{table(['wording', 'system prompt', 'solved problems before it'], texts)}\n\n"
        f"With the recipe's, at temperature {recipe[0]['temperature']:g}, {recipe[0]['prompts']} problems and "
        f"{recipe[0]['completions']} completions a level:\n\n{table(['level', *headings], levels)}\n\n"
        f"Model `{results['model']}`; ± is a standard error over prompts. A group of {results['num_generations']} "
        "completions is mixed if some are right and some are not."
    )


def evidence(results: dict[str, Any]) -> str:
    """Every score, then what is right if it chooses."""

    def interval(entry: dict[str, Any], form: str) -> str:
        value, low, high = (entry[key] for key in ("value", "low", "high"))
        return "" if value is None else f"{value:{form}} ({low:{form}} to {high:{form}})"

    rows = [
        [
            f"`{name}`" if "_" in name or name == "agreement" else name,
            *(interval(entry[key], ".2f") for key in ("auroc", "auroc_within", "length_correlation")),
            f"{entry['isotonic_ece']:.3f}",
            f"{entry['isotonic_brier']:.3f}",
        ]
        for name, entry in results["scores"].items()
    ]
    chosen = [
        [
            name,
            interval(entry["right"], ".1%"),
            "" if name == "majority vote" else interval(entry["over_majority"], "+.1%"),
        ]
        for name, entry in results["choices"].items()
    ]
    settings, count = results["settings"], results["num_generations"]
    headings = ["score", "AUROC", "within prompts", "correlation with length", "ECE", "Brier"]
    return (
        f"{table(headings, rows)}\n\n"
        f"{table([f'answer of {count} by', 'right', 'over the majority vote'], chosen)}\n\n"
        f"`{settings['model']}`, `{settings['data']}`, temperature {settings['temperature']:g}: "
        f"{results['completions']} completions of {results['prompts']} prompts, of which "
        f"{interval(results['stated'], '.1%')} state an answer and {interval(results['right'], '.1%')} are right. "
        "Brackets hold 95% intervals over resampled prompts. The correlation is that within prompts. ECE and Brier "
        "score are those of the score made a probability on other "
        f"prompts. Borda votes have the power {results['borda_power']:g}."
    )
