"""What the logs of attempts long over are cut down to, so that a run of weeks does not fill its
folder with them."""

import os
from collections.abc import Iterable
from pathlib import Path

from launcher.store import Attempt
from smolplan.errors import ExitCode
from smolplan.rundir import RunDir

ATTEMPTS_KEPT = 10
"""The newest attempts keep what their ranks wrote whole."""

END_BYTES = 64 << 10
"""Of each older log so much of its beginning (how the rank was started, on what) and of its end
(why it ended: a stack, and what led to it) stays."""

_TOLD_BYTES = 64
"""Of the line that says how much was left out: cut down once more, a log would lose its ends."""

_WELL = (ExitCode.OK, ExitCode.STOPPED_ON_REQUEST)
_DONE = ".cut-down"
"""Written last into a folder of logs; whoever is killed before leaves it to be done again."""


def cut_old_logs(run: RunDir, attempts: Iterable[Attempt]) -> None:
    """Cut down the logs of all but the newest attempts. One that failed keeps both ends of each
    rank's log; one that ended well, of which no rank has a failure to tell, keeps rank 0's.
    Raises OSError."""
    for attempt in sorted(attempts, key=lambda one: one.number)[:-ATTEMPTS_KEPT]:
        folder = run.rank_log(attempt.number, 0).parent
        if attempt.state != "ended" or not folder.is_dir() or (folder / _DONE).exists():
            continue
        well = attempt.exit_code in _WELL
        for log in folder.iterdir():
            if log.name.startswith("."):
                continue
            of_no_use = well and log.name.startswith("rank-") and not log.name.startswith("rank-0.")
            if of_no_use or not log.stat().st_size:
                log.unlink()
            else:
                _keep_ends(log)
        (folder / _DONE).touch()


def _keep_ends(log: Path) -> None:
    size = log.stat().st_size
    if size <= 2 * END_BYTES + _TOLD_BYTES:
        return
    with log.open("rb") as file:
        beginning = file.read(END_BYTES)
        file.seek(size - END_BYTES)
        end = file.read(END_BYTES)
    cut = log.with_name(f".cut-{os.getpid()}")
    # Both ends on whole lines; what they lose by it is told as left out.
    beginning = beginning[: beginning.rfind(b"\n") + 1] or beginning
    end = end[end.find(b"\n") + 1 :] or end
    told = f"… {size - len(beginning) - len(end):,} bytes left out …\n".encode()
    with cut.open("wb") as file:
        file.write(beginning + told + end)
        file.flush()
        os.fsync(file.fileno())  # before it takes the place of what it was made from
    cut.replace(log)
