"""What an import hands back: the spec, and what became of every field of the file."""

from dataclasses import dataclass
from typing import Any

from smolplan.spec import RunSpec


@dataclass(frozen=True)
class Taken:
    """A field of the spec, and what of the file it was read from."""

    field: str
    source: str
    value: Any


@dataclass(frozen=True)
class NotTaken:
    """A field of the file that the spec cannot hold, and why."""

    field: str
    value: Any
    why: str


@dataclass(frozen=True)
class Assumed:
    """A field of the spec that the file says nothing of, and where its value comes from."""

    field: str
    value: Any
    why: str


@dataclass(frozen=True)
class Imported:
    """One file, read."""

    format: str
    spec: RunSpec
    taken: tuple[Taken, ...]
    not_taken: tuple[NotTaken, ...]
    assumed: tuple[Assumed, ...]

    def as_json(self) -> dict[str, Any]:
        """For json.dumps: keys format, spec, taken, not_taken, assumed, unsupported_by_trainer."""
        return {
            "format": self.format,
            "spec": self.spec.model_dump(mode="json"),
            "taken": [vars(entry) for entry in self.taken],
            "not_taken": [vars(entry) for entry in self.not_taken],
            "assumed": [vars(entry) for entry in self.assumed],
            "unsupported_by_trainer": self.spec.unsupported_by_trainer(),
        }
