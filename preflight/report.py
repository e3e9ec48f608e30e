"""What a check found, and what all of them together say."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

State = Literal["pass", "warn", "fail", "skipped", "unknown"]
Severity = Literal["required", "advisory"]
Source = Literal["plan", "spec", "fleet", "history", "table", "none"]
"""Where a threshold comes from: the plan's figures, the spec's own settings, the median of the
hosts of this fleet, what the same host had earlier, a table of experience (docs/preflight.md), or
there is none."""


IDENTITY = "id."
"""Facts whose names begin so tell who something is, as GPUs' serial numbers do: they are never
compared between hosts, and by them a part is known again."""

STATES: tuple[State, ...] = ("pass", "warn", "fail", "skipped", "unknown")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Finding(_Part):
    """What one check says of the machine."""

    state: State
    summary: str
    """What was measured or seen, in a few words."""
    why: str = ""
    """Why it is not a pass: what is needed, and what follows if it is not there."""
    measured: dict[str, float] = Field(default={})
    """Figures by name; the name ends in the unit."""
    needed: dict[str, float] = Field(default={})
    facts: dict[str, str] = Field(default={})
    """Words by name in which the hosts of one fleet should be alike, such as versions."""
    source: Source = "none"
    host: str = ""
    """Whom it is about; empty: the fleet as a whole."""
    remedy: str = ""
    """What to do about it; the one that the check was registered with, unless given."""


class Result(Finding):
    """A finding with the check that it is of."""

    name: str
    area: str
    severity: Severity
    seconds: float


class Report(_Part):
    """All results, in the order in which they were had."""

    spec_name: str
    spec_hash: str
    runs_dir: str
    results: tuple[Result, ...]
    seconds: float
    hosts: tuple[str, ...] = ()
    """All that were asked, in the inventory's order; empty: this machine only."""
    tier: str = "standard"
    started_at: float = 0.0
    """Seconds since 1970."""
    made_on: str = ""
    """The machine that smolplan ran on."""

    def count(self, state: State) -> int:
        return sum(result.state == state for result in self.results)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fit(self) -> bool:
        """Whether no required check failed. A check that could not be made is shown, but nothing
        is known against the machine."""
        return not self.failed()

    def failed(self, host: str | None = None) -> tuple[Result, ...]:
        """Required checks that failed: all, or those of a host."""
        return tuple(
            r
            for r in self.results
            if r.state == "fail" and r.severity == "required" and host in (None, r.host)
        )

    @property
    def exit_code(self) -> int:
        return int(not self.fit)
