"""What Slurm says of a job, read from the text that its tools have printed for twenty years.

Their JSON has changed its shape from release to release; `--noheader --format` has not.
"""

from dataclasses import dataclass

QUEUE_FORMAT = "%i|%T|%r|%k"
"""Job, state in full, reason, comment (squeue(1)); the comment comes last, as it may hold a |."""

COMPLETING = "COMPLETING"
"""Between any other state and what follows: Slurm waits until nothing of the job is left."""
WAITING = frozenset(
    {
        *("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"),
        *("SPECIAL_EXIT", "STOPPED", "SUSPENDED"),
    }
)
CANCELLED = frozenset({"CANCELLED", "REVOKED"})
ENDED = frozenset(
    {
        *("BOOT_FAIL", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "TIMEOUT"),
    }
)
"""squeue(1), job state codes. A state that is in none of these runs: one that a later Slurm has
must not be taken for an end."""


@dataclass(frozen=True)
class Job:
    number: str
    """Or ARRAY_TASK, for a task of a job array."""
    state: str
    """In full, as squeue(1) has it: PENDING, RUNNING, NODE_FAIL …"""
    reason: str
    """Why it waits, or why it ended; "None" where there is none."""
    comment: str

    def __str__(self) -> str:
        state = self.state.lower().replace("_", " ")
        return state if self.reason in ("", "None") else f"{state} ({self.reason})"

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def runs(self) -> bool:
        return self.state not in WAITING | CANCELLED | ENDED

    @property
    def completes(self) -> bool:
        return self.state == COMPLETING

    @property
    def cancelled(self) -> bool:
        return self.state in CANCELLED


def parse_queue(text: str) -> list[Job]:
    """The jobs in what squeue has printed in QUEUE_FORMAT. Lines of another kind are passed over:
    sites let it print greetings."""
    jobs = []
    for line in text.splitlines():
        fields = line.split("|", 3)
        if len(fields) == 4 and fields[0].strip():
            number, state, reason, comment = (field.strip() for field in fields)
            jobs.append(Job(number, state.partition(" ")[0], reason, comment))
    return jobs


def parse_fields(text: str) -> dict[str, str]:
    """`scontrol -o show …`: Name=value pairs on one line; a value may hold blanks, so that a pair
    begins only where a word has a =."""
    found: dict[str, str] = {}
    name = ""
    for word in text.split():
        left, equals, right = word.partition("=")
        if equals and left and left[0].isalpha() and left.replace("_", "").isalnum():
            name, found[left] = left, right
        elif name:
            found[name] += f" {word}"
    return found


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config`: a setting a line, with its name in lower case."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name.strip().lower()] = value.strip()
    return found
