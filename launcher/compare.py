"""Are two runs of one spec the same training, step by step and bit by bit?"""

from dataclasses import dataclass
from typing import Any, Self

from smolplan.origin import Origin
from smolplan.roll_back import RollBack, read_roll_backs
from smolplan.rundir import RunDir, read_lines
from smolplan.skipped import Skipped
from smolplan.spec import load_spec
from smolplan.spec.batch import BatchSizes

COMPARED = ("loss", "grad_norm", "lr", "data_position", "batch_checksum")


@dataclass(frozen=True)
class Comparison:
    steps: int
    missing: tuple[int, ...]
    """Steps that only one of the runs has."""
    different: tuple[int, ...]
    """Steps whose figures are not equal to the last bit. After data that the second run skipped,
    that is only: whose batch is not the one that the first run had at that place in the data."""
    redone: int
    """Steps that the second run did more than once, after a restart."""
    redone_differently: tuple[int, ...]
    """Steps of the second run whose repetition differs from the first time, other than by a
    roll-back."""
    wrong_data: tuple[int, ...]
    """Steps of the second run after which it does not stand where it should in the data, by the
    batches before and the ranges on record as skipped."""

    @property
    def equal(self) -> bool:
        wrong = self.missing or self.different or self.redone_differently or self.wrong_data
        return self.steps > 0 and not wrong


def compare(undisturbed: RunDir, disturbed: RunDir) -> Comparison:
    """Compare loss, gradient norm, learning rate, data position and the batch's checksum of every
    step that either run ever did. JSON keeps floats exactly, so equal means bit for bit. Steps
    after a roll-back are on other data, and only that is compared. Raises SmolplanError where the
    second run's spec or a roll-back of it cannot be read."""
    wanted = {line["step"]: line for line in undisturbed.read_metrics()}
    batch_at = {line["data_position"]: line["batch_checksum"] for line in wanted.values()}
    roll_backs = read_roll_backs(disturbed, disturbed.latest_attempt())
    batches, origin = load_spec(disturbed.spec).batches, Origin.read(disturbed)
    inherited = origin.skipped if origin else Skipped()
    seen: dict[int, list[_Done]] = {}
    for line in read_lines(disturbed.metrics):
        if "step" in line:
            seen.setdefault(line["step"], []).append(_Done.of(line, roll_backs, batches, inherited))

    def differs(step: int) -> bool:
        last = seen[step][-1]
        if last.jumped:
            end = last.line["data_position"]
            return bool(
                batch_at.get(end, last.line["batch_checksum"]) != last.line["batch_checksum"]
            )
        return last.figures != _figures(wanted[step])

    return Comparison(
        steps=len(wanted),
        missing=tuple(sorted(wanted.keys() ^ seen.keys())),
        different=tuple(step for step in sorted(wanted.keys() & seen.keys()) if differs(step)),
        redone=sum(len(times) - 1 for times in seen.values()),
        redone_differently=tuple(
            step
            for step, times in sorted(seen.items())
            if len({(done.figures, done.skipped_before) for done in times})
            > len({done.skipped_before for done in times})
        ),
        wrong_data=tuple(s for s, times in sorted(seen.items()) if any(d.misplaced for d in times)),
    )


@dataclass(frozen=True)
class _Done:
    """A step as an attempt did it."""

    line: dict[str, Any]
    skipped: Skipped
    """What its attempt skipped."""
    batches: BatchSizes

    @classmethod
    def of(
        cls,
        line: dict[str, Any],
        roll_backs: tuple[RollBack, ...],
        batches: BatchSizes,
        inherited: Skipped,
    ) -> Self:
        held = [one.skip for one in roll_backs if one.attempt <= line["attempt"]]
        return cls(line, held[-1] if held else inherited, batches)

    @property
    def figures(self) -> tuple[Any, ...]:
        return _figures(self.line)

    @property
    def skipped_before(self) -> Skipped:
        """What it went around, and that makes it another training."""
        end = self.line["data_position"]
        return Skipped(tuple(pair for pair in self.skipped.ranges if pair[0] < end))

    @property
    def jumped(self) -> bool:
        return bool(self.skipped_before.ranges)

    @property
    def misplaced(self) -> bool:
        due = self.skipped.position_after(self.batches.sequences(self.line["step"]))
        return bool(self.line["data_position"] != due)


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
