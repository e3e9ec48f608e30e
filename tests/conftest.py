"""Every test has a state folder of its own, and leaves no process behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.store import Store
from tests.support import end_all


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenised data is made once for all tests."""
    return tmp_path_factory.mktemp("data-cache")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("SMOLPLAN_STATE", str(tmp_path / "state"))
    opened = Store()
    yield opened
    end_all(opened)
    opened.close()
