"""A rank's log, written by a process whose standard error torchrun has sent there."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.logs import follow_logs, read_logs
from smolplan.rundir import RunDir

LINES, LIMIT_BYTES = 2000, 4000

RANK = f"""
import os, sys, time
from pathlib import Path
from trainer import log_file
log_file.LOG_BYTES = {LIMIT_BYTES}
for line in range({LINES}):
    os.write(2, f"line {{line}}\\n".encode())  # as C libraries do
    log_file.keep_bounded(Path(sys.argv[1]))
    if line % 100 == 0:
        time.sleep(0.05)
assert "torch" not in sys.modules
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path)
    run.begin_attempt(1)
    return run


def write(run: RunDir, to: Path) -> None:
    with to.open("w") as log:  # as torch's SubprocessHandler opens it
        command = [sys.executable, "-c", RANK, str(run.rank_log(1, 0))]
        subprocess.run(command, stderr=log, check=True)


def numbers(lines: Iterator[str]) -> list[int]:
    return [int(line.removeprefix("rank-0 | line ")) for line in lines]


def test_a_long_log_keeps_its_first_part_and_its_end(run: RunDir) -> None:
    write(run, run.rank_log(1, 0))
    kept = numbers(read_logs(run.path, rank=None, attempt=1))
    gap = next(place for place, number in enumerate(kept) if place != number)
    assert kept[:gap] == list(range(gap)) and kept[gap:] == list(range(kept[gap], LINES))
    sizes = [file.stat().st_size for file in (run.attempt(1) / "logs").iterdir()]
    assert len(sizes) == 3 and max(sizes) < LIMIT_BYTES + 20


def test_whoever_follows_a_long_log_misses_nothing_of_it(run: RunDir) -> None:
    run.rank_log(1, 0).touch()
    rank = threading.Thread(target=write, args=(run, run.rank_log(1, 0)))
    rank.start()
    until = lambda: not rank.is_alive()  # noqa: E731
    lines = follow_logs(run.path, rank=0, attempt=None, until=until, poll_s=0.005)
    assert sorted(numbers(lines)) == list(range(LINES))
    rank.join()


def test_what_goes_elsewhere_is_left_alone(run: RunDir, tmp_path: Path) -> None:
    run.rank_log(1, 0).write_text("another's")
    write(run, tmp_path / "elsewhere")
    assert len((tmp_path / "elsewhere").read_text().splitlines()) == LINES
    assert [file.name for file in (run.attempt(1) / "logs").iterdir()] == ["rank-0.log"]
