"""Every test has a state folder of its own, and leaves no process behind."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from launcher.store import Store
from tests.lab.slurm import SlurmLab, slurm_lab, why_not
from tests.support import end_all

# Before anything imports torch. Its threads spin while they wait for one another: beside another
# test, on as many cores as there are threads, that costs ten times the work itself.
os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes says more of the machine than of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


LAST_LINES = 30
"""Of a log, shown where a test fails: the first of them are seldom what it failed by."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what the runs in its folder said: often nobody can look there."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.when == "call" and report.failed and folder is not None:
        for log in sorted((*folder.rglob("events.jsonl"), *folder.rglob("*.log"))):
            lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            report.sections.append((str(log.relative_to(folder)), "\n".join(lines)))
    return report


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenised data is made once for all tests."""
    return tmp_path_factory.mktemp("data-cache")


@pytest.fixture(scope="session")
def slurm_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmLab]:
    """A cluster of three nodes, started once for all tests."""
    if why := why_not():
        pytest.skip(why)
    with slurm_lab(tmp_path_factory.mktemp("slurm") / "lab") as lab:
        yield lab


@pytest.fixture
def slurm(slurm_session: SlurmLab, monkeypatch: pytest.MonkeyPatch) -> SlurmLab:
    """The cluster, found by whatever is started from the test."""
    for name, value in slurm_session.environment.items():
        monkeypatch.setenv(name, value)
    return slurm_session


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("SMOLPLAN_STATE", str(tmp_path / "state"))
    opened = Store()
    yield opened
    end_all(opened)
    opened.close()
