"""The kernel's log: which of its lines bear on a run, and how it is read."""

import os
import re
import select
import stat
import time
from collections.abc import Iterator

from smolplan.machine.files import system_path

KMSG = "/dev/kmsg"
RECORD_BYTES = 8192  # a record is never longer: Documentation/ABI/testing/dev-kmsg

KINDS: dict[str, re.Pattern[str]] = {
    "xid": re.compile(r"NVRM:.*Xid \(|SXid \(|NVRM:.*fallen off the bus"),
    "driver_mismatch": re.compile(r"NVRM: API mismatch"),
    "driver_failed": re.compile(r"NVRM:.*RmInitAdapter failed"),
    "cpu_heat": re.compile(r"temperature above threshold|cpu clock throttled"),
    "out_of_memory": re.compile(r"[Oo]ut of memory: Killed process"),
    "machine_check": re.compile(
        r"Machine Check Exception: \d|\[Hardware Error\].*(severity: (fatal|recoverable)"
        r"|[Uu]ncorrected|[Ff]atal)|EDAC .*\b[1-9]\d* UE\b"
    ),
    "corrected": re.compile(r"\[Hardware Error\]|EDAC .*\b[1-9]\d* CE\b"),
    "pcie": re.compile(r"AER: .*(Uncorrect|Fatal|non-fatal)"),
    "storage": re.compile(
        r"I/O error(, | on )dev (?!fd|sr|loop)|EXT4-fs error|XFS .*([Cc]orruption|I/O error)"
        r"|nvme.*(controller is down|timeout, (aborting|reset))"
    ),
    "hung": re.compile(
        r"blocked for more than \d+ seconds|soft lockup|hard LOCKUP|self-detected stall"
    ),
}

Record = tuple[int, str]
"""(microseconds since boot, text)."""


def parse_record(record: str) -> Record | None:
    """Of "priority,sequence,microseconds since boot,flags;text", the last two."""
    head, _, text = record.partition(";")
    parts = head.split(",")
    if len(parts) < 3 or not parts[2].isdigit():
        return None
    return int(parts[2]), text.partition("\n")[0]


def read_kmsg(path: str) -> Iterator[str]:
    """Records, oldest first. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISCHR(os.fstat(descriptor).st_mode):  # a copy: a line a record
            with os.fdopen(os.dup(descriptor), errors="replace") as copy:
                yield from copy
            return
        while True:
            try:
                record = os.read(descriptor, RECORD_BYTES)
            except BlockingIOError:
                return  # no more for now
            except BrokenPipeError:
                continue  # overwritten while we read; the next read goes on behind it
            if not record:
                return
            yield record.decode(errors="replace")
    finally:
        os.close(descriptor)


def kind_of(text: str) -> str | None:
    return next((kind for kind, pattern in KINDS.items() if pattern.search(text)), None)


class KernelTail:
    """Records that come from now on."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._descriptor = os.open(system_path(KMSG), os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._is_copy = not stat.S_ISCHR(os.fstat(self._descriptor).st_mode)

    def wait(self, timeout_s: float) -> list[Record]:
        """Those that have come, as soon as there are some. Raises OSError."""
        if self._is_copy:  # a file is always ready
            time.sleep(min(timeout_s, 0.1))
            text = os.read(self._descriptor, 1 << 20).decode(errors="replace")
            return [r for line in text.splitlines() if (r := parse_record(line))]
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        poller.poll(1000 * timeout_s)
        found: list[Record] = []
        while True:
            try:
                record = os.read(self._descriptor, RECORD_BYTES)
            except BlockingIOError:
                return found
            except BrokenPipeError:
                continue  # overwritten while we read; the next read goes on behind it
            if not record:
                return found
            if parsed := parse_record(record.decode(errors="replace")):
                found.append(parsed)
