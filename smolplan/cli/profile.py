"""smolplan profile: what the ranks of a run compute, and when."""

from typing import Annotated

import typer

from smolplan.cli.run import Json, RunArgument
from smolplan.profile_request import MOST_RANKS, MOST_STEPS
from smolplan.units import count_of


def profile(
    run: RunArgument = "latest",
    steps: Annotated[int, typer.Option(min=1, max=MOST_STEPS, help="Steps that are recorded.")] = 3,
    rank: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Of this rank; may be given again (default: 0)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Record the next steps of a run by torch.profiler, and go on training.

    It comes back once the traces are in the run's folder, in `profiles/`. They open in
    https://ui.perfetto.dev or chrome://tracing.

    Example: `smolplan profile latest --steps 3 --rank 0`
    """
    import json

    from launcher import control
    from launcher.answers import await_answer
    from launcher.store import Store
    from smolplan.cli.run import find_run
    from smolplan.cli.style import progress_line
    from smolplan.errors import SmolplanError, UserError
    from smolplan.profile_request import request_profile
    from smolplan.spec import load_spec

    store = Store()
    found = control.settle(store, find_run(store, run))
    if found.state != "active":
        raise UserError(f"run {found.id} is not running: it is {found.state}")
    directory = control.run_folder(found)
    spec = load_spec(directory.spec)
    ranks, there = tuple(sorted(set(rank or [0]))), spec.parallel.ranks
    if ranks[-1] >= there or len(ranks) > MOST_RANKS:
        raise UserError(
            f"the run has no rank {ranks[-1]}" if ranks[-1] >= there else "too many ranks",
            where="--rank",
            remedy=f"Name at most {MOST_RANKS} of the ranks 0 to {there - 1}.",
        )
    asked = request_profile(directory, steps, ranks)
    if asked is None:
        raise UserError(
            "another profile is asked for already",
            where=str(directory.profile_request),
            remedy="Wait for its steps, or remove the file.",
        )
    # Steps that are recorded are slower, and so is the first after a start.
    limit_s = spec.monitor.startup_timeout_s
    with progress_line(f"{found.id} records {count_of(steps, 'step')}"):
        event = await_answer(
            store, found, "profiled", asked.id, what="recorded no steps", timeout_s=limit_s
        )
    if event["troubles"]:
        told = "; ".join(f"rank {number}: {why}" for number, why in event["troubles"].items())
        raise SmolplanError(f"not all traces were written: {told}")
    files = [str(directory.path / file) for file in event["files"]]
    if as_json:
        print(json.dumps({"run": found.id, "first_step": event["first_step"], "files": files}))
    else:
        print("\n".join(files))
