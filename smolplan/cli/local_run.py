"""A run that a command starts on this machine, stays with to its end, and evaluates."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.store import Run, Store
    from smolplan.rundir import RunDir
    from smolplan.spec import RunSpec


def launch_here(
    spec: "RunSpec",
    store: "Store",
    folder: Path,
    tell: "Callable[[RunDir], None]" = lambda run: None,
) -> "Run":
    """`tell` tells the run of how it was checked (smolplan.cli.gate). Raises SmolplanError."""
    from launcher import control, create
    from smolplan.cli.style import progress_line
    from smolplan.rundir import RunDir

    with progress_line("Preparing the data") as say:
        run, attempt = create.create_run(spec, store, folder, monitored=True, on_progress=say)
    tell(RunDir(run.path))
    control.start(store, run, attempt, spec)
    return run


def follow(
    store: "Store",
    run: "Run",
    spec: "RunSpec",
    title: str,
    on_step: Callable[[int], None] = lambda step: None,
    timeout_s: float = math.inf,
) -> "Run":
    """Show a run's progress until it is over; the run as it ended. Raises SmolplanError if it
    does not finish."""
    from launcher import control
    from launcher.outcome import last_log_lines
    from launcher.status import run_status
    from smolplan.errors import SmolplanError
    from smolplan.rundir import RunDir

    with _bar(title, spec.steps) as advance:

        def look() -> None:
            status = run_status(store, store.run(run.id))
            loss = status.last.get("loss")
            said = "" if loss is None else f"loss {loss:.3f}, "
            advance(status.step, f"{said}attempt {status.attempts[-1].number}, {status.phase}")
            on_step(status.step)

        ended = control.await_end(store, run.id, timeout_s, look)
    if ended.state != "finished":
        lines = "\n".join(last_log_lines(RunDir(run.path), store.attempts(run.id)[-1].number))
        raise SmolplanError(f"run {run.id} is {ended.state}: {ended.reason}\n{lines}")
    return ended


def evaluation(run: "Run", spec: "RunSpec") -> dict[str, Any]:
    """What is measured on a finished run's last checkpoint, now or before. Raises SmolplanError."""
    from smolplan.cli.style import progress_line
    from smolplan.cli.trainer_program import answer_of
    from smolplan.rundir import RunDir, read_json

    kept = RunDir(run.path).evaluation(spec.steps)
    if (found := read_json(kept)) is None:
        with progress_line("Evaluating") as say:
            answer_of(
                "trainer.evaluate", [str(run.path), f"--step={spec.steps}", "--progress"], say
            )
        found = read_json(kept)
    assert found is not None  # just written
    return found


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    import sys

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from smolplan.cli.style import console

    out = console(sys.stderr)
    columns = (TextColumn("{task.description:12}"), BarColumn(24), MofNCompleteColumn())
    with Progress(
        *columns,
        TextColumn("{task.fields[said]}"),
        console=out,
        transient=True,
        disable=not out.is_terminal,
    ) as progress:
        task = progress.add_task(title, total=total, said="")
        yield lambda done, said: progress.update(task, completed=done, said=said)
