"""Checkpoints that do not come, cannot be written or take long, and evaluations that stay away."""

import statistics
from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from monitor.detect.online import Ring
from monitor.view import Finding
from smolplan.units import format_bytes

INTERVALS = 2
"""Older than so many intervals is late: one that has just been missed may be under way."""

EVALUATIONS_KEPT = 20

CHECKPOINTS_KEPT, LEAST_BEFORE, SLOW_IN_A_ROW = 50, 5, 3
SLOW, BACK = 0.5, 0.75
"""Of the usual pace; ours: shared storage halves now and then for one checkpoint, not for three."""
SLOW_S = 5.0
"""What takes less is not worth telling of."""


class Checkpoints:
    """By the run's own events and steps."""

    def __init__(self, every_steps: int) -> None:
        self._every = every_steps
        self._newest: int | None = None
        """The step of the newest checkpoint, or that the run began with."""
        self._step = 0
        self._failed: Mapping[str, Any] | None = None

    def event(self, event: Mapping[str, Any]) -> None:
        step = event.get("step")
        if not isinstance(step, int):
            return
        match event.get("kind"):
            case "started" | "resumed":
                self._newest, self._step = step, step
            case "checkpoint_saved":
                self._newest, self._failed = step, None
            case "checkpoint_failed":
                self._failed = event

    def step(self, at: float) -> None:
        self._step = int(at)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(f for f in (self._failing(), self._late()) if f is not None)

    def _failing(self) -> Finding | None:
        if self._failed is None:
            return None
        step, reason = self._failed["step"], self._failed.get("reason", "")
        return Finding(
            "checkpoint_failing",
            f"the checkpoint of step {step:,} could not be written: {reason}",
            {"step": step, "reason": reason, "newest": self._newest},
            severity="warning",
            advice="Free space or mend the storage: until one is saved, a failure costs all steps "
            "since the newest.",
        )

    def _late(self) -> Finding | None:
        if self._newest is None or self._step - self._newest <= INTERVALS * self._every:
            return None
        return Finding(
            "checkpoint_late",
            f"the newest checkpoint is of step {self._newest:,}, and step {self._step:,} is done: "
            f"over {INTERVALS} intervals of {self._every:,}",
            {"step": self._step, "newest": self._newest, "every_steps": self._every},
            severity="warning",
            advice="See events.jsonl and rank 0's log for why none is saved.",
        )


class CheckpointPace:
    """How fast the storage takes checkpoints, by those of the run before."""

    def __init__(self) -> None:
        self._before = Ring(CHECKPOINTS_KEPT)
        """Bytes a second of those that count as usual."""
        self._newest: deque[float] = deque(maxlen=SLOW_IN_A_ROW)
        self._finding: Finding | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        return () if self._finding is None else (self._finding,)

    def event(self, event: Mapping[str, Any]) -> None:
        seconds, size = event.get("seconds"), event.get("bytes")
        if event.get("kind") != "checkpoint_saved" or not (
            isinstance(seconds, int | float) and isinstance(size, int | float) and seconds > 0
        ):
            return
        if len(self._newest) == SLOW_IN_A_ROW and self._finding is None:
            self._before.add(self._newest[0])
        self._newest.append(size / seconds)
        if len(self._before) < LEAST_BEFORE:
            return
        usual, now = self._before.median, max(self._newest)
        if min(self._newest) > BACK * usual:
            self._finding = None
        elif now < SLOW * usual and seconds > SLOW_S and self._finding is None:
            self._finding = Finding(
                "checkpoint_slow",
                f"the last {SLOW_IN_A_ROW} checkpoints were written at {format_bytes(now)}/s or "
                f"less, those before at {format_bytes(usual)}/s: the storage has become slow",
                {"step": event.get("step"), "bytes_per_s": now, "usual_bytes_per_s": usual},
                severity="warning",
                advice="Measure the storage by `smolplan preflight`, and see who else writes "
                "there; where one takes longer than its interval, training waits for it.",
            )


class EvaluationsLate:
    """By when evaluations came so far: nothing else says when the next is due."""

    def __init__(self) -> None:
        self._steps: deque[int] = deque(maxlen=EVALUATIONS_KEPT)
        self._step = 0

    def look(self, evaluated: list[int], at: float) -> None:
        """`evaluated`: steps with results, ascending; `at`: the last step done."""
        self._steps = deque(evaluated, maxlen=EVALUATIONS_KEPT)
        self._step = int(at)

    @property
    def findings(self) -> tuple[Finding, ...]:
        steps = list(self._steps)
        gaps = [b - a for a, b in pairwise(steps)]
        if len(gaps) < 2:
            return ()
        usual = statistics.median(gaps)
        if self._step - steps[-1] <= INTERVALS * usual:
            return ()
        return (
            Finding(
                "evaluation_late",
                f"the newest evaluation is of step {steps[-1]:,}, and step {self._step:,} is done; "
                f"there was one every {usual:,.0f} steps",
                {"step": self._step, "newest": steps[-1], "usual_steps": usual},
                severity="warning",
                advice="See whether the evaluation jobs still start, and what they say.",
            ),
        )
