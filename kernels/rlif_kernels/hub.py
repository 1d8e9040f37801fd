"""Make a kernel for the Hugging Face Hub of this package: the directory that the library `kernels` loads.

python -m rlif_kernels.hub --output DIR

    README.md                     the card
    LICENSE
    build/torch-cpu/              this package, with relative imports, and metadata.json
    build/torch-cuda/             the same again, and so for ROCm and XPU

`kernels` knows builds that hold no compiled file by the names of these folders, and loads `__init__.py` of the one for
torch's backend as a module whose name is the `id` of its metadata.json. Hence the imports are relative, and `op_names`
takes the ops' namespace from that name. The C sources come along, and are compiled on first use, as in this package,
into the same cache. The layout is that of https://huggingface.co/docs/kernels, "Kernel requirements".
"""

import argparse
import ast
import base64
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import rlif_kernels

NAME = "rlif-kernels"
BACKENDS = ("cpu", "cuda", "rocm", "xpu")
PACKAGE = Path(__file__).parent
SUFFIXES = (".py", ".json", ".c", ".h")
# What only an installed package has a use for: `python -m` does not run what the Hub loads.
LEFT_OUT = ("__main__.py", "hub.py")
# The Hub counts whole versions, those with the same first number here; 0 is for what may still change.
VERSION = int(rlif_kernels.__version__.partition(".")[0])

CARD = """\
---
library_name: kernels
license: apache-2.0
tags:
- kernel
- reinforcement-learning
- grpo
- triton
---

# {name}

Log-probability, entropy, self-certainty and other statistics of rows of vocabulary-sized logits, from one read, each
with its gradient from one more read and one write; the losses of GRPO and its relatives; divergences of a student and
a teacher; and all of these from hidden states and the head, without logits in memory. This is `rlif_kernels` of rlif
{version}, whole.

```python
# pip install kernels
from kernels import get_kernel

kernels = get_kernel("{repository}", version={hub_version}, trust_remote_code=True)
stats = kernels.linear_token_stats(hidden, weight, targets)  # differentiable: logprob, entropy, self_certainty
logprob, entropy = kernels.compat.selective_log_softmax_and_entropy(logits, targets, temperature=0.9)  # as in TRL
```

`kernels.get_local_kernel(Path("DIRECTORY"))` loads a local copy of this directory.

## Functions

{functions}

## What it runs on

Python 3.11 or newer, torch 2.10 or newer, and on GPUs the Triton that comes with torch; nothing else is imported. On
GPUs of CUDA, ROCm and XPU the kernels are Triton's. On a CPU they are C, compiled on first use by gcc or clang into a
cache of the user's (`RLIF_CACHE_DIR`); where there is no compiler, plain torch serves, and a warning says so. No
compiled file is in here, so that one build serves every torch and every Python. Ops are registered under the id of
the build: any number of versions, and the package `rlif` itself, may be loaded in one process.

## Source

The package `rlif`, version {version}; `python -m rlif_kernels.hub --output DIR` made this directory.
"""


def write_kernel(output: Path, repository: str) -> None:
    """Write the directory.

    Args:
        output: where; it must be new, or empty.
        repository: the name on the Hub that the card speaks of, OWNER/NAME.

    Raises:
        ValueError: there is something in the directory, or the repository's name is none.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output: got {output}, where something is; expected a new or empty directory")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"repository: got {repository!r}, expected OWNER/NAME")
    files = {name: contents for name, contents in package_files()}
    for backend in BACKENDS:
        folder = output / "build" / f"torch-{backend}"
        for name, contents in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents)
        (folder / "metadata.json").write_text(json.dumps(metadata(backend, files), indent=2) + "\n", encoding="utf-8")
    (output / "README.md").write_text(card(repository), encoding="utf-8")
    (output / "LICENSE").write_text(licence(), encoding="utf-8")


def package_files() -> Iterator[tuple[str, bytes]]:
    """Each file of the package by its path in it, with imports that hold wherever it is."""
    for path in sorted(PACKAGE.rglob("*")):
        name = path.relative_to(PACKAGE)
        if path.suffix not in SUFFIXES or name.as_posix() in LEFT_OUT:
            continue
        if path.suffix == ".py":
            text = path.read_text(encoding="utf-8")
            yield name.as_posix(), relative_imports(text, depth=len(name.parts)).encode()
        else:
            yield name.as_posix(), path.read_bytes()


def relative_imports(text: str, depth: int) -> str:
    """The text of a module with its imports from this package relative to it.

    Args:
        text: of the module.
        depth: 1 for modules of the package itself, 2 for those of the packages in it, and so on.

    Raises:
        ValueError: it imports the package in a way that cannot be put so.
    """
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "rlif_kernels" for alias in node.names):
            raise ValueError(f"line {node.lineno}: got `import rlif_kernels…`, expected `from … import …`")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rlif_kernels":
            inside = node.module.removeprefix("rlif_kernels").removeprefix(".")
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line.replace(f"from {node.module} ", f"from {'.' * depth}{inside} ", 1)
    return "".join(lines)


def metadata(backend: str, files: dict[str, bytes]) -> dict[str, object]:
    """What `kernels` reads of a build: a name that no other build has, and the checksum of every file."""
    sums = {name: hashlib.sha256(contents).digest() for name, contents in files.items()}
    unique = hashlib.sha256(b"".join(name.encode() + sums[name] for name in files)).hexdigest()[:10]
    return {
        "name": NAME,
        "id": f"_{NAME.replace('-', '_')}_{backend}_{unique}",
        "version": VERSION,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {
            "algorithm": "sha256",
            "files": {name: base64.b64encode(value).decode() for name, value in sums.items()},
        },
    }


def card(repository: str) -> str:
    """The page of the kernel on the Hub."""
    documented = ((name, getattr(rlif_kernels, name).__doc__) for name in rlif_kernels.__all__)
    functions = "\n".join(f"- `{name}`: {text.strip().splitlines()[0]}" for name, text in documented)
    return CARD.format(
        name=NAME, version=rlif_kernels.__version__, hub_version=VERSION, repository=repository, functions=functions
    )


def licence() -> str:
    """The text of the licence, from the tree, or from the distribution that was installed."""
    here = PACKAGE.parents[1] / "LICENSE"
    if here.is_file():
        return here.read_text(encoding="utf-8")
    try:
        text = distribution("rlif").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        text = None
    if text is None:
        raise FileNotFoundError("there is no LICENSE: expected the tree of rlif, or its installed wheel")
    return text


def main(words: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rlif_kernels.hub", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the directory to make")
    parser.add_argument("--repository", default=f"OWNER/{NAME}", help="its name on the Hub, for the card")
    options = parser.parse_args(words)
    try:
        write_kernel(options.output, options.repository)
    except (OSError, ValueError) as error:
        print(f"rlif_kernels.hub: error: {error}", file=sys.stderr)
        return 2
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
