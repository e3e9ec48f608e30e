"""smolplan upload, restore: checkpoints to the object store and back, by hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.store import Run, Store

Json = Annotated[bool, typer.Option("--json", help="The answer as JSON.")]


def upload(
    run: Annotated[
        str, typer.Argument(help="A run's name, the start of it, its folder, or latest.")
    ] = "latest",
    as_json: Json = False,
) -> None:
    """Copy a run's checkpoints to checkpoint.upload_to, as far as they are not there yet.

    The monitor does this by itself while it watches. By hand it is for runs that are not watched,
    and tells at once what is wrong.

    Example: `smolplan upload latest`
    """
    import json

    from launcher import control
    from launcher.store import Store
    from launcher.uploads import check_store
    from smolplan.cli.style import progress_line
    from smolplan.errors import SmolplanError
    from smolplan.lock import hold
    from smolplan.spec import load_spec
    from trainer.upload import Uploader

    directory = control.run_folder(Store().find(run))
    spec = load_spec(directory.spec)
    check_store(spec.checkpoint.upload_to)
    if spec.checkpoint.upload_to is not None and not hold(directory.upload_lock):
        raise SmolplanError(
            f"another process uploads for {run} already; see how far by: smolplan status {run}"
        )
    uploader = Uploader(directory, spec)
    with progress_line("Uploading") as say:
        while (step := uploader.next_step()) is not None:
            say(f"checkpoint {step}")
            uploader.send(step)
        uploader.send_roll_backs()
    there, to = sorted(uploader.record.arrived), uploader.record.to
    if as_json:
        print(json.dumps({"to": to, "steps": there, "damaged": sorted(uploader.record.refused)}))
    else:
        print(f"{', '.join(map(str, there)) or 'No checkpoint'} in {to}")


def restore(
    run: Annotated[
        str, typer.Argument(metavar="RUN|URL", help="A run, or its folder in an object store.")
    ],
    step: Annotated[
        int | None, typer.Option(min=0, help="This checkpoint (default: the newest whole one).")
    ] = None,
    runs_dir: Annotated[
        Path | None,
        typer.Option(help="With a URL: folder of the run directories (default: ./runs)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch a checkpoint from the object store, and hold it against its manifest.

    With a URL a run is made anew, as on a new cluster: the spec is fetched, the data prepared. Go
    on with it by `smolplan launch --resume RUN`.

    Example: `smolplan restore s3://bucket/runs/smollm3-1127-093000-1a2b --runs-dir /mnt/runs`
    """
    import json

    from launcher.store import Store
    from smolplan.cli.style import progress_line
    from smolplan.errors import UserError
    from smolplan.lock import hold
    from smolplan.rundir import RunDir
    from trainer import restore as fetching
    from trainer.object_store import ObjectStore

    store = Store()
    with progress_line("Restoring") as say:
        if "://" in run:
            url = run.rstrip("/")
            found = _made_from(url, store, runs_dir, say)
        else:
            if runs_dir is not None:
                raise UserError(
                    "a run that is here stays in its folder",
                    where="--runs-dir",
                    remedy="Leave it out, or name the run by its URL.",
                )
            found = store.find(run)
            url = _url_of(found)
        _refuse_active(found)
        directory = RunDir(found.path)
        if not hold(directory.upload_lock):
            raise UserError(f"another process uploads or fetches for {found.id} now")
        try:
            manifest = fetching.restore(directory, ObjectStore(url), step, say)
        except OSError as error:
            raise UserError(
                f"the checkpoint cannot be written: {error.strerror}",
                where=str(directory.checkpoints),
                remedy="Make it writable, or free space there, and give the command again.",
            ) from None
    if as_json:
        told = {"run": found.id, "path": str(found.path), "step": manifest.step, "from": url}
        print(json.dumps(told))
    else:
        print(f"Checkpoint {manifest.step} of {found.id} is whole in {found.path}")
        print(f"Go on by: smolplan launch --resume {found.id}")


def _refuse_active(run: "Run") -> None:
    from smolplan.errors import UserError

    if run.state == "active":
        raise UserError(
            f"run {run.id} is active: its ranks may load or write checkpoints",
            remedy=f"Stop it first: smolplan stop {run.id}",
        )


def _url_of(run: "Run") -> str:
    """Raises UserError if it is uploaded nowhere."""
    from launcher import control
    from launcher.uploads import check_store
    from smolplan.errors import UserError
    from smolplan.spec import load_spec
    from smolplan.uploads import store_folder

    directory = control.run_folder(run)
    upload_to = load_spec(directory.spec).checkpoint.upload_to
    if upload_to is None:
        raise UserError(
            f"the spec of {run.id} names no object store",
            where="checkpoint.upload_to",
            remedy="Name the run's folder in a store instead, as s3://bucket/runs/NAME.",
        )
    check_store(upload_to)
    return store_folder(upload_to, directory)


def _made_from(
    url: str, store: "Store", runs_dir: Path | None, say: "Callable[[str], None]"
) -> "Run":
    """The run of a folder in a store: made anew, unless an earlier try got so far."""
    from pydantic import ValidationError

    from launcher import create
    from smolplan.errors import UserError
    from smolplan.spec import parse_spec
    from smolplan.spec.checkpoint import CheckpointSpec
    from trainer.object_store import ObjectStore

    try:
        folder = CheckpointSpec(upload_to=url).upload_to
    except ValidationError as error:
        raise UserError(
            error.errors()[0]["msg"].removeprefix("Value error, "), where="URL"
        ) from None
    assert folder is not None
    text = ObjectStore(folder).read("spec.yaml")
    if text is None:
        raise UserError(
            "there is no run", where=folder, remedy="Give the folder that holds its spec.yaml."
        )
    spec = parse_spec(text.decode("utf-8", "replace"), where=f"{folder}/spec.yaml")
    name = folder.rpartition("/")[2]
    return create.remake_run(spec, store, create.runs_folder(spec, runs_dir), name, say)
