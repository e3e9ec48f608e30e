"""The user's jobs as Slurm last told of them: one question for all runs, however often they are
looked at, since the controller is shared by the whole cluster."""

import threading
import time

from launcher.slurm import commands
from launcher.slurm.commands import SlurmError
from launcher.slurm.state import Job
from smolplan.errors import UserError

LOOK_S = 2.0
"""It is not asked more often than this,"""

UNHEARD_S = 10.0
"""and one that has not answered is let be for so long: each try may take ANSWER_S."""

ANSWER_S = 5.0
"""A monitor looks after other runs too, and its leases last 10 s."""


class Queue:
    def __init__(self) -> None:
        self._asking = threading.Lock()
        """Runs are looked at side by side: one of them asks, the others have its answer."""
        self._jobs: dict[str, Job] = {}
        self._asked_s = float("-inf")
        self._trouble: SlurmError | UserError | None = None
        self._silent_since_s = 0.0
        self.failed = 0
        """How many questions in a row had no answer."""

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._silent_since_s if self.failed else 0.0

    def find(self, name: str) -> Job | None:
        """None if Slurm does not know it, or no longer. Raises SlurmError, and UserError if this is
        no node of a cluster."""
        with self._asking:
            self._listen(LOOK_S)
            if name not in self._jobs:  # submitted since, or forgotten
                job = commands.find_job(name, timeout_s=ANSWER_S)
                if job is None:
                    return None
                self._jobs[name] = job
            return self._jobs[name]

    def find_by_comment(self, comment: str) -> Job | None:
        """As Slurm stands now. Raises as `find` does."""
        with self._asking:
            self._listen(0.0)
            return next((job for job in self._jobs.values() if job.comment == comment), None)

    def _listen(self, age_s: float) -> None:
        """Have an answer that is no older. Raises as `find` does."""
        now_s = time.monotonic()
        if now_s - self._asked_s > (UNHEARD_S if self._trouble else age_s):
            try:
                self._jobs = {job.number: job for job in commands.own_jobs(timeout_s=ANSWER_S)}
            except (SlurmError, UserError) as error:
                if self._trouble is None:
                    self._silent_since_s = now_s
                self._trouble, self.failed = error, self.failed + 1
            else:
                self._trouble, self.failed = None, 0
            self._asked_s = time.monotonic()
        if self._trouble is not None:
            raise self._trouble
