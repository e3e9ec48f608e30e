"""How much a person is told: not the same twice within an hour, and not more than they can read.

What is held back is counted, and told as one digest. All of it is pure, and what is remembered is
small and can be written down, so that a new daemon goes on where the last one was.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from monitor.notify.message import RANK, Message, Severity

REPEAT_S = 3600.0
"""Of two messages about the same within this time, the second is held back."""

BURST, REFILL_S = 10, 360.0
"""So many messages at once, and one more every so often: ten an hour in the long run. Twice, once
for critical ones: news never take their place."""

DIGEST_S = 900.0
"""What was held back is told no later than this."""

MOST_KEPT = 500
"""Subjects that are remembered at a time."""

MOST_NAMED = 5
"""Subjects that a digest names; of others it tells how many there are."""

Verdict = Literal["tell", "hold", "drop"]


@dataclass(frozen=True)
class Bucket:
    tokens: float = BURST
    filled_at: float = 0.0

    def at(self, now: float) -> "Bucket":
        # A clock that was set back fills nothing.
        gained = max(0.0, now - self.filled_at) / REFILL_S if self.filled_at else 0.0
        return Bucket(min(BURST, self.tokens + gained), now)


@dataclass(frozen=True)
class Memory:
    """What one receiver of one run was told lately."""

    told: Mapping[str, float] = field(default_factory=dict)
    """Message.about → when it was told."""
    standing: Mapping[str, Severity] = field(default_factory=dict)
    """What was told, lasts, and is not over."""
    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    """For critical ones, and for others."""
    held: Mapping[str, int] = field(default_factory=dict)
    """What was held back → how often."""
    held_since: float = 0.0
    held_severity: Severity = "info"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Memory":
        """Raises TypeError, KeyError for what `to_json` has not written."""
        return Memory(
            **{
                **content,
                "buckets": {k: Bucket(**bucket) for k, bucket in content["buckets"].items()},
            }
        )


def judge(memory: Memory, message: Message, now: float) -> tuple[Verdict, Memory]:
    """Whether to tell it; and what to remember if that is done. The end of something that was never
    told is dropped."""
    about = message.about
    if message.over:
        standing = {one: worst for one, worst in memory.standing.items() if one != about}
        told = about in memory.standing
        return ("tell" if told else "drop"), replace(memory, standing=standing)
    recently = {a: at for a, at in memory.told.items() if now - REPEAT_S < at <= now}
    which = "critical" if message.severity == "critical" else "other"
    bucket = memory.buckets.get(which, Bucket()).at(now)
    if about in recently or bucket.tokens < 1:
        kept = replace(memory, told=recently, buckets={**memory.buckets, which: bucket})
        return "hold", _held(kept, message, now)
    newest = sorted({**recently, about: now}.items(), key=lambda one: one[1])[-MOST_KEPT:]
    standing = dict(memory.standing)
    if message.lasts and len(standing) < MOST_KEPT:
        standing[about] = message.severity
    buckets = {**memory.buckets, which: replace(bucket, tokens=bucket.tokens - 1)}
    return "tell", replace(memory, told=dict(newest), standing=standing, buckets=buckets)


def _held(memory: Memory, message: Message, now: float) -> Memory:
    held = dict(memory.held)
    # One about something that is named already is counted there, by how it was put first.
    subject = next((s for s in held if s.startswith(f"{message.about}\n")), None)
    subject = subject or f"{message.about}\n{message.what}"
    if subject in held or len(held) < MOST_KEPT:
        held[subject] = held.get(subject, 0) + 1
    else:
        held["\nothers"] = held.get("\nothers", 0) + 1
    worst = max(memory.held_severity, message.severity, key=RANK.__getitem__)
    return replace(memory, held=held, held_since=memory.held_since or now, held_severity=worst)


def as_begun(memory: Memory, message: Message) -> Message:
    """What is over is as grave as it was when it was told."""
    severity = memory.standing.get(message.about, message.severity)
    return replace(message, severity=severity) if message.over else message


def digest(
    memory: Memory, run: str, now: float, *, last: bool = False
) -> tuple[Message | None, Memory]:
    """What was held back as one message, once that is due, and the memory without it. With `last`
    it is due now: nothing will follow."""
    waits = 0 <= now - memory.held_since < DIGEST_S
    if not memory.held or (waits and not last):
        return None, memory
    most = sorted(memory.held.items(), key=lambda one: -one[1])
    named = [f"{count} × {subject.partition(chr(10))[2]}" for subject, count in most[:MOST_NAMED]]
    rest = sum(count for _, count in most[MOST_NAMED:])
    message = Message(
        id=f"{run}:digest:{memory.held_since:.3f}",
        kind="digest",
        key=f"{memory.held_since:.3f}",
        severity=memory.held_severity,
        run=run,
        time=now,
        what="held back so as not to flood you: "
        + "; ".join(named + ([f"{rest} more"] if rest else [])),
        todo=f"see all of it by smolplan status {run}",
    )
    return message, replace(memory, held={}, held_since=0.0, held_severity="info")
