"""What smolplan tells a person who asked for something impossible, and the exit codes."""

import errno
from enum import IntEnum
from typing import Self


class ExitCode(IntEnum):
    """Exit codes of every smolplan process (docs/exit-codes.md).

    Anything not named here that a trainer rank ends with is a crash.
    """

    OK = 0
    FAILED = 1
    USER_ERROR = 2
    # 64 and above: causes that a trainer rank names when it ends, so that the monitor can
    # tell what a restart would cure. 64 is EX_USAGE in sysexits.h, the usual start of such codes.
    BAD_SPEC = 64
    NON_FINITE_LOSS = 65
    CHECKPOINT_STORAGE_LOST = 66
    DATA_EXHAUSTED = 67
    STOPPED_ON_REQUEST = 68
    FENCED = 69
    RUN_FOLDER_UNWRITABLE = 70
    NODE_UNFIT = 71
    REPLICAS_DIFFER = 72


class SmolplanError(Exception):
    """Root of all errors that smolplan raises on purpose; carries the exit code of the process."""

    exit_code: ExitCode = ExitCode.FAILED


class UserError(SmolplanError):
    """A mistake of the user's: what is wrong, where it stands, and what would be right.

    `str(error)` is one line, "where: what. remedy".
    """

    exit_code = ExitCode.USER_ERROR

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        sentence = what if what.endswith((".", "?", "!")) else what + "."
        super().__init__(
            (f"{where}: " if where else "") + sentence + (f" {remedy}" if remedy else "")
        )


def storage_exit_code(error: OSError) -> ExitCode:
    """The named cause of a run folder that cannot be written."""
    full_or_failing = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    return ExitCode.CHECKPOINT_STORAGE_LOST if full_or_failing else ExitCode.RUN_FOLDER_UNWRITABLE


class NamedExit(SmolplanError):
    """The trainer ends for a cause that has an exit code of its own (64 and above)."""

    def __init__(self, exit_code: ExitCode, what: str) -> None:
        self.exit_code = exit_code
        super().__init__(what)

    def __reduce__(self) -> tuple[type[Self], tuple[ExitCode, str]]:
        """Ranks tell one another of theirs."""
        return type(self), (self.exit_code, str(self))
