"""Runs that are launched together: a job array, of which each run is a task."""

import shutil
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher import control, create
from launcher.backends.slurm import send
from launcher.environment import environment_of
from launcher.slurm import script
from launcher.slurm.nodes import left_out
from launcher.slurm.record import SlurmRecord, write_record
from launcher.store import Attempt, Run, Store
from smolplan.errors import SmolplanError, UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec


@dataclass(frozen=True)
class Member:
    run: Run
    attempt: Attempt
    spec: RunSpec


def check(specs: Sequence[RunSpec]) -> None:
    """Raises UserError for specs that cannot be tasks of one array."""
    for spec in specs:
        if spec.launch.backend != "slurm":
            raise UserError(
                f"{spec.name} is for {spec.launch.backend}, and only Slurm is given several runs "
                f"at once",
                where="launch.backend",
                remedy="Launch them one after the other, or set launch.backend to slurm.",
            )
        create.check(spec)
    wanted = [_alike(spec) for spec in specs]
    for spec, options in zip(specs, wanted, strict=True):
        if differ := sorted({*options} ^ {*wanted[0]}):
            raise UserError(
                f"the tasks of an array get the same nodes, time and options, and {spec.name} "
                f"differs from {specs[0].name}: {', '.join(differ)}",
                where="launch",
                remedy="Make cluster and launch.slurm alike, or launch it by itself.",
            )


def _alike(spec: RunSpec) -> list[str]:
    return script.job_arguments(spec, Path("log"), "token", name="any")


def request(
    specs: Sequence[RunSpec],
    runs: Sequence[RunDir],
    at_most: int | None,
    logs: Path,
    *,
    checked: bool,
) -> tuple[list[str], str]:
    """The arguments of sbatch, and the script on its standard input. `logs` is the folder of the
    tasks' own logs; `checked`: nodes check themselves before ranks start."""
    first, names = specs[0], {spec.name for spec in specs}
    arguments = script.job_arguments(
        first,
        logs,
        logs.name,
        exclude=left_out(first, runs[0].path.name),
        array=f"0-{len(specs) - 1}" + (f"%{at_most}" if at_most else ""),
        name=first.name if len(names) == 1 else "smolplan",
    )
    programs = [
        (spec.launch.python or sys.executable, run, 1)
        for spec, run in zip(specs, runs, strict=True)
    ]
    return arguments, script.array_script(programs, checked=checked)


def create_all(
    store: Store,
    specs: Sequence[RunSpec],
    folders: Sequence[Path],
    *,
    monitored: bool,
    on_progress: Callable[[str], None] = lambda line: None,
) -> list[Member]:
    """All of the runs, or none. Raises UserError for whatever the user can mend."""
    built: list[Path] = []
    try:
        for spec, folder in zip(specs, folders, strict=True):
            built.append(create.build_folder(spec, folder, on_progress))
    except BaseException:
        for path in built:
            shutil.rmtree(path, ignore_errors=True)
        raise
    # Together, at the end: a monitor starts what its launcher has left for LAUNCHER_S.
    return [
        Member(*create.put_on_record(spec, store, path, monitored=monitored), spec)
        for spec, path in zip(specs, built, strict=True)
    ]


def start(store: Store, members: Sequence[Member], at_most: int | None) -> str:
    """Submit the first attempts of runs that were just put on record; the array's number. Raises
    SmolplanError if Slurm does not take it; the runs then end as failed."""
    # A run that a monitor was faster with is on its way already, by itself.
    mine = [m for m in members if store.move_attempt(m.attempt, "running", fence=None)]
    runs = [RunDir(m.run.path) for m in mine]
    if not mine:
        return ""
    try:
        logs = runs[0].path.parent / f"array-{uuid.uuid4().hex[:8]}"
        checked = not runs[0].unchecked.exists()
        arguments, text = request([m.spec for m in mine], runs, at_most, logs, checked=checked)
        for member, run in zip(mine, runs, strict=True):
            run.record("launched", "launcher", attempt=1, reason=member.attempt.reason)
            run.begin_attempt(1)
            write_record(run, 1, SlurmRecord(member.attempt.token))
        logs.mkdir()
        array = send(arguments, text, environment_of(runs[0]))
    except (SmolplanError, OSError) as error:
        for member in mine:
            control.fail(store, member.run, member.attempt, str(error))
        if isinstance(error, OSError):
            raise control.unwritable(error, runs[0]) from None
        raise
    for task, (member, run) in enumerate(zip(mine, runs, strict=True)):
        write_record(run, 1, SlurmRecord(member.attempt.token, f"{array}_{task}"))
    if any(m.run.monitored for m in mine):
        control.ensure_daemon(store)
    return array
