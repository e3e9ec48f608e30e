"""smolplan log: tell a tracker of a run by hand."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from smolplan.cli.run import Json, RunArgument

if TYPE_CHECKING:
    from smolplan.spec.log import LogSpec


class Tracker(StrEnum):
    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    TRACKIO = "trackio"


def log(
    run: RunArgument = "latest",
    to: Annotated[
        list[Tracker] | None,
        typer.Option(help="This tracker instead of the spec's; may be given again."),
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="With --to wandb or trackio: the project there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pass a run's metrics and evaluations on to TensorBoard, W&B or trackio.

    The monitor does this by itself for the trackers that the spec names in `log`. By hand it is for
    runs that are over, or not watched; what was sent is not sent again.

    Example: `smolplan log latest --to tensorboard`
    """
    import json
    import sys
    from contextlib import redirect_stdout

    from launcher import control
    from launcher.store import Store
    from monitor.track.follow import send_all
    from smolplan.cli.style import progress_line
    from smolplan.errors import UserError
    from smolplan.spec import load_spec

    directory = control.run_folder(Store().find(run))
    spec = load_spec(directory.spec)
    told = _asked(to, project) if to else spec.log
    if not told.trackers:
        raise UserError(
            f"the spec of {run} names no tracker", where="--to", remedy="Name one: --to tensorboard"
        )
    steps = {}
    # Trackers print as they go; standard output is for the answer.
    with progress_line("Sending") as say, redirect_stdout(sys.stderr):
        for tracker in told.trackers:
            say(tracker)
            steps[tracker] = send_all(directory, spec, told, tracker)
    if as_json:
        print(json.dumps({"steps": steps}))
        return
    for tracker, step in steps.items():
        print(f"{tracker} has {directory.path.name} up to step {step:,}")
    if Tracker.TENSORBOARD in steps:
        print(f"See it by: tensorboard --logdir {directory.tensorboard}")


def _asked(to: list[Tracker], project: str | None) -> "LogSpec":
    """Raises UserError if a project is needed and missing, or cannot be one."""
    from pydantic import ValidationError

    from smolplan.errors import UserError
    from smolplan.spec.log import LogSpec

    content: dict[str, object] = {
        tracker: True if tracker == Tracker.TENSORBOARD else {"project": project} for tracker in to
    }
    if project is None and set(to) != {Tracker.TENSORBOARD}:
        raise UserError("the project is missing", where="--to", remedy="Give --project NAME.")
    try:
        return LogSpec.model_validate(content)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(what, where="--project") from None
