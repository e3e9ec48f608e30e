"""`python -m preflight.probes.kernel_log`: what the kernel has said since the last boot that bears
on a run: lines by kind, with their age."""

import json
import re
import shutil
import subprocess
import sys
import time
from typing import Any

from smolplan.machine.files import is_real, system_path
from smolplan.machine.kernel_log import KINDS, KMSG, Record, kind_of, parse_record, read_kmsg

MOST = 2000
"""Lines of one kind that are handed on, the newest: a fault can fill the log."""
PROGRAM_S = 2.5


def parse_journal(line: str) -> Record | None:
    """Of a line of `journalctl --output=json`."""
    try:
        entry = json.loads(line)
        message = entry["MESSAGE"]
        at = entry.get("_SOURCE_MONOTONIC_TIMESTAMP") or entry["__MONOTONIC_TIMESTAMP"]
        if isinstance(message, list):  # bytes that are no text
            message = bytes(message).decode(errors="replace")
        return int(at), str(message)
    except (ValueError, KeyError, TypeError):
        return None


def read_journal() -> list[Record] | None:
    """The kernel's telling lines of this boot that the journal has kept; None if there is none."""
    journalctl = shutil.which("journalctl")
    if journalctl is None or not is_real():
        return None
    command = [journalctl, "--dmesg", "--boot", "--output=json", "--no-pager", "--quiet"]
    words = "|".join(f"(?:{pattern.pattern})" for pattern in KINDS.values())
    told = _lines([*command, f"--grep={words}", f"--lines={MOST}"])
    if not told and not _lines([*command, "--lines=1"]):
        return None
    return [record for line in told if (record := parse_journal(line))]


def _lines(command: list[str]) -> list[str]:
    """What the program prints; nothing if it does not work or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROGRAM_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines()


def parse_dmesg(line: str) -> Record | None:
    """Of `<6>[    1.261025] text`."""
    found = re.match(r"<\d+>\[ *(\d+)\.(\d{6})\] (.*)", line)
    return (int(found[1] + found[2]), found[3]) if found else None


def read_dmesg() -> list[Record]:
    """The ring by the system call, which some containers allow that have no /dev/kmsg."""
    dmesg = shutil.which("dmesg")
    if dmesg is None or not is_real():
        return []
    return [record for line in _lines([dmesg, "--raw"]) if (record := parse_dmesg(line))]


def look() -> dict[str, Any]:
    """Lines by kind, oldest first. `covers_s` is how far back they reach, None for the whole time
    since the boot."""
    error, whole, records = "", False, []
    try:
        for number, line in enumerate(read_kmsg(str(system_path(KMSG)))):
            # The ring has lost its beginning if its first record is not the boot's first.
            whole = whole or (number == 0 and line.partition(";")[0].split(",")[1:2] == ["0"])
            if record := parse_record(line):
                records.append(record)
    except OSError as failure:
        error = f"{KMSG}: {failure.strerror}"
    now_us = time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6
    covers_s = None
    if not whole:
        kept = read_journal()
        if error and kept is None and (ring := read_dmesg()):
            records, error = ring, ""
        if kept is None and records:
            covers_s = (now_us - records[0][0]) / 1e6
        elif kept is not None:
            records, error = [*kept, *records], ""
    found: dict[str, dict[Record, None]] = {kind: {} for kind in KINDS}
    for record in sorted(records):
        # The journal and the ring may both have it: by time and text it is known again.
        if kind := kind_of(record[1]):
            found[kind][record] = None
    return {
        "error": error,
        "covers_s": covers_s,
        "lines": {
            kind: [
                {"age_s": max(0.0, (now_us - at_us) / 1e6), "text": text}
                for at_us, text in list(lines)[-MOST:]
            ]
            for kind, lines in found.items()
        },
    }


def main() -> None:
    sys.stdout.write(json.dumps(look()) + "\n")


if __name__ == "__main__":
    main()
