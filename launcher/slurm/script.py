"""What is sent to sbatch: its arguments, and a script that does nothing but start batch.py."""

import math
import shlex
from collections.abc import Iterable
from pathlib import Path

from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from smolplan.spec.launch import SlurmSpec

SIGNAL = "USR1"

OURS = frozenset(
    {
        *("comment", "exclude", "gres", "job-name", "nodes", "ntasks", "ntasks-per-node"),
        *("open-mode", "output", "parsable", "requeue", "no-requeue", "signal", "time", "wrap"),
        *("array", "chdir", "error", "export", "wait"),
    }
)
"""Options of sbatch that smolplan gives itself."""


def comment(token: str) -> str:
    """By which a job is found again if its launcher died before it knew the number."""
    return f"smolplan:{token}"


def format_limit(seconds: float) -> str:
    """Slurm's days-hours:minutes:seconds, whole minutes: it counts no smaller ones."""
    minutes = max(1, math.ceil(seconds / 60))
    days, minutes = divmod(minutes, 24 * 60)
    return f"{days}-{minutes // 60:02}:{minutes % 60:02}:00"


def job_arguments(
    spec: RunSpec, run: RunDir, attempt: int, token: str, *, exclude: Iterable[str] = ()
) -> list[str]:
    """sbatch and its options, each a whole argument: no shell reads them."""
    settings = spec.launch.slurm or SlurmSpec()
    cluster = spec.cluster
    gres = settings.gres or (f"gpu:{cluster.gpus_per_node}" if cluster.gpu != "cpu" else None)
    limit = settings.time_limit_s
    out = [*settings.exclude, *(h for h in exclude if h not in settings.exclude)]
    options: dict[str, str | int | None] = {
        "job-name": spec.name,
        "comment": comment(token),
        "nodes": cluster.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": settings.cpus_per_task,
        "gres": gres,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "reservation": settings.reservation,
        "constraint": settings.constraint,
        "time": None if limit is None else format_limit(limit),
        # B: the signal goes to batch.py alone, which tells the ranks.
        "signal": f"B:{SIGNAL}@{math.ceil(settings.signal_before_s)}",
        "exclude": ",".join(out) or None,
        "open-mode": "append",
        "output": str(_log(run, attempt)),
        **settings.options,
    }
    return [
        *["sbatch", "--parsable", "--requeue" if settings.requeue else "--no-requeue"],
        *[f"--{name}={value}" for name, value in options.items() if value is not None],
    ]


def job_script(python: Path | str, run: RunDir, attempt: int) -> str:
    """The script, on sbatch's standard input. `exec`: the signal reaches Python, not the shell."""
    program = [str(python), "-P", "-m", "launcher.slurm.batch", str(run.path), str(attempt)]
    return f"#!/bin/sh\nexec {shlex.join(program)}\n"


def _log(run: RunDir, attempt: int) -> Path:
    # % begins a pattern of sbatch's own.
    folder = str(run.attempt(attempt) / "logs").replace("%", "%%")
    return Path(folder) / "slurm-%j.log"
