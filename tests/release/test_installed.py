"""The wheel installs into an empty environment of each Python that this machine has, and works away from the tree."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from environments import KEPT, SECONDS, Distributions, Environment, find_python
from pages import ROOT
from rlif.cli import COMMANDS

# A test runs several commands, each of which may take SECONDS on a busy machine: more than the limit of other tests.
pytestmark = [pytest.mark.release, pytest.mark.timeout(4 * SECONDS)]

RUNNING = "{}.{}".format(*sys.version_info)
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TOO_OLD = "3.10"
TORCH = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
# Of the extra `train`, what options and help texts are made with; mpmath comes with torch too.
FOR_HELP = ("tyro", "rich", "pyyaml", "platformdirs", "mpmath")

IMPORTS = """
import importlib.util, sys
import rlif
assert not {"torch", "transformers"} & sys.modules.keys()
for package in ("rlif", "rlif_kernels"):
    print(importlib.util.find_spec(package).origin)
"""
KERNELS = """
import importlib.util, sys, warnings
warnings.simplefilter("ignore")  # torch warns that it misses NumPy
import torch
import rlif_kernels
from rlif_kernels.backends.c import build
assert not importlib.util.find_spec("transformers") and not importlib.util.find_spec("numpy")
hidden, weight, targets = torch.randn(4, 8, requires_grad=True), torch.randn(30, 8), torch.randint(30, (4,))
for backend in ("torch", *(["cpu"] if build.library() else [])):
    stats = rlif_kernels.linear_token_stats(hidden, weight, targets, backend=backend)
    loss = rlif_kernels.linear_grpo_loss(hidden, weight, targets, stats.entropy.detach(), backend=backend).loss
    (loss + stats.self_certainty.sum()).backward()
    assert hidden.grad.isfinite().all()
    drawn = rlif_kernels.sample_tokens(hidden.detach() @ weight.T, torch.rand(4), backend=backend)
    assert drawn.token_ids.max() < 30
    print(backend)
"""


@pytest.fixture(scope="module", params=PYTHONS)
def environment(
    request: pytest.FixtureRequest, distributions: Distributions, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """Of one Python, with the wheel and nothing else."""
    python = find_python(request.param)
    if python is None:
        pytest.skip(f"there is no Python {request.param} on this machine")
    made = Environment(python, tmp_path_factory.mktemp(f"python{request.param}"))
    made.install("--no-deps", distributions.wheel)
    return made


def version_of(environment: Environment) -> str:
    return environment.run("-c", "import sys; print('%d.%d' % sys.version_info[:2])").stdout.strip()


def test_the_wheel_is_imported_from_where_it_was_installed_and_all_of_it_compiles(environment: Environment) -> None:
    origins = environment.run("-c", IMPORTS).stdout.split()
    assert [Path(each).parents[1] for each in origins] == [environment.packages] * 2
    packages = [environment.packages / each for each in ("rlif", "rlif_kernels")]
    environment.run("-W", "error", "-m", "compileall", "-q", "-f", *packages)


def test_the_command_line_says_its_version_and_in_one_line_what_to_install(environment: Environment) -> None:
    assert environment.run("-m", "rlif", "--version").stdout.startswith("rlif ")
    for words in (["--help"], ["train", "--help"], ["eval"]):
        done = environment.run("-m", "rlif", *words, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        hint = "rlif: error: rlif was installed without its extra `train`: there is no module tyro; "
        assert done.stderr == f"{hint}pip install 'rlif[train]'\n"


def test_every_command_explains_itself_without_torch(environment: Environment) -> None:
    environment.install(*FOR_HELP)
    for command in COMMANDS:
        assert f"usage: rlif {command}" in environment.run("-m", "rlif", command, "--help").stdout


def test_the_kernels_compute_alone_without_transformers(environment: Environment) -> None:
    if version_of(environment) == RUNNING:
        environment.link("torch", "triton")
    elif environment.install("--no-index", TORCH, check=False).returncode:
        pytest.skip(f"pip has no wheel of {TORCH} for Python {version_of(environment)} and what it needs at hand")
    assert environment.run("-c", KERNELS).stdout.split()[0] == "torch"
    assert "device dtype     backend" in environment.run("-m", "rlif_kernels").stdout


def test_an_older_python_is_refused(distributions: Distributions, tmp_path: Path) -> None:
    python = find_python(TOO_OLD)
    if python is None:
        pytest.skip(f"there is no Python {TOO_OLD} on this machine")
    done = Environment(python, tmp_path).install("--no-deps", distributions.wheel, check=False)
    assert done.returncode != 0
    assert f"requires a different Python: {TOO_OLD}" in done.stderr


# ---------------------------------------------------------------- the source distribution


@pytest.fixture(scope="module")
def unpacked(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that the source distribution holds."""
    directory = tmp_path_factory.mktemp("sdist")
    with tarfile.open(distributions.sdist) as archive:
        archive.extractall(directory, filter="data")
    (tree,) = directory.iterdir()
    return tree


def run_in(tree: Path, *words: str) -> str:
    """Run this Python in a tree, whose packages come before all others."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"PYTHONPATH": f"{tree / 'kernels'}:{tree}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


def test_tests_of_the_source_distribution_pass_in_it(unpacked: Path) -> None:
    where = run_in(unpacked, "-c", "import rlif, rlif_kernels; print(rlif.__file__, rlif_kernels.__file__)").split()
    assert all(Path(each).is_relative_to(unpacked) for each in where)
    chosen = ["tests/kernels/test_reference.py", "tests/kernels/backends/c", "tests/rlif/answers/test_extract.py"]
    chosen += ["tests/rlif/metrics", "tests/rlif/training/test_trackers.py", "tests/docs/test_pages.py"]
    fast = "not slow and not exhaustive and not faults and not release"
    assert " passed" in run_in(unpacked, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", fast, *chosen)


def test_every_test_of_the_source_distribution_is_collected_in_it(unpacked: Path) -> None:
    """So that it has every helper that a test imports, and every file that one reads before it runs."""
    collected = run_in(unpacked, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "tests")
    assert " tests collected" in collected
