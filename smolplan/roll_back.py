"""attempts/K/resume.json: from attempt K on, the run goes on from an earlier checkpoint and skips
the batches that harmed it. Written by the launcher before the attempt starts, read by the trainer.

What holds of a checkpoint follows from these files alone: an attempt that is killed before it has
done anything about them, or that a scheduler starts by itself, changes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from smolplan.errors import SmolplanError
from smolplan.json_records import json_object
from smolplan.rundir import RunDir, read_json, write_json
from smolplan.skipped import Skipped


@dataclass(frozen=True)
class RollBack:
    attempt: int
    """The first attempt that starts from there."""
    onset_step: int
    """The step at which the trouble showed."""
    from_step: int
    """Checkpoints of later steps, saved by earlier attempts, count no more."""
    skip: Skipped
    """All that the run skips, by this roll-back and those before."""
    reason: str

    def supersedes(self, step: int, attempt: int) -> bool:
        """Whether the checkpoint of `step` that `attempt` saved counts no more."""
        return attempt < self.attempt and step > self.from_step

    def to_json(self) -> dict[str, Any]:
        return {
            "from_step": self.from_step,
            "skip": self.skip.to_json(),
            "onset_step": self.onset_step,
            "reason": self.reason,
        }


def superseded(roll_backs: Iterable[RollBack], step: int, attempt: int) -> bool:
    """Whether any of them went behind the checkpoint of `step` that `attempt` saved."""
    return any(one.supersedes(step, attempt) for one in roll_backs)


def write_roll_backs(run: RunDir, roll_backs: Iterable[RollBack]) -> None:
    """Lay down what the record holds and the run directory does not yet. Raises OSError."""
    for one in roll_backs:
        if not run.resume(one.attempt).exists():
            run.begin_attempt(one.attempt)
            write_json(run.resume(one.attempt), one.to_json())


def read_roll_backs(run: RunDir, attempt: int) -> tuple[RollBack, ...]:
    """Those that hold for an attempt, oldest first. Raises SmolplanError where one cannot be read:
    without it the run would train on what it is to skip."""
    found = []
    for path in run.attempts.glob("*/resume.json"):
        number = path.parent.name
        if number.isdigit() and int(number) <= attempt:
            found.append(parse_roll_back(int(number), read_json(path), str(path)))
    return tuple(sorted(found, key=lambda one: one.attempt))


def parse_roll_backs(text: bytes, where: str) -> tuple[RollBack, ...]:
    """Of a JSON object that holds a run's by attempt. Raises SmolplanError, as read_roll_backs."""
    content = json_object(text)
    if content is None or not all(number.isdecimal() for number in content):
        raise SmolplanError(f"{where} does not tell how the run was rolled back: it is damaged")
    told = sorted((int(number), one) for number, one in content.items())
    return tuple(parse_roll_back(number, one, where) for number, one in told)


def parse_roll_back(attempt: int, content: dict[str, Any] | None, where: str) -> RollBack:
    """Raises SmolplanError."""
    try:
        if content is None:
            raise ValueError("it is missing or damaged")
        return RollBack(
            attempt=attempt,
            onset_step=int(content["onset_step"]),
            from_step=int(content["from_step"]),
            skip=Skipped.of(content["skip"]),
            reason=str(content["reason"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SmolplanError(
            f"{where} does not tell from where the run is to go on: {error!r}"
        ) from None
