"""Are two runs of one spec the same training, step by step and bit by bit?"""

from dataclasses import dataclass
from typing import Any

from smolplan.rundir import RunDir, read_lines

COMPARED = ("loss", "grad_norm", "lr", "data_position", "batch_checksum")


@dataclass(frozen=True)
class Comparison:
    steps: int
    missing: tuple[int, ...]
    """Steps that only one of the runs has."""
    different: tuple[int, ...]
    """Steps whose figures are not equal to the last bit."""
    redone: int
    """Steps that the second run did more than once, after a restart."""
    redone_differently: tuple[int, ...]
    """Steps of the second run whose repetition differs from the first time."""

    @property
    def equal(self) -> bool:
        return self.steps > 0 and not (self.missing or self.different or self.redone_differently)


def compare(undisturbed: RunDir, disturbed: RunDir) -> Comparison:
    """Compare loss, gradient norm, learning rate, data position and the batch's checksum of every
    step that either run ever did. JSON keeps floats exactly, so equal means bit for bit."""
    wanted = {line["step"]: _figures(line) for line in undisturbed.read_metrics()}
    seen: dict[int, list[tuple[Any, ...]]] = {}
    for line in read_lines(disturbed.metrics):
        if "step" in line:
            seen.setdefault(line["step"], []).append(_figures(line))
    return Comparison(
        steps=len(wanted),
        missing=tuple(sorted(wanted.keys() ^ seen.keys())),
        different=tuple(s for s in sorted(wanted.keys() & seen.keys()) if seen[s][-1] != wanted[s]),
        redone=sum(len(times) - 1 for times in seen.values()),
        redone_differently=tuple(s for s, times in sorted(seen.items()) if len(set(times)) > 1),
    )


def _figures(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(key) for key in COMPARED)


def seconds_to_next_step(run: RunDir, fault_time: float, attempt: int) -> float | None:
    """From a fault in `attempt` (wall clock) to the first step of a later attempt."""
    times = [
        line["time"]
        for line in read_lines(run.metrics)
        if line.get("attempt", 0) > attempt and line["time"] >= fault_time
    ]
    return min(times) - fault_time if times else None


def seconds_to_decision(run: RunDir, fault_time: float) -> float | None:
    """From a fault to the monitor's first decision after it."""
    times = [
        event["time"]
        for event in run.read_events()
        if event.get("kind") == "decision" and event["time"] >= fault_time
    ]
    return min(times) - fault_time if times else None
