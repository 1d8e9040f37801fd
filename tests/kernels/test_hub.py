"""A kernel of the Hub is this package under another name: all of it, with imports and ops of its own."""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

import rlif_kernels
from rlif_kernels import hub

PACKAGE = Path(rlif_kernels.__file__).parent


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the command makes."""
    output = tmp_path_factory.mktemp("hub") / "kernel"
    assert hub.main(["--output", str(output), "--repository", "someone/rlif-kernels"]) == 0
    return output


def load(kernel: Path, backend: str = "cpu") -> ModuleType:
    """Load a build as the library `kernels` does: by its path, under the id of its metadata."""
    folder = kernel / "build" / f"torch-{backend}"
    name = json.loads((folder / "metadata.json").read_text())["id"]
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def loaded(kernel: Path) -> ModuleType:
    """The build for CPUs, beside the package that the tests import."""
    return load(kernel)


def test_every_build_is_the_package_without_what_only_an_installed_one_runs(kernel: Path) -> None:
    ours = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    ours = {name for name in ours if "__pycache__" not in name} - {"__main__.py", "hub.py", "py.typed"}
    builds = {path.name: path for path in (kernel / "build").iterdir()}
    assert builds.keys() == {"torch-cpu", "torch-cuda", "torch-rocm", "torch-xpu"}
    for build in builds.values():
        held = {path.relative_to(build).as_posix() for path in build.rglob("*") if path.is_file()}
        assert held - {"metadata.json"} == ours
    assert {path.name for path in kernel.iterdir()} == {"build", "README.md", "LICENSE"}


def test_every_import_is_of_the_kernel_itself_torch_triton_or_the_standard_library(kernel: Path) -> None:
    imported = set()
    for path in (kernel / "build" / "torch-cuda").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").partition(".")[0])
    assert imported - sys.stdlib_module_names == {"torch", "triton"}


def test_no_op_has_a_name_that_is_not_the_builds_own(kernel: Path) -> None:
    """PyTorch would let the copy's op take the place of the package's."""
    named = [path for path in (kernel / "build").rglob("*.py") if "rlif::" in path.read_text(encoding="utf-8")]
    assert named == []


def test_the_metadata_name_each_build_and_hold_the_checksum_of_every_file(kernel: Path) -> None:
    ids = set()
    for build in (kernel / "build").iterdir():
        metadata = json.loads((build / "metadata.json").read_text())
        assert metadata["name"] == "rlif-kernels"
        assert f"torch-{metadata['backend']['type']}" == build.name
        assert metadata["id"].isidentifier()
        ids.add(metadata["id"])
        sums = {
            path.relative_to(build).as_posix(): base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
            for path in build.rglob("*")
            if path.is_file() and path.name != "metadata.json" and "__pycache__" not in path.parts
        }
        assert metadata["digest"] == {"algorithm": "sha256", "files": sums}
    assert len(ids) == 4


def test_the_card_says_what_the_hub_asks_and_lists_every_function(kernel: Path) -> None:
    _, front, text = (kernel / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front).items() >= {"library_name": "kernels", "license": "apache-2.0"}.items()
    assert 'get_kernel("someone/rlif-kernels", version=0, ' in text
    assert rlif_kernels.__version__ in text
    for name in rlif_kernels.__all__:
        assert f"- `{name}`: " in text
    assert "Apache License" in (kernel / "LICENSE").read_text()


def test_it_computes_the_same_bits_beside_the_package_by_ops_of_its_own(loaded: ModuleType, backend: str) -> None:
    assert not {name for name, module in vars(loaded).items() if getattr(module, "__module__", "") == "rlif_kernels"}
    hidden, weight, targets = torch.randn(5, 8), torch.randn(67, 8), torch.randint(67, (5,))
    results = []
    for package in (rlif_kernels, loaded):
        leaf = hidden.clone().requires_grad_()
        stats = package.linear_token_stats(leaf, weight, targets, backend=backend)
        loss = package.grpo_loss(leaf @ weight.T, targets, targets - 30.0, backend=backend).loss
        (loss + stats.entropy.sum()).backward()
        logprob, entropy = package.token_stats(hidden @ weight.T, targets, backend=backend)[:2]
        results.append((*stats[:3], loss, leaf.grad, logprob, entropy))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    ops = getattr(torch.ops, loaded.__name__)
    assert ops.token_stats is not torch.ops.rlif.token_stats
    assert type(stats).__module__.startswith(loaded.__name__)


def test_two_builds_may_be_loaded_at_once(kernel: Path, loaded: ModuleType) -> None:
    other = load(kernel, "cuda")
    assert other.__name__ != loaded.__name__
    logits, targets = torch.randn(3, 40), torch.randint(40, (3,))
    functions = [each.compat.selective_log_softmax_and_entropy for each in (rlif_kernels, loaded, other)]
    first, *rest = (torch.stack(function(logits, targets, temperature=0.7)) for function in functions)
    assert all(torch.equal(first, each) for each in rest)


def test_what_is_there_already_is_left_alone(kernel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--output", str(kernel)], ["--output", str(tmp_path), "--repository", "no name"]):
        assert hub.main(words) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(f": error: output: got {kernel}, where something is; expected a new or empty directory")
    assert second == "rlif_kernels.hub: error: repository: got 'no name', expected OWNER/NAME"
    assert list(tmp_path.iterdir()) == []


def test_an_import_that_cannot_be_made_relative_is_refused() -> None:
    with pytest.raises(ValueError, match=r"line 2: got `import rlif_kernels…`"):
        hub.relative_imports("import os\nimport rlif_kernels.stats\n", depth=1)
    text = "from rlif_kernels import a\nif a:\n    from rlif_kernels.b.c import (\n        d,\n    )\nimport e\n"
    expected = "from .. import a\nif a:\n    from ..b.c import (\n        d,\n    )\nimport e\n"
    assert hub.relative_imports(text, depth=2) == expected
