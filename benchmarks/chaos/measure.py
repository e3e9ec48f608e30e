"""What the run's record tells of each fault: how soon it was seen, whom it was blamed on, how soon
steps were made again. Pure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.document import markdown_table

SEEN_S = 5.0
"""From a fault that somebody can tell of to the decision to end the attempt."""

SEEN_ON_HOST_S = 1.0
"""From a rank's death to its own host having it on record."""

SILENT_S, SILENT_STEPS = 10.0, 2
"""From one that nobody tells of: so long, and so many steps."""

STEP_S = 15.0
"""From the decision to the next step, on CPUs, beside the loading of the checkpoint."""

Record = Mapping[str, Any]


@dataclass
class Fault:
    """One that was done to the run."""

    number: int
    kind: str
    time: float
    """Seconds since the epoch, right after it was done."""
    attempt: int
    step: int
    restart: bool
    """Whether one was wanted."""
    silent: bool
    blamed: tuple[str, ...]
    named: str
    step_s: float
    """Of the last steps before it."""
    load: float
    """Processes that wanted to run, over the minute before."""
    restarts: int = 0
    """Until the next fault."""
    start_cpu_s: float = 0.0
    """Of all processes of the attempt that went on after it, up to its first steps."""
    got_over: bool = True
    """Whether steps were made again before patience was at its end."""


@dataclass
class Outcome:
    """What came of a fault. Times in seconds; None where there is no such moment."""

    kind: str
    number: int
    load: float
    on_host_s: float | None = None
    """From a rank's death to its own host's word."""
    decided_s: float | None = None
    limit_s: float | None = None
    next_step_s: float | None = None
    """From the decision, without the loading of the checkpoint."""
    start_cpu_s: float | None = None
    cause: str = ""
    wrong_restart: bool = False
    wrong: list[str] = field(default_factory=list)
    """What should not be."""
    late: list[str] = field(default_factory=list)
    """Limits that were not kept."""


def outcome_of(
    fault: Fault, events: Sequence[Record], rows: Sequence[Record], told_at: float | None = None
) -> Outcome:
    """`events` and `rows` of the whole run, in the order in which they were written; `told_at`:
    when the host of a killed rank had its end on record (seconds since the epoch)."""
    found = Outcome(fault.kind, fault.number, round(fault.load, 1))
    if not fault.got_over:
        found.wrong.append("no step was made again")
    if not fault.restart:
        found.wrong_restart = fault.restarts > 0
        if found.wrong_restart:
            found.cause = next((str(e["cause"]) for e in _ends(fault, events)), "")
            found.wrong.append(f"a restart without need: {found.cause}")
        return found
    found.start_cpu_s = fault.start_cpu_s
    found.limit_s = SILENT_S + SILENT_STEPS * fault.step_s if fault.silent else SEEN_S
    decision = next(
        (
            e
            for e in events
            if e["kind"] == "decision"
            and e["action"] in ("condemn", "end_attempt")
            and e["attempt"] == fault.attempt
            and e["time"] >= fault.time
        ),
        None,
    )
    found.cause = next((str(e["cause"]) for e in _ends(fault, events)), "")
    if fault.restarts == 0:
        found.wrong.append("no restart")
    if fault.restarts > 1 and fault.named != "No space left":  # until there is space again
        found.wrong.append(f"{fault.restarts} restarts")
    if fault.named not in found.cause:
        found.wrong.append(f"not named is {fault.named!r}: {found.cause}")
    left_out = {
        e["host"]
        for e in events
        if e["kind"] == "host_left_out" and e["time"] >= fault.time and e["reason"] == found.cause
    }
    if strangers := left_out - set(fault.blamed):
        found.wrong.append(f"left out {', '.join(sorted(strangers))}: {found.cause}")
    if told_at is not None:
        found.on_host_s = told_at - fault.time
        if found.on_host_s > SEEN_ON_HOST_S:
            found.late.append(f"on its host after {found.on_host_s:.1f} s")
    if decision is None:  # on a full disk the store alone has it
        return found
    found.decided_s = decision["time"] - fault.time
    if found.decided_s > found.limit_s:
        found.late.append(f"decided after {found.decided_s:.1f} s of {found.limit_s:.1f}")
    later = (r for r in rows if r.get("attempt", 0) > fault.attempt and "step" in r)
    if row := next(later, None):
        loads = (e for e in events if e["kind"] == "resumed" and e["attempt"] == row["attempt"])
        load_s = next((float(e["load_s"]) for e in loads), 0.0)
        found.next_step_s = row["time"] - decision["time"] - load_s
        if found.next_step_s > STEP_S:
            found.late.append(f"a step {found.next_step_s:.1f} s after the decision")
    return found


def _ends(fault: Fault, events: Iterable[Record]) -> list[Record]:
    return [e for e in events if e["kind"] == "attempt_ended" and e["attempt"] == fault.attempt]


def table(outcomes: Sequence[Outcome]) -> str:
    """By kind, as Markdown; those that no restart is the answer to come last."""
    rows = []
    for kind in dict.fromkeys(o.kind for o in sorted(outcomes, key=lambda o: o.limit_s is None)):
        own = [o for o in outcomes if o.kind == kind]
        restart = any(o.limit_s is not None for o in own)
        rows.append(
            [
                kind,
                str(len(own)),
                *_spread([o.decided_s for o in own]),
                *_spread([o.next_step_s for o in own]),
                f"{sum(bool(o.late) for o in own)}" if restart else "",
                str(sum(o.wrong_restart for o in own)),
                str(sum(bool(o.wrong) and not o.wrong_restart for o in own)),
            ]
        )
    head = ["fault", "times", "decided, s", "at most", "a step again, s", "at most"]
    return markdown_table([*head, "late", "wrong restarts", "otherwise wrong"], rows)


def _spread(values: Iterable[float | None]) -> tuple[str, str]:
    there = [value for value in values if value is not None]
    if not there:
        return "", ""
    return f"{statistics.median(there):.1f}", f"{max(there):.1f}"
