"""The code is sent once for all tests that are not about its sending."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "with 'quotes' and $(blanks)"
