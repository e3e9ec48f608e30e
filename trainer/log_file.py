"""A rank's log, kept from growing with the length of the run."""

import os
from contextlib import suppress
from pathlib import Path

STDERR = 2
"""The descriptor, which C libraries write to as well."""

LOG_BYTES = 32 << 20
"""Rank 0 tells of a step each 10 s at most: some five weeks. Sooner than that comes only what a
library says at every step, of which the beginning and the end are what is wanted."""


def keep_bounded(log: Path) -> None:
    """Where standard error is this file and LOG_BYTES long, begin it anew. Its first part stays, as
    `rank-N.log.first`; of the others the newest is kept, as `rank-N.log.before`.

    The rank does it itself, since what it writes to is its own: no line is lost, and nothing else
    need know. Where the disk is full, or the file is another's, nothing is done.
    """
    with suppress(OSError):
        written = os.fstat(STDERR)
        if written.st_size < LOG_BYTES or not os.path.samestat(written, log.stat()):
            return
        first, fresh = log.with_name(f"{log.name}.first"), log.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            log.rename(log.with_name(f"{log.name}.before") if first.exists() else first)
            fresh.rename(log)
            os.dup2(descriptor, STDERR)
        finally:
            os.close(descriptor)
