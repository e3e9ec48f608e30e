"""attempts/K/slurm.json: which job an attempt is, for whoever looks at it next."""

from dataclasses import asdict, dataclass

from smolplan.rundir import RunDir, read_json, write_json


@dataclass(frozen=True)
class SlurmRecord:
    token: str
    job: str = ""
    """Its number; empty until sbatch has told it."""
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
