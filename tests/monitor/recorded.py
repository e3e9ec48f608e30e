"""Runs as they would be on record, written by the test itself."""

from typing import Any

Record = dict[str, Any]


class History:
    """A run whose clock the test moves; each method tells what then stands on record."""

    def __init__(self, launched_at: float = 1e9) -> None:
        self.launched_at = self.now = launched_at
        self.records: list[Record] = []
        self.attempt = 0
        self.step = 0

    def note(self, kind: str, **details: Any) -> None:
        self.records.append(
            {"time": self.now, "kind": kind, "attempt": self.attempt, "source": "test", **details}
        )

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def starts(self, reason: str = "", *, backoff_s: float = 0.0, from_step: int = 0) -> None:
        """Planned, started 2 s of preparation ago, and 1 s of loading."""
        self.attempt += 1
        self.note("planned", reason=reason, not_before=self.now + backoff_s)
        self.passes(backoff_s)
        self.note("decision", action="start")
        self.passes(3.0)
        self.step = from_step
        self.note("resumed" if from_step else "started", step=from_step, load_s=1.0)

    def steps(self, count: int, step_s: float = 0.5, **details: Any) -> None:
        for _ in range(count):
            self.step += 1
            self.passes(step_s)
            row = {"time": self.now, "step": self.step, "step_s": step_s, "attempt": self.attempt}
            figures = {"loss": 5 - self.step / 1000, "tokens_per_s": 1024 / step_s, "mfu": 0.4}
            figures["grad_norm"] = 1.0
            self.records.append({**row, "data_wait_s": 0.01, **figures, **details})

    def saves(self, stall_s: float = 0.25) -> None:
        self.passes(stall_s)
        self.note("checkpoint_saved", step=self.step, seconds=stall_s)

    def breaks(self, cause: str = "rank 1 was ended by signal 9", *, told: bool = True) -> None:
        """Half a second until it is seen, and a quarter until nothing is left."""
        self.passes(0.5)
        if told:
            self.note("decision", action="end_attempt", reason=cause)
        self.passes(0.25)
        self.note("ended", cause=cause)
