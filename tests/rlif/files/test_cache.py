"""The cache is where the user says, else where the system keeps such things."""

from pathlib import Path

import platformdirs
import pytest

from rlif.files.cache import cache_dir


def test_the_environment_variable_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path))
    assert cache_dir() == tmp_path


@pytest.mark.parametrize("value", [None, ""])
def test_without_it_the_cache_is_the_users(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLIF_CACHE_DIR", raising=False)
    if value is not None:
        monkeypatch.setenv("RLIF_CACHE_DIR", value)
    assert cache_dir() == Path(platformdirs.user_cache_dir("rlif"))
