"""attempts/K/slurm.json and slurm.job: which job an attempt is, for whoever looks at it next."""

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from smolplan.rundir import RunDir, read_json, write_json

TIME_LIMIT = "queued again by Slurm: time limit"
NODE_OR_PREEMPTION = "queued again by Slurm: node failure or preemption"


@dataclass(frozen=True)
class SlurmRecord:
    token: str
    job: str = ""
    """Its number, or ARRAY_TASK; empty until sbatch has told it."""
    restart: int = 0
    """How often Slurm had queued the job again when this attempt began."""
    reason: str = ""
    """Why Slurm queued it again; empty for an attempt that was submitted."""


def write_record(run: RunDir, attempt: int, record: SlurmRecord) -> None:
    """Raises OSError."""
    write_json(run.attempt(attempt) / "slurm.json", asdict(record))


def read_record(run: RunDir, attempt: int) -> SlurmRecord | None:
    """None if there is none, or it cannot be read."""
    content = read_json(run.attempt(attempt) / "slurm.json")
    try:
        return None if content is None else SlurmRecord(**content)
    except TypeError:
        return None


def claim(run: RunDir, attempt: int, job: str) -> bool:
    """Take an attempt for a job that has started; False if another one has it. A launcher that
    got no answer may have submitted twice: then the first job to start is the attempt, and the
    other has nothing to do. Raises OSError."""
    path = _claim(run, attempt)
    written = path.with_name(f"slurm.job.{job}")
    written.write_text(job, "ascii")
    try:
        os.link(written, path)  # whole from the first moment, and only ever one
    except FileExistsError:
        return claimed_by(run, attempt) == job
    finally:
        with suppress(OSError):
            written.unlink()
    return True


def claimed_by(run: RunDir, attempt: int) -> str:
    """The job that an attempt is; empty before it has started."""
    try:
        return _claim(run, attempt).read_text("ascii")
    except OSError:
        return ""


def job_of(run: RunDir, attempt: int) -> str:
    """The job that an attempt is, by its own word or by its launcher's; empty if neither says."""
    record = read_record(run, attempt)
    return claimed_by(run, attempt) or (record.job if record else "")


def _claim(run: RunDir, attempt: int) -> Path:
    return run.attempt(attempt) / "slurm.job"
