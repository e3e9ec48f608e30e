"""What is sent to sbatch: its arguments, and a script that does nothing but start batch.py."""

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from smolplan.errors import UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from smolplan.spec.launch import SlurmSpec

SIGNAL = "USR1"

OURS = frozenset(
    {
        *("comment", "exclude", "gres", "job-name", "nodes", "ntasks", "ntasks-per-node"),
        *("open-mode", "output", "parsable", "requeue", "no-requeue", "signal", "time", "wrap"),
        *("array", "error", "export", "help", "input", "test-only", "usage", "version", "wait"),
    }
)
"""Options of sbatch that smolplan gives itself, or that leave no job of ours."""

LONGEST_NOTICE_S = 65_535
EARLY_S = 60
"""How early Slurm may send a signal; both from sbatch(1), --signal."""


def check(spec: RunSpec) -> None:
    """Raises UserError for what Slurm would take otherwise than it is meant."""
    settings = spec.launch.slurm or SlurmSpec()
    for name, value in settings.options.items():
        where = f"launch.slurm.options.{name}"
        if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
            raise UserError(
                f"{name!r} is no long option of sbatch",
                where=where,
                remedy="Write it in full, without dashes before it: mem, not -m or --mem.",
            )
        # sbatch takes any beginning of an option's name that fits no other.
        if ours := sorted(option for option in OURS if option.startswith(name)):
            raise UserError(
                f"sbatch's --{ours[0]} is given by smolplan itself",
                where=where,
                remedy="Leave it out; the spec's own fields say what it is to be.",
            )
        if "\0" in value:
            raise UserError(f"{value!r} has a NUL, which no program can be given", where=where)
    notice_s, limit_s = settings.signal_before_s, settings.time_limit_s
    if notice_s > LONGEST_NOTICE_S:
        raise UserError(
            f"{notice_s:g} s before the time limit is more than Slurm's {LONGEST_NOTICE_S}",
            where="launch.slurm.signal_before_s",
        )
    if limit_s is not None and notice_s + EARLY_S > 60 * limit_minutes(limit_s):
        raise UserError(
            f"the signal would come as soon as the job starts: {notice_s:g} s before a time limit "
            f"of {60 * limit_minutes(limit_s)} s, and Slurm may be {EARLY_S} s early",
            where="launch.slurm.signal_before_s",
            remedy="Raise time_limit_s, or lower signal_before_s to what a checkpoint takes.",
        )


def comment(token: str) -> str:
    """By which a job is found again if its launcher died before it knew the number."""
    return f"smolplan:{token}"


def limit_minutes(seconds: float) -> int:
    """Slurm counts no smaller ones."""
    return max(1, math.ceil(seconds / 60))


def format_limit(seconds: float) -> str:
    """Slurm's days-hours:minutes:seconds."""
    minutes = limit_minutes(seconds)
    days, minutes = divmod(minutes, 24 * 60)
    return f"{days}-{minutes // 60:02}:{minutes % 60:02}:00"


def job_arguments(
    spec: RunSpec,
    log: Path,
    token: str,
    *,
    exclude: Iterable[str] = (),
    array: str | None = None,
    name: str | None = None,
) -> list[str]:
    """sbatch and its options, each a whole argument: no shell reads them. `log` takes what the
    job's own program writes, and what Slurm has to say of the job; of an array, in one file a
    task."""
    settings = spec.launch.slurm or SlurmSpec()
    cluster = spec.cluster
    gres = settings.gres
    if gres is None and cluster.gpu != "cpu" and not any("gpus" in o for o in settings.options):
        gres = f"gpu:{cluster.gpus_per_node}"
    limit = settings.time_limit_s
    out = [*settings.exclude, *(h for h in exclude if h not in settings.exclude)]
    options: dict[str, str | int | None] = {
        "job-name": name or spec.name,
        "array": array,
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
        "output": _pattern(log) if array is None else f"{_pattern(log)}/%a.log",
        # What the submitting process has been given; SBATCH_EXPORT may say otherwise.
        "export": "ALL",
        **settings.options,
    }
    return [
        *["sbatch", "--parsable", "--requeue" if settings.requeue else "--no-requeue"],
        *[
            f"--{name}={value}" if value != "" else f"--{name}"
            for name, value in options.items()
            if value is not None
        ],
    ]


def job_script(python: Path | str, run: RunDir, attempt: int, *, checked: bool = True) -> str:
    """The script, on sbatch's standard input. `exec`: the signal reaches Python, not the shell.
    `checked`: its nodes are checked before ranks start."""
    return f"#!/bin/sh\n{_start(python, run, attempt, checked)}\n"


def array_script(
    programs: Sequence[tuple[Path | str, RunDir, int]], *, checked: bool = True
) -> str:
    """As job_script, for a job array: a program for each of its tasks."""
    tasks = [f"{i}) {_start(*program, checked)} ;;\n" for i, program in enumerate(programs)]
    return f'#!/bin/sh\ncase "$SLURM_ARRAY_TASK_ID" in\n{"".join(tasks)}esac\n'


def _start(python: Path | str, run: RunDir, attempt: int, checked: bool) -> str:
    program = [str(python), "-P", "-m", "launcher.slurm.batch", str(run.path), str(attempt)]
    return f"exec {shlex.join([*program, *(['--check'] if checked else [])])}"


def render(arguments: list[str], text: str) -> str:
    """What is sent, as lines for a shell that would send the same."""
    end = "END"
    while end in text.splitlines():  # a path may hold anything
        end += "_"
    return f"{shlex.join(arguments)} <<'{end}'\n{text}{end}"


def job_log(run: RunDir, attempt: int) -> Path:
    return run.attempt(attempt) / "logs" / "slurm.log"


def _pattern(path: Path) -> str:
    """A path as sbatch is to be given it, which takes % for the beginning of a pattern of its own,
    unless there is a backslash (sbatch(1), filename pattern)."""
    text = str(path)
    return text.replace("\\", "\\\\") if "\\" in text else text.replace("%", "%%")
