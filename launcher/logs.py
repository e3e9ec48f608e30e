"""What the ranks of an attempt wrote, as one stream."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from smolplan.errors import UserError
from smolplan.rundir import RunDir


def _files(run: RunDir, attempt: int, rank: int | None) -> list[Path]:
    folder = run.attempt(attempt) / "logs"
    name = "*" if rank is None else f"rank-{rank}"
    # The trainer writes to stderr only; a library that prints gets a file of its own.
    printed = [path for path in folder.glob(f"{name}.stdout") if path.stat().st_size]
    return sorted([*folder.glob(f"{name}.log"), *printed])


def read_logs(path: Path, *, rank: int | None, attempt: int | None) -> Iterator[str]:
    """Lines "rank-0 | …" of an attempt (the newest unless given). Raises UserError if it or the
    rank has no log."""
    run = RunDir(path)
    if not path.is_dir():
        raise UserError("the folder of this run is gone", where=str(path))
    number = attempt or run.latest_attempt()
    files = _files(run, number, rank)
    if not files:
        raise UserError(
            f"attempt {number} has no log" + ("" if rank is None else f" of rank {rank}"),
            where=str(run.attempts),
            remedy=f"The newest attempt is {run.latest_attempt()}.",
        )
    for file in files:
        for line in file.read_text(errors="replace").splitlines():
            yield f"{_label(file)} | {line}"


def _label(file: Path) -> str:
    return file.stem if file.suffix == ".log" else file.name


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
    positions: dict[Path, int] = {}
    while True:
        over = until()  # asked before reading, so that the last lines are not missed
        for file in _files(run, attempt or run.latest_attempt(), rank):
            with file.open("rb") as stream:
                stream.seek(positions.get(file, 0))
                block = stream.read()
            whole = block if over else block[: block.rfind(b"\n") + 1]
            positions[file] = positions.get(file, 0) + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                yield f"{_label(file)} | {line}"
        if over:
            return
        time.sleep(poll_s)
