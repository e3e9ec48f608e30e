"""`python -m preflight.probes.kernel_log`: the kernel's lines about Xids since the last boot."""

import json
import os
import sys
import time
from typing import Any

KMSG = "/dev/kmsg"
RECORD_BYTES = 8192  # a record is never longer: Documentation/ABI/testing/dev-kmsg


def read(path: str, word: str) -> list[dict[str, Any]]:
    """Records that contain `word`, oldest first, with their age in seconds. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    found: list[dict[str, Any]] = []
    try:
        while True:
            try:
                record = os.read(descriptor, RECORD_BYTES)
            except BlockingIOError:
                return found  # no more for now
            except BrokenPipeError:
                continue  # overwritten while we read; the next read goes on behind it
            if not record:
                return found
            # "priority,sequence,microseconds since boot,flags;text"
            head, _, text = record.decode(errors="replace").partition(";")
            if word in text:
                since_boot_s = int(head.split(",")[2]) / 1e6
                age_s = time.clock_gettime(time.CLOCK_MONOTONIC) - since_boot_s
                found.append({"age_s": max(0.0, age_s), "text": text.partition("\n")[0]})
    finally:
        os.close(descriptor)


def main() -> None:
    try:
        answer: dict[str, Any] = {"error": "", "records": read(KMSG, "Xid")}
    except OSError as error:
        answer = {"error": f"{KMSG}: {error.strerror}", "records": []}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
