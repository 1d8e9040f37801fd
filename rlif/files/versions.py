"""What ran: the versions that a result depends on."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def versions() -> str:
    """Versions of rlif, Python, torch and transformers in one line, and the git commit if rlif runs from a checkout."""
    commit = _commit(Path(__file__).parents[2])
    parts = [f"rlif {_version('rlif')}" + (f" (commit {commit})" if commit else "")]
    parts += [f"Python {platform.python_version()}"]
    parts += [f"{package} {_version(package)}" for package in ("torch", "transformers")]
    return ", ".join(parts)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is on the path and not installed; or an extra that is not
        return "(not installed)"


def _commit(root: Path) -> str | None:
    # Only in a checkout of ours: an installed package may lie below somebody else's repository.
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git, or not our repository to read
        return None
    return done.stdout.strip()
