"""Cheap checks again and again beside a run that trains: what has changed is told, nothing else."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from preflight.report import Report, Result, State

Key = tuple[str, str]


@dataclass(frozen=True)
class Change:
    result: Result
    before: State | None
    """None: nothing was known of it."""


def changes(before: Report | None, now: Report) -> list[Change]:
    """What differs from the last look. At the first one, what is not as it should be; later a
    host's result that is gone, as that of a host that was found wanting by all others, is well."""
    known = {_key(r): r for r in before.results} if before else {}
    found = []
    for result in now.results:
        old = known.pop(_key(result), None)
        grave = result.state in ("fail", "warn", "unknown")
        if (old is None and grave) or (old is not None and old.state != result.state):
            found.append(Change(result, old.state if old else None))
    made = {result.name for result in now.results if not result.host}
    for old in known.values():
        if old.name in made and old.state != "pass":
            well = old.model_copy(update={"state": "pass", "summary": "well again", "why": ""})
            found.append(Change(well, old.state))
    return found


def watch(
    look: Callable[[], Report], every_s: float, stop: threading.Event
) -> Iterator[tuple[Report, list[Change]]]:
    """Looks, and says what has changed, until `stop` is set."""
    before = None
    while not stop.is_set():
        now = look()
        yield now, changes(before, now)
        before = now
        stop.wait(every_s)


def _key(result: Result) -> Key:
    return result.name, result.host
