"""origin.json of a run that was forked: of which run, and where. Written by `smolplan fork` before
the run is there; a run without it begins at its own step 1."""

from dataclasses import dataclass
from typing import Any, Self

from smolplan.rundir import RunDir, read_json, write_json
from smolplan.skipped import Skipped


@dataclass(frozen=True)
class Origin:
    run: str
    """Id of the parent."""
    path: str
    step: int
    """Of the parent's checkpoint that the fork begins with; its own first step is the next one."""
    skipped: Skipped
    """What the parent did not train on, or was not to, and so the fork neither."""
    changed: tuple[str, ...]
    """Fields of the spec that are others than the parent's, by dotted name."""

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        """None for a run that is no fork, or does not tell of what."""
        content = read_json(run.origin)
        if content is None:
            return None
        try:
            return cls(
                run=str(content["run"]),
                path=str(content["path"]),
                step=int(content["step"]),
                skipped=Skipped.of(content["skipped"]),
                changed=tuple(map(str, content["changed"])),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def write(self, run: RunDir) -> None:
        """Raises OSError."""
        write_json(run.origin, self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "path": self.path,
            "step": self.step,
            "skipped": self.skipped.to_json(),
            "changed": list(self.changed),
        }

    def told(self) -> str:
        """In a line."""
        changed = f"; changed: {', '.join(self.changed)}" if self.changed else ""
        return f"{self.run} at step {self.step:,}{changed}"
