"""smolplan launch, status, logs, checkpoint, stop, runs: a run's life as its user drives it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolplan.cli.runs_dir import RunsDir

if TYPE_CHECKING:
    from launcher.store import Run, Store
    from smolplan.rundir import RunDir
    from smolplan.spec import RunSpec

RunArgument = Annotated[
    str, typer.Argument(help="A run's name, the start of it, its folder, or latest.")
]
TWO_OUTPUTS = "--watch is for people and --json for machines"
Json = Annotated[bool, typer.Option("--json", help="The answer as JSON.")]
Monitored = Annotated[
    bool, typer.Option("--monitor/--no-monitor", help="Have the monitor watch it and restart it.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be started; start nothing.")
]
WatchIt = Annotated[bool, typer.Option("--watch", help="Stay, and show the run.")]
Unchecked = Annotated[
    str | None,
    typer.Option(
        metavar="REASON", help="Start it whatever preflight says; the reason is recorded."
    ),
]


def launch(
    specs: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC…",
            help="A YAML file or the name of a preset; with --resume, a run. Several are one job "
            "array on Slurm.",
        ),
    ],
    runs_dir: RunsDir = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped or gave up.")
    ] = False,
    monitor: Monitored = True,
    dry_run: DryRun = False,
    watch: WatchIt = False,
    at_most: Annotated[
        int | None, typer.Option(min=1, help="Of several runs, so many at a time.")
    ] = None,
    unchecked: Unchecked = None,
    as_json: Json = False,
) -> None:
    """Start a training run where its spec says, detached; it outlives the terminal.

    Preflight's quick checks come first: nothing starts if a required one fails. With --watch it
    ends when the run does, with exit code 1 if the run failed.

    Example: `smolplan launch tiny-cpu --watch`
    """
    import time

    from launcher import control, create
    from launcher.store import Store
    from monitor.collect.reference import read_reference
    from smolplan.cli.gate import check_before, warn_of_store
    from smolplan.cli.style import progress_line
    from smolplan.cli.together import launch_together
    from smolplan.errors import UserError
    from smolplan.rundir import RunDir
    from smolplan.spec import load_spec

    if watch and as_json:
        raise UserError(TWO_OUTPUTS, where="--json", remedy="Give one of them.")
    if len(specs) > 1 and not (resume or watch):
        launch_together(
            specs,
            runs_dir=runs_dir,
            monitored=monitor,
            at_most=at_most,
            dry_run=dry_run,
            unchecked=unchecked,
            as_json=as_json,
        )
        return
    if len(specs) > 1 or at_most is not None:
        raise UserError(
            "several runs are started together, or one is watched or resumed",
            where="--at-most" if at_most is not None else "--resume" if resume else "--watch",
            remedy="Leave it out, or name several specs." if at_most else "Name one run.",
        )
    (spec,) = specs
    began = time.time()
    if resume:
        if runs_dir is not None:
            raise UserError(
                "a run that is resumed stays in its folder",
                where="--runs-dir",
                remedy="Leave it out.",
            )
        store = Store()
        run = control.settle(store, find_run(store, spec))
        if dry_run:
            resumed = control.resumable(store, run)
            show_start(resumed, RunDir(run.path), checked=unchecked is None, as_json=as_json)
            return
        warn_of_store(store)
        check_before(control.resumable(store, run), run.path.parent, unchecked)(RunDir(run.path))
        with progress_line("Starting") as say:
            attempt = control.resume(store, run, monitored=monitor, on_progress=say)
    else:
        loaded = load_spec(spec)
        folder = create.runs_folder(loaded, runs_dir)
        if dry_run:
            create.check(loaded)
            planned = RunDir(folder / f"{loaded.name}-…")
            show_start(loaded, planned, checked=unchecked is None, as_json=as_json)
            return
        create.check(loaded)
        if loaded.monitor.reference is not None:
            read_reference(loaded.monitor.reference)
        tell = check_before(loaded, folder, unchecked)
        store = Store()
        warn_of_store(store)
        with progress_line("Preparing the data") as say:
            run, attempt = create.create_run(
                loaded, store, folder, monitored=monitor, on_progress=say
            )
        tell(RunDir(run.path))
        with progress_line("Starting") as say:
            control.start(store, run, attempt, loaded, on_progress=say)
    show_started(store, run, attempt.number, began, watch=watch, as_json=as_json)


def show_started(
    store: "Store", run: "Run", attempt: int, began: float, *, watch: bool, as_json: bool
) -> None:
    """Where a run is that has been started, `began` being when that was begun (wall clock); with
    `watch`, how it goes on to its end."""
    import json

    from launcher.status import page_of, run_status
    from smolplan.rundir import RunDir

    page = page_of(store, store.run(run.id))
    if as_json:
        told = {"run": run.id, "path": str(run.path), "attempt": attempt, "page": page}
        print(json.dumps(told))
    else:
        for event in RunDir(run.path).read_events():
            if event["kind"] == "host_replaced" and event["time"] > began:
                print(f"{event['host']}: {event['reason']}; {event['by']} takes its place")
        queued = run_status(store, store.run(run.id)).queued
        stands = f"queued ({queued})" if queued else f"running (attempt {attempt})"
        print(f"{run.id} is {stands} in {run.path}")
        print(f"See it by: smolplan status {run.id} --watch")
        if page:
            print(f"In a browser: {page}")
    if watch:
        _watch(store, run.id)


def find_run(store: "Store", name: str) -> "Run":
    """A run whose folder may be looked at. Raises UserError, NoAnswer where its mount hangs."""
    import os

    from smolplan.touch import require_answer

    if os.sep in name:
        require_answer(Path(name).absolute(), where="RUN")
    found = store.find(name)
    require_answer(found.path, where=f"run {found.id}")
    return found


def show_start(spec: "RunSpec", run: "RunDir", *, checked: bool, as_json: bool) -> None:
    """What would be executed, for --dry-run."""
    import json

    from launcher.backends.base import backend_of

    backend, number = backend_of(spec), run.latest_attempt() + 1
    if as_json:
        print(json.dumps(backend.request(spec, run, number, checked=checked)))
    else:
        print(backend.render(spec, run, number, checked=checked))


def status(
    run: RunArgument = "latest",
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it, live.")] = False,
    as_json: Json = False,
) -> None:
    """Show how a run stands: steps, loss, speed, time to go, attempts, last events.

    With --watch it ends when the run does, with exit code 1 if the run failed.

    Example: `smolplan status latest --watch`
    """
    import json

    from launcher import control
    from launcher.status import run_status
    from launcher.store import Store
    from smolplan.cli.insight import insight_of
    from smolplan.cli.style import show
    from smolplan.cli.views import status_panel
    from smolplan.errors import UserError

    if watch and as_json:
        raise UserError(TWO_OUTPUTS, where="--json", remedy="Give one of them.")
    store = Store()
    found = find_run(store, run)
    if watch:
        _watch(store, found.id)
        return
    answer = run_status(store, control.settle(store, found))
    insight = insight_of(store, answer.run)
    if as_json:
        more = {} if insight is None else insight.to_json()
        print(json.dumps({**answer.to_json(), **more}, indent=1))
    else:
        show(lambda out: out.print(status_panel(answer, insight)))


def _watch(store: "Store", run_id: str) -> None:
    """Show a run until it is over. Ends the command with 1 if the run failed."""
    import sys
    import time

    from rich.live import Live

    from launcher import control
    from launcher.status import run_status
    from smolplan.cli.style import console, show
    from smolplan.cli.views import status_panel

    out = console()
    answer = run_status(store, store.run(run_id))
    try:
        with Live(console=out, auto_refresh=False, transient=False) as live:
            while True:
                answer = run_status(store, control.settle(store, store.run(run_id)))
                if out.is_terminal:
                    live.update(status_panel(answer), refresh=True)
                if answer.run.state != "active":
                    break
                time.sleep(0.5)
    except KeyboardInterrupt:
        print(f"{run_id} goes on. End it by: smolplan stop {run_id}", file=sys.stderr)
        raise
    if not out.is_terminal:
        show(lambda out: out.print(status_panel(answer)))
    if answer.run.state == "failed":
        raise typer.Exit(1)


def logs(
    run: RunArgument = "latest",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Keep printing.")] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank.")] = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Only this attempt (default: the newest).")
    ] = None,
) -> None:
    """Print what the ranks of a run wrote, each line with its rank before it.

    Example: `smolplan logs latest -f --rank 0`
    """
    import sys

    from launcher.logs import follow_logs, read_logs
    from launcher.store import Store

    store = Store()
    found = find_run(store, run)
    if follow:
        lines = follow_logs(
            found.path,
            rank=rank,
            attempt=attempt,
            until=lambda: store.run(found.id).state != "active",
        )
    else:
        lines = read_logs(found.path, rank=rank, attempt=attempt)
    written = False
    for line in lines:
        print(line, flush=follow)
        written = True
    if not written:
        print(f"Nothing was written. How it stands: smolplan status {found.id}", file=sys.stderr)


def stop(
    run: RunArgument = "latest",
    now: Annotated[
        bool, typer.Option("--now", help="Kill it at once: steps since the checkpoint are lost.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Stop a run after the step at hand, with a checkpoint.

    Go on later by `smolplan launch --resume RUN`.

    Example: `smolplan stop latest`
    """
    import json

    from launcher import control
    from launcher.store import Store
    from smolplan.cli.style import progress_line
    from smolplan.errors import SmolplanError, UserError
    from smolplan.spec import load_spec

    store = Store()
    found = control.settle(store, find_run(store, run))
    if found.state != "active":
        raise UserError(f"run {found.id} is not running: it is {found.state}")
    unstarted = store.attempts(found.id)[-1].state == "planned" and not found.monitored
    if now or unstarted:
        ended = control.kill(store, found)
    else:
        grace_s = load_spec(control.run_folder(found).spec).monitor.stop_grace_s
        control.request_stop(store, found)
        if found.monitored:
            control.ensure_daemon(store)
        with progress_line(f"Stopping {found.id}: saving a checkpoint"):
            ended = control.await_end(store, found.id, grace_s + 30)
        if ended.state == "active":
            raise SmolplanError(
                f"run {found.id} did not stop within {grace_s:g} s; end it by: "
                f"smolplan stop {found.id} --now"
            )
    if as_json:
        print(json.dumps({"run": ended.id, "state": ended.state, "reason": ended.reason}))
    else:
        print(f"{ended.id} is {ended.state}: {ended.reason}")


def checkpoint(run: RunArgument = "latest", as_json: Json = False) -> None:
    """Have a run save a checkpoint after the step at hand, and go on.

    It comes back once the checkpoint is there.

    Example: `smolplan checkpoint latest`
    """
    import json

    from launcher import control
    from launcher.save_now import save_now
    from launcher.store import Store
    from smolplan.cli.style import progress_line
    from smolplan.spec import load_spec

    store = Store()
    found = control.settle(store, find_run(store, run))
    limit_s = load_spec(control.run_folder(found).spec).monitor.checkpoint_timeout_s
    with progress_line(f"{found.id} saves a checkpoint"):
        step = save_now(store, found, limit_s)
    if as_json:
        print(json.dumps({"run": found.id, "step": step}))
    else:
        print(f"{found.id} has saved a checkpoint of step {step}")


def runs(as_json: Json = False) -> None:
    """List all runs, newest last; those whose folder hangs only as they are on record.

    Example: `smolplan runs`
    """
    import json
    import sys

    from launcher import control
    from launcher.status import run_status, unseen_status
    from launcher.store import Store
    from smolplan.cli.style import print_whole, show
    from smolplan.cli.views import runs_table
    from smolplan.touch import ANSWER_S, hung

    store = Store()
    lost = set(hung({run.path.parent for run in store.runs()}))
    for folder in sorted(lost):
        print(f"{folder} does not answer within {ANSWER_S:g} s: its mount hangs", file=sys.stderr)
    answers = [
        unseen_status(store, run, f"{run.path.parent} does not answer")
        if run.path.parent in lost
        else run_status(store, control.settle(store, run))
        for run in store.runs()
    ]
    if as_json:
        print(json.dumps([answer.to_json() for answer in answers], indent=1))
    elif answers:
        show(lambda out: print_whole(out, runs_table(answers)), narrow=False)
    else:
        print("No run was launched yet. Try: smolplan launch tiny-cpu --watch")


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the application."""
    for command in (launch, status, logs, checkpoint, stop, runs):
        app.command()(command)
