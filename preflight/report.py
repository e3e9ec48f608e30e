"""What a check answers, and what all answers together mean."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

State = Literal["pass", "warn", "fail", "skipped", "unknown"]


class Result(BaseModel):
    """One check's answer. `unknown`: the probe itself failed, which says nothing of the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    area: str
    state: State
    summary: str
    """What was measured, and what is needed, with units."""
    remedy: str = ""
    required: bool = True
    seconds: float = 0.0


class Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    spec_hash: str
    results: tuple[Result, ...]

    @property
    def exit_code(self) -> int:
        """1 if a required check failed. Unknown and warnings are shown, and do not fail."""
        return int(any(r.state == "fail" and r.required for r in self.results))
