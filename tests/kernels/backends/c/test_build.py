"""The C kernels are compiled once a machine, in a cache that is the user's alone; where not, the user is told."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from forked import run, start
from rlif_kernels import backends, token_stats
from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.backends.c import build

PROGRAM = """
from rlif_kernels.backends.c.build import library
print("built" if library() is library() is not None else "not built")
"""
OP = """
import torch
from rlif_kernels import token_stats
print(float(token_stats(torch.zeros(1, 8), torch.tensor([3])).entropy))
"""
COMMAND = """
import runpy
runpy.run_module("rlif_kernels", run_name="__main__")
"""
BUILT, NOT_BUILT = "built\n", "not built\n"

needs_compiler = pytest.mark.skipif(build.library() is None, reason="no C compiler")


def compiler_that_logs(path: Path, then: str) -> tuple[str, Path]:
    """A script to name in CC; it notes each time that it is asked for a library. Does `then` in that case."""
    log = path / "log"
    script = path / "compiler"
    # Nobody computes with these libraries: to optimize them would be most of the work.
    script.write_text(f'#!/bin/sh\ncase "$*" in *" -o "*) echo x >> {log}; {then};; esac\nexec cc "$@" -O0\n')
    script.chmod(0o755)
    return str(script), log


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiler_that_logs(tmp_path_factory.mktemp("compiler"), "true")[0]


@pytest.fixture(scope="module")
def compiled(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the library in it; compiling takes seconds."""
    cache = tmp_path_factory.mktemp("compiled")
    assert run(PROGRAM, RLIF_CACHE_DIR=str(cache), CC=compiler) == (BUILT, "")
    return cache


@pytest.fixture
def cache(compiled: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(compiled, tmp_path / "cache")


def directory_in(cache: Path) -> Path:
    (directory,) = cache.iterdir()
    return directory


def test_switched_off_they_are_silent():
    assert run(PROGRAM, RLIF_CPU_KERNELS="0") == (NOT_BUILT, "")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PATH": "/nonexistent"}, "there is no C compiler: install gcc or clang, or name one in CC"),
        ({"CC": "false"}, "failed with status 1"),
        ({"RLIF_CACHE_DIR": "/dev/null/none"}, "name a directory in RLIF_CACHE_DIR"),
        ({"RLIF_CPU_LEVEL": "no-such-level"}, "no-such-level"),
    ],
    ids=["no compiler", "a compiler that fails", "no cache directory", "an unknown level"],
)
def test_without_them_the_torch_backend_serves_and_one_warning_says_why(environment, reason):
    out, err = run(PROGRAM, **environment)
    assert out == NOT_BUILT
    assert err.count("RuntimeWarning: the torch backend serves on this CPU") == 1
    assert reason in err
    assert "`python -m rlif_kernels` tries again" in err


def test_an_op_without_them_gives_what_it_gives_with_them():
    out, err = run(OP, CC="false")
    assert out == "2.079441547393799\n"
    assert err.count("RuntimeWarning") == 1


def test_asked_for_by_name_they_are_an_error_that_says_why(monkeypatch):
    logits, targets = torch.zeros(1, 8), torch.tensor([3])
    monkeypatch.setattr(backends, "found", lambda: build.Found(None, "there is no C compiler"))
    monkeypatch.setattr(cpu_backend, "library", lambda: None)
    with pytest.raises(ValueError, match=r"torch.float32 on cpu; expected a CPU, and .* \(there is no C compiler\)"):
        token_stats(logits, targets, backend="cpu")


@needs_compiler
def test_they_are_compiled_once_into_a_directory_that_is_the_users_alone(cache, compiler):
    directory = directory_in(cache)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert sorted(file.suffix for file in directory.iterdir()) == [".lock", ".sha256", ".so"]
    (library,) = directory.glob("*.so")
    made = library.stat().st_mtime_ns
    assert run(PROGRAM, RLIF_CACHE_DIR=str(cache), CC=compiler) == (BUILT, "")
    assert library.stat().st_mtime_ns == made


@needs_compiler
@pytest.mark.parametrize("cache", [".", ""], ids=["relative", "empty: as if not given"])
def test_any_way_to_name_the_cache_will_do(cache, compiler, tmp_path):
    named = {"RLIF_CACHE_DIR": cache, "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    assert run(PROGRAM, tmp_path, CC=compiler, **named) == (BUILT, "")
    assert len(list(tmp_path.rglob("*.so"))) == 1


@needs_compiler
@pytest.mark.parametrize("kept", [0, 5000])
def test_a_library_that_was_cut_off_is_compiled_again(kept, cache, compiler):
    (library,) = directory_in(cache).glob("*.so")
    whole = library.read_bytes()
    library.write_bytes(whole[:kept])
    assert run(PROGRAM, RLIF_CACHE_DIR=str(cache), CC=compiler) == (BUILT, "")
    assert len(library.read_bytes()) == len(whole)


@needs_compiler
@pytest.mark.parametrize("what", ["directory", "library"])
def test_what_others_can_write_to_is_not_loaded(what, cache, compiler):
    directory = directory_in(cache)
    (library,) = directory.glob("*.so")
    (directory if what == "directory" else library).chmod(0o777)
    out, err = run(PROGRAM, RLIF_CACHE_DIR=str(cache), CC=compiler)
    assert out == NOT_BUILT
    assert "others may write to" in err


@needs_compiler
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["directory", "library"])
def test_what_belongs_to_somebody_else_is_not_loaded(what, cache, compiler):
    directory = directory_in(cache)
    (library,) = directory.glob("*.so")
    os.chown(directory if what == "directory" else library, 12345, 12345)
    out, err = run(PROGRAM, RLIF_CACHE_DIR=str(cache), CC=compiler)
    assert out == NOT_BUILT
    assert "belongs to user 12345; expected 0" in err


@needs_compiler
def test_of_processes_that_start_together_one_compiles(tmp_path):
    compiler, log = compiler_that_logs(tmp_path, "sleep 1")
    together = [start(PROGRAM, RLIF_CACHE_DIR=str(tmp_path / "cache"), CC=compiler) for _ in range(4)]
    assert [process.communicate() for process in together] == [(BUILT, "")] * 4
    assert log.read_text() == "x\n"


@needs_compiler
def test_a_failure_is_shown_by_its_last_lines_and_tried_again_only_by_hand(tmp_path):
    compiler, log = compiler_that_logs(tmp_path, "printf '%s\\n' 1st 2nd 3rd 4th 5th 6th >&2; exit 7")
    environment = {"RLIF_CACHE_DIR": str(tmp_path / "cache"), "CC": compiler}
    for _ in range(2):
        out, err = run(PROGRAM, **environment)
        assert out == NOT_BUILT
        assert "failed with status 7:\n  2nd\n  3rd\n  4th\n  5th\n  6th\n" in err
        assert "1st" not in err
    assert log.read_text() == "x\n"
    script = Path(compiler)
    script.write_text(script.read_text().replace("exit 7", "true"))
    assert "none" not in run(COMMAND, **environment)[0]
    assert run(PROGRAM, **environment) == (BUILT, "")


def test_the_name_of_the_library_holds_all_that_it_depends_on(monkeypatch, tmp_path):
    source = tmp_path / "kernels.c"
    source.write_text("int x;")
    keys = [build._key(["cc"], b"#define __AVX2__ 1"), build._key(["cc"], b""), build._key(["cc", "-O3"], b"")]
    monkeypatch.setattr(build, "SOURCES", (source,))
    keys.append(build._key(["cc"], b""))
    monkeypatch.setattr(build.platform, "machine", lambda: "another")
    keys.append(build._key(["cc"], b""))
    monkeypatch.setattr(build.platform, "libc_ver", lambda: ("glibc", "2.0"))
    keys.append(build._key(["cc"], b""))
    assert len(set(keys)) == len(keys)


def test_what_serves_here_is_told_by_a_command():
    out, _ = run(COMMAND)
    backend = "cpu" if build.library() is not None else "torch"
    for dtype in ("float32", "bfloat16", "float16"):
        assert f"cpu    {dtype:9} {backend} " in out
    out, _ = run(COMMAND, RLIF_CPU_KERNELS="0")
    assert "cpu    float32   torch " in out
    assert "C kernels (backend cpu): none, because RLIF_CPU_KERNELS is 0" in out


@needs_compiler
def test_a_level_that_this_processor_lacks_is_refused(monkeypatch):
    monkeypatch.setenv("RLIF_CPU_LEVEL", "x86-64-v4")
    monkeypatch.setattr(build, "runnable_levels", lambda: ["x86-64-v2"])
    assert build.find() == (None, "RLIF_CPU_LEVEL is x86-64-v4, which this processor cannot run", False)
