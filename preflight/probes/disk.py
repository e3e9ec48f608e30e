"""`python -m preflight.probes.disk FOLDER RANKS PHASE=BYTES_PER_RANK:LIMIT_S …`: how fast it is.

RANKS processes, each with a file of its own, do one phase after another, all at the same time:
write (fsync included), read, random=BYTES_PER_READ (one at a time, anywhere in the file), metadata,
and fill (as write, but each block's time is told). Direct I/O where the file system has it; else
the page cache is written out as it goes, and dropped before it is read. The files have no name:
nothing can be left behind.
"""

import itertools
import json
import mmap
import os
import random
import select
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preflight.probes.disk_file import ALIGNMENT, Scratch

STDOUT = 1
GRACE_S = 10.0
"""A block that takes this much longer than the phase's limit is stuck. Hosts may be busy."""


def write(file: Scratch, size: int, limit_s: float) -> dict[str, Any]:
    began = time.monotonic()
    blocks = file.write(size, began + limit_s)
    seconds = [end - start for start, end, _ in blocks]
    return {
        "began": began,
        "ended": time.monotonic(),
        "bytes": file.size,
        "longest_s": max(seconds, default=0.0),
    }


def fill(file: Scratch, size: int, limit_s: float) -> dict[str, Any]:
    began = time.monotonic()
    blocks = file.write(size, began + limit_s)
    return {
        "began": began,
        "ended": time.monotonic(),
        "bytes": file.size,
        "blocks": [[end, moved] for _, end, moved in blocks],
    }


def read(file: Scratch, size: int, limit_s: float) -> dict[str, Any]:
    file.forget()
    began = time.monotonic()
    moved = file.read(began + limit_s)
    return {"began": began, "ended": time.monotonic(), "bytes": moved}


def read_at_random(file: Scratch, size: int, limit_s: float) -> dict[str, Any]:
    """`size`: of one read. Seconds of each."""
    file.forget()
    aligned = -(-size // ALIGNMENT) * ALIGNMENT
    places = max(1, (file.size - aligned) // ALIGNMENT)
    draw = random.Random(os.getpid())
    began, seconds = time.monotonic(), []
    with mmap.mmap(-1, aligned) as buffer:
        while (now := time.monotonic()) < began + limit_s:
            os.preadv(file.descriptor, [buffer], draw.randrange(places) * ALIGNMENT)
            seconds.append(time.monotonic() - now)
    return {"began": began, "ended": time.monotonic(), "seconds": seconds}


def metadata(file: Scratch, size: int, limit_s: float) -> dict[str, Any]:
    """Files made and filled, looked at, renamed over the one before, removed; seconds of each.
    `size`: rounds at most."""
    folder = Path(tempfile.mkdtemp(prefix=".smolplan-preflight-", dir=file.folder))
    seconds: dict[str, list[float]] = {"create": [], "stat": [], "rename": [], "unlink": []}

    def timed(kind: str, act: Callable[..., Any], *arguments: Any) -> None:
        start = time.monotonic()
        act(*arguments)
        seconds[kind].append(time.monotonic() - start)

    began = time.monotonic()
    try:
        for number in range(size):
            fresh, other = folder / f".beat.{number}", folder / f"file-{number}"
            timed("create", fresh.write_bytes, b"x" * 200)
            timed("stat", fresh.stat)
            timed("rename", fresh.replace, folder / "beat")
            other.touch()
            timed("unlink", other.unlink)
            if time.monotonic() > began + limit_s:
                break
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"began": began, "ended": time.monotonic(), "seconds": seconds}


PHASES: dict[str, Callable[[Scratch, int, float], dict[str, Any]]] = {
    "write": write,
    "read": read,
    "random": read_at_random,
    "metadata": metadata,
    "fill": fill,
}


class Rank:
    """A process that does a phase when it is told to."""

    def __init__(self, folder: Path) -> None:
        orders, self._orders = os.pipe()
        self.answers, answers = os.pipe()
        self.process = os.fork()
        if self.process:
            os.close(orders)
            os.close(answers)
            return
        code = 1
        try:
            os.close(STDOUT)  # who reads it is not to wait for one that is stuck
            os.close(self._orders)
            with os.fdopen(orders) as reading, os.fdopen(answers, "w") as writing:
                self._work(folder, reading, writing)
            code = 0
        finally:
            os._exit(code)

    @staticmethod
    def _work(folder: Path, reading: Any, writing: Any) -> None:
        try:
            file = Scratch(folder)
        except OSError as error:
            writing.write(json.dumps({"error": error.strerror}) + "\n")
            return
        for line in reading:
            phase, size, limit_s = json.loads(line)
            try:
                answer = PHASES[phase](file, size, limit_s)
                answer["direct"] = file.direct
            except OSError as error:
                answer = {"error": error.strerror or str(error)}
            writing.write(json.dumps(answer) + "\n")
            writing.flush()

    def tell(self, *order: Any) -> None:
        os.write(self._orders, (json.dumps(order) + "\n").encode())


def _answers(ranks: list[Rank], until: float) -> list[dict[str, Any]]:
    """Of the ranks that answer in time."""
    texts = {rank.answers: b"" for rank in ranks}
    waiting = set(texts)
    while waiting and (left := until - time.monotonic()) > 0:
        for reading in select.select(list(waiting), [], [], left)[0]:
            part = os.read(reading, 1 << 20)
            texts[reading] += part
            if not part or texts[reading].endswith(b"\n"):
                waiting.discard(reading)
    return [json.loads(text) for text in texts.values() if text.endswith(b"\n")]


def together(found: list[dict[str, Any]]) -> dict[str, Any]:
    """All ranks' answers to a phase as one."""
    span_s = max(f["ended"] for f in found) - min(f["began"] for f in found)
    told: dict[str, Any] = {"span_s": span_s, "direct": all(f["direct"] for f in found)}
    if "bytes" in found[0]:
        told["bytes"] = sum(f["bytes"] for f in found)
        told["bytes_per_s"] = told["bytes"] / span_s
        told["slowest_rank_bytes_per_s"] = min(
            f["bytes"] / (f["ended"] - f["began"]) for f in found
        )
    if "longest_s" in found[0]:
        told["longest_s"] = max(f["longest_s"] for f in found)
    if "blocks" in found[0]:
        start = min(f["began"] for f in found)
        blocks = sorted((end - start, moved) for f in found for end, moved in f["blocks"])
        told["blocks"] = blocks
    elif isinstance(found[0].get("seconds"), dict):
        kinds = [*found[0]["seconds"]]
        told["kinds"] = {kind: _times([f["seconds"][kind] for f in found]) for kind in kinds}
        told["rounds_per_s"] = sum(len(f["seconds"]["rename"]) for f in found) / span_s
    elif "seconds" in found[0]:
        told.update(_times([f["seconds"] for f in found]))
        told["per_s"] = sum(len(f["seconds"]) for f in found) / span_s
    return told


def _times(seconds: list[list[float]]) -> dict[str, float]:
    ordered = sorted(itertools.chain.from_iterable(seconds))
    last = len(ordered) - 1
    return {"p50_s": ordered[last // 2], "p99_s": ordered[int(0.99 * last)]}


def measure(folder: Path, ranks: int, phases: list[tuple[str, int, float]]) -> dict[str, Any]:
    """Phase → what all ranks together did; `error` and `stuck_ranks` where they did not."""
    made = [Rank(folder) for _ in range(ranks)]
    told: dict[str, Any] = {"ranks": ranks}
    for phase, size, limit_s in phases:
        for rank in made:
            rank.tell(phase, size, limit_s)
        found = _answers(made, time.monotonic() + limit_s + GRACE_S)
        errors = [f["error"] for f in found if "error" in f]
        if errors or len(found) < ranks:
            told[phase] = {"error": errors[0] if errors else "", "stuck_ranks": ranks - len(found)}
            break
        told[phase] = together(found)
    for rank in made:
        os.kill(rank.process, 9)  # and not waited for: one that is stuck never ends
    return told


def main() -> None:
    folder, ranks, *orders = sys.argv[1:]
    phases = []
    for order in orders:
        phase, _, sizes = order.partition("=")
        size, _, limit_s = sizes.partition(":")
        phases.append((phase, int(size), float(limit_s)))
    sys.stdout.write(json.dumps(measure(Path(folder), int(ranks), phases)) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
