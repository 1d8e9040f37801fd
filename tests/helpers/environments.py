"""The files of a release, and empty environments for the Pythons of this machine to install them into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from pages import ROOT

# Of one command, however busy the machine is: some run hundreds of tests.
SECONDS = 1800.0
# Of the rest an environment must know nothing: neither this tree nor the packages of whoever runs the tests.
KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "RLIF_CPU_LEVEL", "RLIF_CACHE_DIR")


class Distributions(NamedTuple):
    """What a release consists of."""

    sdist: Path
    wheel: Path


def find_python(version: str) -> Path | None:
    """A Python of this version, such as "3.12": the one that runs, one on the path, or one of pyenv or uv."""
    candidates = [sys.executable] if version == "{}.{}".format(*sys.version_info) else []
    candidates += [found for found in [shutil.which(f"python{version}")] if found]
    if root := said(["pyenv", "root"]):
        candidates += [str(path) for path in sorted(Path(root, "versions").glob(f"{version}.*/bin/python"))]
    if found := said(["uv", "python", "find", "--offline", "--no-python-downloads", version]):
        candidates.append(found)
    for each in candidates:  # a name on the path may be pyenv's, which only says that it has no such version
        if said([each, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]) == version:
            return Path(each)
    return None


def said(words: list[str]) -> str:
    """What a command prints on one line; nothing where there is none, or where it fails."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=SECONDS).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


class Environment:
    """A Python with nothing installed, away from this tree."""

    def __init__(self, python: Path, directory: Path) -> None:
        """Make it.

        Args:
            python: whose environment it is.
            directory: to make it in.
        """
        subprocess.run([python, "-m", "venv", "--without-pip", directory / "venv"], check=True, timeout=SECONDS)
        self.python = directory / "venv" / "bin" / "python"
        self.directory = directory
        self.packages = Path(self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())

    def run(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run its Python, in a directory with nothing in it."""
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        empty = self.directory / "empty"
        empty.mkdir(exist_ok=True)
        done = subprocess.run(
            [self.python, *words],
            env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
            cwd=empty,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def install(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Install by the pip of the environment that runs the tests, in the pinned versions."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-compile"]
        command = [*pip, "--constraint", ROOT / "constraints.txt", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def link(self, *names: str) -> None:
        """Link packages and what they need from the environment that runs the tests, which has the same Python.

        So torch is there, and nothing that torch does not bring; and no gigabytes are copied.
        """
        for name in closure(names):
            here = distribution(name)
            for top in {Path(file).parts[0] for file in here.files or () if Path(file).parts[0] not in ("..", "/")}:
                target = self.packages / top
                if top != "__pycache__" and not target.exists():
                    target.symlink_to(Path(str(here.locate_file(top))))


def closure(names: tuple[str, ...]) -> set[str]:
    """These packages and all that they need, without extras."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            needs = [Requirement(each) for each in distribution(name).requires or ()]
            waiting += [each.name for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found
