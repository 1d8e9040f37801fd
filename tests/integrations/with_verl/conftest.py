"""verl with our functions in place, and afterwards its own again."""

from collections.abc import Iterator

import pytest

from rlif.integrations.verl import PatchReport, patch, unpatch


@pytest.fixture
def patched() -> Iterator[PatchReport]:
    yield patch()
    unpatch()
