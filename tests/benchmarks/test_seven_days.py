"""The week of watching, an hour of it; and what counts as growth."""

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.seven_days import Sizes, is_flat
from smolplan.rundir import RunDir

DAY = Sizes(50 << 20, 4 << 20, 10_000, 3_000_000, 50, 3)
PROGRAM = """
import sys
from pathlib import Path
from benchmarks.seven_days import watch_days
watch_days(Path(sys.argv[1]), 1 / 24, 4)
"""


def test_the_daemon_watches_an_hour_of_a_faked_clock() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # a disk waits at each fsync
        done = subprocess.run([sys.executable, "-c", PROGRAM, folder], check=False)
        assert done.returncode == 0
        run = RunDir(Path(folder) / "fleet")
        assert len(run.read_metrics()) > 400
        assert [e["action"] for e in run.read_events() if e["kind"] == "decision"] == ["start"]


@pytest.mark.parametrize(
    "last",
    [
        replace(DAY, memory=DAY.memory + (9 << 20)),
        replace(DAY, store=DAY.store + (2 << 20)),
        replace(DAY, threads=4),
        replace(DAY, events=100_000),
    ],
)
def test_what_grew_is_not_flat(last: Sizes) -> None:
    assert is_flat([DAY, DAY, DAY])
    assert not is_flat([DAY, DAY, last])
