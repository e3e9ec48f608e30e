"""smolplan plot: the curves of one run, or of several over each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from monitor.report.course import Course


def plot(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Names of runs, or their folders, or latest."),
    ],
    to: Annotated[
        Path, typer.Option(help="The picture: an .html page, an .svg, or a .png (by matplotlib).")
    ] = Path("runs.html"),
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this: loss, source_losses, tokens_per_s, mfu, grad_norm, data_wait_share, "
            "memory_bytes, lr, or an evaluation as bits_per_byte; may be repeated."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the points as JSON, and draw nothing.")
    ] = False,
) -> None:
    """Draw loss, that of each source, throughput, MFU, gradient norm, data wait, memory and
    evaluations over tokens; several runs lie over each other, for comparing them at equal tokens.

    Example: `smolplan plot latest --to loss.svg --metric loss`
    """
    import json

    from monitor.report.overlay import WRITERS, metrics_of, named, panels, points
    from smolplan.cli.options import check_file, check_picture, write_file
    from smolplan.errors import UserError

    if not as_json:
        check_picture("--to", to, WRITERS)
        check_file("--to", to, force=force)
    courses = [_course(name) for name in runs]
    known = metrics_of(courses)
    for name in metric or ():
        if not named(name, known):
            raise UserError(
                f"none of the runs has {name!r}",
                where="--metric",
                remedy=f"They have: {', '.join(known)}." if known else "None made a step yet.",
            )
    asked = [one for name in metric for one in named(name, known)] if metric else known
    if as_json:
        print(json.dumps(points(courses, asked), indent=1, allow_nan=False))
        return
    drawn = panels(courses, asked)
    if not drawn:
        raise UserError(
            "there are not two points to draw", where="RUN", remedy="Wait for the first steps."
        )
    write_file("--to", to, WRITERS[to.suffix.lower()](drawn), force=force)
    print(f"{to}: {', '.join(panel.axes.title.lower() for panel in drawn)}")


def _course(name: str) -> "Course":
    """Of a run on record, or of a folder that was one elsewhere."""
    from launcher.store import Store
    from monitor.report.course import read_course
    from smolplan.cli.run import find_run
    from smolplan.rundir import RunDir
    from smolplan.spec import load_spec
    from smolplan.touch import require_answer

    require_answer(Path(name).absolute(), where="RUN")
    folder = RunDir(name)
    if folder.spec.is_file():
        return read_course(folder.path.resolve().name, folder, load_spec(folder.spec))
    found = find_run(Store(), name)
    folder = RunDir(found.path).existing()
    return read_course(found.id, folder, load_spec(folder.spec))
