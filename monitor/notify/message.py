"""What a person is told: what happened, what was done about it, and what is left for them to do."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warning", "critical"]
"""info: news. warning: the monitor sees to it, or it can wait until morning. critical: training
stands still, or is about to, until a person does something."""

RANK: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}


@dataclass(frozen=True)
class Message:
    id: str
    """The same whenever it is made of the same event: a receiver can tell a repetition by it."""
    kind: str
    key: str
    """With `kind`, what it is about: of two alike within an hour, one is told."""
    severity: Severity
    run: str
    time: float
    """When it happened, seconds since the epoch."""
    what: str
    done: str = ""
    todo: str = ""
    lasts: bool = False
    """Whether its end will be told."""
    over: bool = False
    """What was told by this kind and key is no longer so."""
    host: str = ""
    again: bool = False
    """It may have been told before: the monitor was killed while it told it."""

    @property
    def about(self) -> str:
        return f"{self.kind} {self.key}"

    @property
    def title(self) -> str:
        """One line."""
        state = "over" if self.over else self.severity
        return " ".join(f"[{state}] {self.run}: {self.what}".split())

    @property
    def lines(self) -> list[str]:
        """All of it."""
        notes = ["The monitor was killed while it told this: you may have it already."]
        told = [self.what, self.done, f"To do: {self.todo}" if self.todo else ""]
        return [line for line in told + (notes if self.again else []) if line]
