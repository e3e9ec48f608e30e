"""A run directory from a spec: whole, or not there at all."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from launcher.environment import keep_environment
from launcher.hosts.inventory import inventory
from launcher.kubernetes.pod import checked as check_for_pods
from launcher.processes import is_alive, process_name
from launcher.slurm.script import check as check_for_slurm
from launcher.store import Attempt, Run, Store
from launcher.through import check_through
from launcher.uploads import check_store
from planner.plan import make_plan
from smolplan.errors import UserError
from smolplan.mixture import Mixture, exhausted, uses
from smolplan.rundir import RunDir, read_json, sync_folder, write_text
from smolplan.spec import RunSpec, dump_spec, load_spec
from smolplan.touch import require_answer
from smolplan.trackers import check_trackers
from smolplan.units import count_of

BUILDER = "builder"
"""Names the process that builds a run directory, so that others know when to sweep."""

UNNAMED_S = 600.0
"""A folder that names nobody for so long never will: who made it was killed in between."""

Fill = Callable[[RunDir, Callable[[str], None]], None]
"""Writes into a run directory that is being built, and tells how far it is. Raises UserError."""


def runs_path(spec: RunSpec, given: Path | None = None) -> Path:
    """Where run directories go: as asked on the command line, by the spec, or ./runs; untouched.
    Raises UserError."""
    folder = given or spec.launch.runs_dir or Path("runs")
    try:
        return folder.expanduser().absolute()
    except RuntimeError:
        raise UserError(
            f"{str(folder)[:200]} is no folder: it begins with the home of an unknown user",
            where="--runs-dir" if given else "launch.runs_dir",
            remedy="Name a writable folder by --runs-dir or launch.runs_dir.",
        ) from None


def runs_folder(spec: RunSpec, given: Path | None = None) -> Path:
    """The same, with its links resolved. Raises UserError, NoAnswer for one on a mount that
    hangs."""
    folder, where = runs_path(spec, given), "--runs-dir" if given else "launch.runs_dir"
    require_answer(folder, where)
    try:
        found = folder.resolve()
        found.exists()  # raises where no such name can be, as where it is too long
        return found
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "its links go round in a circle"
        raise UserError(
            f"{str(folder)[:200]} is no folder: {reason}",
            where=where,
            remedy="Name a writable folder by --runs-dir or launch.runs_dir.",
        ) from None


def check(spec: RunSpec) -> None:
    """Raises UserError for a spec that cannot be launched on this machine now."""
    if problems := spec.unsupported_by_trainer():
        raise UserError("; ".join(problems), where=spec.name, remedy="Change these to launch it.")
    _check_init(spec)
    make_plan(spec)  # refuses a GPU that nobody knows
    check_store(spec.checkpoint.upload_to)
    check_trackers(spec.log.trackers)
    check_through(spec)
    match spec.launch.backend:
        case "slurm":
            check_for_slurm(spec)
        case "ssh":
            _check_for_ssh(spec)
        case "local":
            _check_for_local(spec)


def _check_init(spec: RunSpec) -> None:
    """The weights themselves are held against the model when the ranks start."""
    folder = spec.model.init_from
    if folder is not None and not (folder / "config.json").is_file():
        raise UserError(
            f"there is no config.json in {folder}",
            where="model.init_from",
            remedy="Name the folder of a Hugging Face model with its safetensors.",
        )


def _check_for_ssh(spec: RunSpec) -> None:
    hosts, nodes = inventory(spec, os.environ), spec.cluster.nodes
    if len(hosts) < nodes:
        raise UserError(
            f"the run needs {count_of(nodes, 'host')}, and {len(hosts)} are named",
            where="launch.hosts",
            remedy="Name more of them, as gpu[01-50], or lower cluster.nodes.",
        )


def _check_for_local(spec: RunSpec) -> None:
    if spec.cluster.nodes > 1:
        raise UserError(
            f"local starts ranks on this machine alone, and cluster.nodes is {spec.cluster.nodes}",
            where="launch.backend",
            remedy="Set launch.backend to ssh, slurm or kubernetes, or cluster.nodes to 1.",
        )
    if trouble := port_trouble(spec.launch.rendezvous_port):
        raise UserError(
            f"port {spec.launch.rendezvous_port} cannot be used: {trouble.strerror}",
            where="launch.rendezvous_port",
            remedy="Give another port, or 0 for a free one.",
        )


def create_run(
    spec: RunSpec,
    store: Store,
    folder: Path,
    *,
    monitored: bool,
    on_progress: Callable[[str], None] = lambda line: None,
    fill: Fill | None = None,
    step: int = 0,
) -> tuple[Run, Attempt]:
    """Write spec, plan and dataset, and put the run on record with its first attempt planned.
    `fill`: as in build_folder; `step`: that the run begins behind, by the checkpoint that is put
    there. Raises UserError for whatever the user can mend."""
    path = build_folder(spec, folder, on_progress, fill=fill)
    return put_on_record(spec, store, path, monitored=monitored, step=step)


def put_on_record(
    spec: RunSpec, store: Store, path: Path, *, monitored: bool, step: int = 0
) -> tuple[Run, Attempt]:
    return store.add_run(path.name, path, spec.content_hash(), monitored=monitored, step=step)


def remake_run(
    spec: RunSpec,
    store: Store,
    folder: Path,
    run_id: str,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Run:
    """A run of another cluster, by its own name and without checkpoints, on record as stopped; the
    one that is there, if an earlier try got so far. Raises UserError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run_id):
        raise UserError(f"{run_id!r} is no name of a run", where="the end of the URL")
    path = folder / run_id
    known = {run.id: run for run in store.runs()}
    if run_id in known and known[run_id].path == path and path.is_dir():
        return known[run_id]
    if run_id in known:
        raise UserError(
            f"run {run_id} is on record in {known[run_id].path}",
            where="--runs-dir",
            remedy=f"Fetch its checkpoint by: smolplan restore {run_id}",
        )
    if not path.is_dir():
        build_folder(spec, folder, on_progress, run_id=run_id)
    run, attempt = put_on_record(spec, store, path, monitored=False)
    store.move_attempt(attempt, "ended", fence=None, cause="it is to be restored")
    store.end_run(run.id, "stopped", "restored from an object store", fence=None)
    return store.run(run.id)


def build_folder(
    spec: RunSpec,
    folder: Path,
    on_progress: Callable[[str], None] = lambda line: None,
    *,
    run_id: str = "",
    fill: Fill | None = None,
) -> Path:
    """A run directory in `folder`, named as the run is to be; no run yet. `fill` puts there what
    the run starts from, instead of its text made anew.

    It is built beside its final name and renamed: killed at any moment, this leaves no run
    behind that looks like one. Raises UserError for whatever the user can mend.
    """
    check(spec)
    run_id = run_id or f"{spec.name}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    is_new = not folder.exists()
    final, staging = folder / run_id, folder / f".{run_id}.partial"
    if spec.launch.backend == "kubernetes":
        check_for_pods(spec, RunDir(final))
    try:
        try:
            staging.mkdir(parents=True)
            (staging / BUILDER).write_text(process_name(), "utf-8")
            _sweep(folder)
            run = RunDir(staging)
            write_text(run.spec, dump_spec(spec))
            write_text(run.plan, make_plan(spec).model_dump_json(indent=1) + "\n")
            keep_environment(run)
        except OSError as error:
            raise UserError(
                f"cannot write a run directory: {error.strerror}",
                where=str(folder),
                remedy="Name a writable folder by --runs-dir or launch.runs_dir.",
            ) from None
        (fill or prepare_data)(run, on_progress)
        check_repeats(run)
        (staging / BUILDER).unlink()
        staging.rename(final)
        sync_folder(folder)  # before it is on record: a power cut leaves a run that is whole
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # somebody else's run is in it by now
                folder.rmdir()
        raise
    return final


def _sweep(folder: Path) -> None:
    """Remove what launchers that were killed on their way left behind."""
    for path in folder.glob(".*.partial"):
        with suppress(OSError):
            if not _is_being_built(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_being_built(staging: Path) -> bool:
    """Raises OSError where that cannot be told."""
    with suppress(FileNotFoundError):
        if builder := (staging / BUILDER).read_text("utf-8"):
            return is_alive(builder) is not False  # None: on another host, which may well live
    return time.time() - staging.stat().st_mtime < UNNAMED_S


def prepare_data(run: RunDir, on_progress: Callable[[str], None] = lambda line: None) -> None:
    """Tokenise the run's text if no earlier run did. Raises UserError with the tool's words."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "trainer.data.prepare", str(run.path), "--progress"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line.rstrip())
            on_progress(line.rstrip())
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code == 2:
        raise UserError(said[-1].removeprefix("smolplan: ") if said else "the data is not usable")
    if code:
        last = said[-1] if said else f"preparing the data ended with exit code {code}"
        if missing := last.partition("ModuleNotFoundError: ")[2]:
            raise UserError(
                f"the trainer is not installed here ({missing})",
                remedy="Install it: pip install 'smolplan[train]'",
            )
        raise UserError(last, where="data")


def check_repeats(run: RunDir) -> None:
    """Raises UserError for a run that would read a source of its text more often than it may: its
    ranks would end before the first step."""
    spec, content = load_spec(run.spec), read_json(run.dataset)
    if content is None or "sources" not in content:  # the ranks say so; or of an old smolplan
        return
    names = [source["name"] for source in content["sources"]]
    counts = [max(0, (s["tokens"] - 1) // spec.data.seq_len) for s in content["sources"]]
    if problem := exhausted(uses(spec, Mixture.of(spec, names, counts), counts)):
        raise UserError(f"the run would not start: {problem}", where=spec.name)


def port_trouble(port: int) -> OSError | None:
    """Why nobody can listen at a port of this host, as the rendezvous does at all its addresses;
    None if somebody can. 0 is any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError as error:
            return error
    return None
