"""smolplan fork: a run that begins with a checkpoint of another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolplan.cli.run import (
    TWO_OUTPUTS,
    DryRun,
    Json,
    Monitored,
    RunArgument,
    Unchecked,
    WatchIt,
    find_run,
    show_start,
    show_started,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smolplan.spec import RunSpec


def fork(
    run: RunArgument,
    step: Annotated[
        int | None, typer.Option(min=0, help="Its checkpoint of this step (default: the newest).")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A field of the spec that the fork has otherwise; may be repeated.",
        ),
    ] = None,
    out_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Names the fork (default: as the run).")
    ] = None,
    runs_dir: Annotated[
        Path | None,
        typer.Option(
            parser=Path,  # as of RunsDir
            metavar="PATH",
            help="Folder that the fork's own is made in (default: that of the run's).",
        ),
    ] = None,
    monitor: Monitored = True,
    dry_run: DryRun = False,
    watch: WatchIt = False,
    unchecked: Unchecked = None,
    as_json: Json = False,
) -> None:
    """Start a run of its own from a checkpoint of another, which may be under way.

    It goes on as the other would be resumed there: weights, moments, place in the data. What lies
    behind that step may be changed: schedule and length, later stages of the data, layout,
    checkpoints. The checkpoint's files are shared where the file system has hard links.

    Example: `smolplan fork latest --set optim.steps=200 --set optim.decay_steps=60 --watch`
    """
    import time

    from launcher import control, create
    from launcher.store import Store
    from smolplan.cli.gate import check_before
    from smolplan.cli.style import progress_line
    from smolplan.errors import UserError
    from smolplan.rundir import RunDir
    from smolplan.spec import load_spec
    from trainer.fork import fork_of

    if watch and as_json:
        raise UserError(TWO_OUTPUTS, where="--json", remedy="Give one of them.")
    began = time.time()
    store = Store()
    parent = find_run(store, run)
    directory = control.run_folder(parent)
    old = load_spec(directory.spec)
    spec = _changed(old, settings or (), out_name)
    planned = fork_of(directory, parent.id, old, spec, step)
    create.check(spec)
    moved = spec.launch.runs_dir != old.launch.runs_dir
    folder = create.runs_folder(spec, runs_dir or (None if moved else parent.path.parent))
    if dry_run:
        with progress_line("Verifying the checkpoint"):
            planned.verify()
        if not as_json:
            print(f"A fork of {planned.origin.told()}")
        named = RunDir(folder / f"{spec.name}-…")
        show_start(spec, named, checked=unchecked is None, as_json=as_json)
        return
    tell = check_before(spec, folder, unchecked)
    if step is None:  # a parent that is under way may have a newer one by now, and that one no more
        planned = fork_of(directory, parent.id, old, spec, step)
    with progress_line("Taking the checkpoint") as say:
        made, attempt = create.create_run(
            spec,
            store,
            folder,
            monitored=monitor,
            on_progress=say,
            fill=planned.fill,
            step=planned.origin.step,
        )
    tell(RunDir(made.path))
    with progress_line("Starting") as say:
        control.start(store, made, attempt, spec, on_progress=say)
    if not as_json:
        print(f"Forked from {planned.origin.told()}")
    show_started(store, made, attempt.number, began, watch=watch, as_json=as_json)


def _changed(spec: "RunSpec", settings: "Sequence[str]", out_name: str | None) -> "RunSpec":
    """Raises UserError."""
    from planner.ablation.variants import with_fields
    from smolplan.importers.options import parse_overrides

    fields = parse_overrides(settings)
    # A run is as long as one of them says.
    for given, other in (("optim.steps", "optim.tokens"), ("optim.tokens", "optim.steps")):
        if fields.get(given) is not None:
            fields.setdefault(other, None)
    if out_name is not None:
        fields["name"] = out_name
    where = "--out-name" if out_name is not None and not settings else "--set"
    return with_fields(spec, fields, where) if fields else spec
