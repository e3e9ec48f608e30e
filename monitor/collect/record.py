"""All that is on record of a run, in the order of its times: attempts, events and metrics.

Files are read on from where they were left, and a bounded piece at a time, so that a run of weeks
costs its monitor neither memory nor a long pause.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from launcher.store import Attempt
from monitor.collect.tail import Tail
from monitor.goodput import Record
from smolplan.rundir import RunDir, read_json


class Lines:
    """The JSON lines of a file that grows, of which the next one can be looked at first."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._read: deque[Record] = deque()
        self._at_end = False

    def look_again(self) -> None:
        """The file may have grown."""
        self._at_end = False

    def head(self) -> Record | None:
        """The next record; None where there was none at the last look."""
        while not self._read and not self._at_end:
            offset = self._tail.offset
            self._read.extend(line for line in self._tail.read() if _time(line) is not None)
            self._at_end = self._tail.offset == offset
        return self._read[0] if self._read else None

    def pop(self) -> Record:
        return self._read.popleft()


class RunRecord:
    """Hands out each record once."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._files = (Lines(run.events), Lines(run.metrics))
        self._store: deque[Record] = deque()
        self._known: set[tuple[str, int]] = set()

    def new(self, attempts: Iterable[Attempt], *, most: float = math.inf) -> Iterator[Record]:
        """What has come to be on record since the last call, `most` records at a time. `attempts`:
        all of the run's, as the store has them."""
        self._note(attempts)
        for file in self._files:
            file.look_again()
        while most > 0:
            heads = [(head, source) for source in self._files if (head := source.head())]
            first = min(heads, key=lambda pair: pair[0]["time"], default=None)
            if self._store and (first is None or self._store[0]["time"] <= first[0]["time"]):
                yield self._store.popleft()
            elif first is not None:
                yield first[1].pop()
            else:
                return
            most -= 1

    def _note(self, attempts: Iterable[Attempt]) -> None:
        found: list[Record] = []
        for one in attempts:
            about: dict[str, Any] = {"attempt": one.number}
            plan = {"reason": one.reason, "not_before": one.not_before}
            moments = {
                "planned": one.created_at,
                "reported": self._reported_at(one.number),
                "ended": one.ended_at,
            }
            for kind, time in moments.items():
                if time is not None and (kind, one.number) not in self._known:
                    self._known.add((kind, one.number))
                    more = plan if kind == "planned" else {}
                    found.append({"time": time, "kind": kind, **about, **more})
        self._store.extend(sorted(found, key=lambda record: record["time"]))

    def _reported_at(self, attempt: int) -> float | None:
        """When the first of the attempt's supervisors was at work."""
        if ("reported", attempt) in self._known:
            return None
        times = [
            time
            for file in (self._run.attempt(attempt) / "nodes").glob("*.json")
            if (time := _time(read_json(file) or {}, "started_at")) is not None
        ]
        return min(times, default=None)


def _time(content: dict[str, Any], name: str = "time") -> float | None:
    value = content.get(name)
    return value if isinstance(value, int | float) and math.isfinite(value) else None
