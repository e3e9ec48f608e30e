"""What the ranks of an attempt wrote, as one stream."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from smolplan.errors import UserError
from smolplan.rundir import RunDir

PARTS = (".first", ".before", "")
"""Of a rank's log, oldest first."""


def _files(run: RunDir, attempt: int, rank: int | None) -> list[Path]:
    folder = run.attempt(attempt) / "logs"
    name = "*" if rank is None else f"rank-{rank}"
    # The trainer writes to stderr only; a library that prints gets a file of its own.
    printed = [path for path in folder.glob(f"{name}.stdout") if path.stat().st_size]
    # A long log has parts, which the rank has named (trainer/log_file.py).
    logs = [*folder.glob(f"{name}.log"), *folder.glob(f"{name}.log.*")]
    return sorted([*logs, *printed], key=lambda path: (_label(path), PARTS.index(_part(path))))


def read_logs(path: Path, *, rank: int | None, attempt: int | None) -> Iterator[str]:
    """Lines "rank-0 | …" of an attempt (the newest unless given). Raises UserError if it or the
    rank has no log."""
    run = RunDir(path).existing()
    number = attempt or run.latest_attempt()
    files = _files(run, number, rank)
    if not files:
        raise UserError(
            f"attempt {number} has no log" + ("" if rank is None else f" of rank {rank}"),
            where=str(run.attempts),
            remedy=f"The newest attempt is {run.latest_attempt()}.",
        )
    for file in files:
        with file.open(errors="replace") as lines:
            for line in lines:
                yield f"{_label(file)} | " + line.removesuffix("\n")


def _part(file: Path) -> str:
    return file.suffix if file.suffix in PARTS else ""


def _label(file: Path) -> str:
    return file.name.removesuffix(_part(file)).removesuffix(".log")


def follow_logs(
    path: Path,
    *,
    rank: int | None,
    attempt: int | None,
    until: Callable[[], bool],
    poll_s: float = 0.2,
) -> Iterator[str]:
    """As read_logs, then what is written from then on, across attempts, until `until()`."""
    run = RunDir(path)
    # By the file itself: a part of a log goes on under another name.
    positions: dict[tuple[int, int], int] = {}
    while True:
        over = until()  # asked before reading, so that the last lines are not missed
        for file in _files(run, attempt or run.latest_attempt(), rank):
            try:
                stream = file.open("rb")
            except FileNotFoundError:  # a part that has got its next name in this moment
                continue
            with stream:
                status = os.fstat(stream.fileno())
                one = status.st_dev, status.st_ino
                position = positions.get(one, 0)
                # A new file may have the number of one that is gone.
                position = stream.seek(position if position <= status.st_size else 0)
                block = stream.read()
            whole = block if over else block[: block.rfind(b"\n") + 1]
            positions[one] = position + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                yield f"{_label(file)} | {line}"
        if over:
            return
        time.sleep(poll_s)
