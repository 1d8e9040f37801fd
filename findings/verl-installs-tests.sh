#!/usr/bin/env bash
# One would guess: a project whose tests lie in a folder `tests` without __init__.py can install verl beside itself, and
# a new process that has the project's root first on sys.path imports `tests.mine` from the project.
# What happens: verl 0.9.1's wheel puts its own test suite into site-packages as a regular top-level package `tests`.
# Python prefers a regular package anywhere on sys.path to a folder without __init__.py that stands before it, so
# `import tests.mine` finds verl's package and fails. Processes that unpickle a function of a test module (spawn,
# forkserver) meet this with pytest's --import-mode=importlib.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-deps verl==0.9.1 2>/dev/null
mkdir -p "$work/project/tests"
echo "value = 1" > "$work/project/tests/mine.py"
cat > "$work/look.py" <<'PY'
import importlib.metadata
import importlib.util
import sys

project = sys.argv[1]
sys.path.insert(0, project)
files = importlib.metadata.files("verl")
own = sorted({file.parts[0] for file in files if file.suffix == ".py"})
print("verl", importlib.metadata.version("verl"), "installs the top-level packages", own)
import tests

print("with the project first on sys.path, `import tests` is of", "verl" if "site-packages" in str(tests.__file__) else "the project")
try:
    import tests.mine
except ModuleNotFoundError as error:
    print("ModuleNotFoundError:", error)
    outcome = "shadowed"
else:
    outcome = "found"
sys.exit(0 if "tests" in own and outcome == "shadowed" else "changed: verl no longer hides a project's folder of tests")
PY
"$work/venv/bin/python" "$work/look.py" "$work/project"
