"""`python -m preflight.probes.shared FOLDER TOKEN HOST WAIT_S HOSTS…`: whether what each host
writes is seen by all. Every host runs it at the same time, and each removes what it wrote."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from preflight.probes.storage import nearest

POLL_S = 0.05


def look(folder: Path, token: str, host: str, hosts: Sequence[str], wait_s: float) -> Any:
    place = folder / f".smolplan-preflight-{token}"
    place.mkdir(exist_ok=True)
    names = {str(number): name for number, name in enumerate(hosts)}
    mine = str(hosts.index(host))
    began = time.monotonic()
    seen: dict[str, float] = {}
    done = False
    try:
        written = place / mine
        before = time.time()
        written.write_text(host, "utf-8")
        # The clock of the file server, where there is one, against this host's.
        skew_s = written.stat().st_mtime - (before + time.time()) / 2
        while time.monotonic() - began < wait_s:
            # A listing, since a network file system may remember for long that a name was missing.
            found = _listed(place)
            if done and f"{mine}.done" not in found:
                break  # all had seen all, and another host has begun to remove it
            for number in names.keys() & found:
                seen.setdefault(names[number], time.monotonic() - began)
            if len(seen) == len(names) and not done:
                (place / f"{mine}.done").write_bytes(b"")
                done = True
            elif done and {f"{number}.done" for number in names} <= found:
                shutil.rmtree(place, ignore_errors=True)
                break
            time.sleep(POLL_S)
        return {"seen": seen, "skew_s": skew_s, "place": str(folder)}
    finally:
        for left in (place / mine, place / f"{mine}.done"):
            left.unlink(missing_ok=True)
        with suppress(OSError):  # others are still at it: the last one removes it
            place.rmdir()


def _listed(place: Path) -> set[str]:
    try:
        return {entry.name for entry in place.iterdir()}
    except FileNotFoundError:
        return set()


def main() -> None:
    runs_dir, token, host, wait_s, *hosts = sys.argv[1:]
    found = nearest(Path(runs_dir))
    json.dump(look(Path(found["folder"]), token, host, hosts, float(wait_s)), sys.stdout)


if __name__ == "__main__":
    main()
