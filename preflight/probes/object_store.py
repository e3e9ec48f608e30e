"""`python -m preflight.probes.object_store WHAT URL [BYTES]`: what an object store does.

reach: an object is written, read, listed and deleted. speed: as many bytes go there and come back,
as checkpoints do. remove: all in the folder is deleted; it must be one of preflight's own.
"""

import json
import os
import secrets
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainer.object_store import ObjectStore, StoreError, content_of
from trainer.upload import FILES_AT_ONCE

OWN = ".smolplan-preflight-"
FIRST_BYTES = 4 * 2**20
"""Sent by each sender at first: how long they take says how many more can be afforded."""
SPEED_S = 5.0


def reach(url: str) -> dict[str, Any]:
    store = ObjectStore(f"{url}/{OWN}{secrets.token_hex(8)}")
    data, began = secrets.token_bytes(1024), time.monotonic()
    store.write("probe", data)
    try:
        if store.read("probe") != data:
            raise StoreError(f"{url} gives back other bytes than it was given")
        if store.names() != ["probe"]:
            raise StoreError(f"{url} does not list what was just written")
    finally:
        store.remove("probe")
        _remove_folder(store)
    if store.read("probe") is not None:
        raise StoreError(f"{url} still has what was deleted")
    return {"seconds": time.monotonic() - began}


def speed(url: str, most_bytes: int) -> dict[str, Any]:
    """Bytes a second to the store and back, of files that are sent side by side."""
    store = ObjectStore(f"{url}/{OWN}{secrets.token_hex(8)}")
    with tempfile.TemporaryDirectory(prefix=OWN) as made:
        folder = Path(made)
        try:
            size = min(FIRST_BYTES, max(1, most_bytes // FILES_AT_ONCE))
            seconds = _send(store, folder, size)
            larger = min(most_bytes // FILES_AT_ONCE, int(size * SPEED_S / max(seconds, 0.01)))
            if larger > 2 * size:
                size, seconds = larger, _send(store, folder, larger)
            began = time.monotonic()
            with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
                names = [str(n) for n in range(FILES_AT_ONCE)]
                list(pool.map(lambda name: store.fetch(name, folder / f"back-{name}"), names))
            read_s = time.monotonic() - began
        finally:
            _remove_folder(store)
    whole = size * FILES_AT_ONCE
    return {
        "bytes": whole,
        "write_bytes_per_s": whole / seconds,
        "read_bytes_per_s": whole / read_s,
    }


def _send(store: ObjectStore, folder: Path, size: int) -> float:
    files = [folder / str(n) for n in range(FILES_AT_ONCE)]
    for file in files:
        file.write_bytes(os.urandom(size))
    began = time.monotonic()
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        list(pool.map(lambda file: store.put(file, file.name, content_of(file)), files))
    return time.monotonic() - began


def _remove_folder(store: ObjectStore) -> None:
    if not store.url.rpartition("/")[2].startswith(OWN):
        raise ValueError(f"{store.url} is not preflight's own")
    store.remove("")


def main() -> None:
    what, url, *rest = sys.argv[1:]
    try:
        if what == "reach":
            answer = reach(url)
        elif what == "speed":
            answer = speed(url, int(rest[0]))
        else:
            _remove_folder(ObjectStore(url))
            answer = {}
    except StoreError as error:
        answer = {"error": error.reason, "remedy": error.remedy}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
