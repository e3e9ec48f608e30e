"""smolplan demo: from the question to a run that loses a rank and mends itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from smolplan.cli.runs_dir import RunsDir

if TYPE_CHECKING:
    from launcher.store import Run, Store
    from smolplan.spec import RunSpec

KILL_AFTER_SHARE = 0.4


def demo(
    runs_dir: RunsDir = None,
) -> None:
    """Plan, check, train with two ranks, kill one, watch it mend; compare with an undisturbed run.

    Takes about two minutes on two CPU cores. Exit code 1 if the losses are not equal.

    Example: `smolplan demo`
    """
    import os
    import signal
    import sys
    import time

    from launcher.compare import compare, seconds_to_decision, seconds_to_next_step
    from launcher.create import runs_folder
    from launcher.store import Store
    from preflight import runner
    from smolplan.cli import style
    from smolplan.cli.estimate import estimate
    from smolplan.cli.preflight_view import show
    from smolplan.cli.style import console, progress_line
    from smolplan.cli.terminal_curve import draw_curve
    from smolplan.errors import SmolplanError
    from smolplan.rundir import RunDir
    from smolplan.spec import load_preset

    began = time.monotonic()
    out, store = console(), Store()
    spec = load_preset("tiny-cpu")
    folder = runs_folder(spec, runs_dir)

    out.rule("1. How many GPUs for 3B parameters, 11T tokens, four weeks?", align="left")
    estimate(
        params="3B", tokens="11T", deadline="4w", gpu="h100", lost_hours="0", node_size=8,
        flops_formula="6nd", gpus=None, mfu=None, mfu_base=None, tokens_per_s_per_gpu=None,
        price=None, preset=None, model=None, explain=False, as_json=False,
    )  # fmt: skip

    out.rule("2. Is this machine fit?", align="left")
    with progress_line("Checking") as say:
        report = runner.run(spec, folder, tier="quick", on_start=lambda check: say(check.name))
    style.show(lambda out: show(report, out), narrow=False)
    if report.exit_code:
        raise SmolplanError("this machine is not fit for the demo; see above what to do")

    out.rule("3. Train with two ranks, undisturbed", align="left")
    calm = _launch(spec, store, folder)
    calm = _follow(store, calm, spec, "undisturbed")
    out.print(f"{calm.id}: {calm.state}")

    out.rule("4. The same again, and a rank is killed", align="left")
    run = _launch(spec, store, folder)
    killed: list[tuple[float, int]] = []

    def kill_once(step: int) -> None:
        beats = RunDir(run.path).read_heartbeats()
        if killed or step < KILL_AFTER_SHARE * spec.steps or 1 not in beats:
            return
        os.kill(beats[1].pid, signal.SIGKILL)
        killed.append((time.time(), step))

    run = _follow(store, run, spec, "disturbed", kill_once)
    directory = RunDir(run.path)
    result = compare(RunDir(calm.path), directory)
    if not killed:
        raise SmolplanError("the run ended before a rank could be killed; nothing was shown")
    fault_time, fault_step = killed[0]
    out.print(f"{run.id}: {run.state}")

    out.rule("What was shown", align="left")
    losses = [line["loss"] for line in directory.read_metrics()]
    for line in draw_curve(losses, marks={fault_step - 1: "✗"}):
        out.print(line)
    out.print(f"        loss over {len(losses)} steps; ✗ rank 1 killed after step {fault_step}")
    seen = seconds_to_decision(directory, fault_time)
    mended = seconds_to_next_step(directory, fault_time, 1)
    if seen is not None and mended is not None:
        out.print(
            f"seconds    kill to the monitor's decision {seen:.1f}, to the next step {mended:.1f}"
        )
    if result.equal:
        out.print(
            f"[green]equal[/]      {result.steps} losses, gradient norms and batches compared "
            f"with the\n           undisturbed run: equal bit for bit ({result.redone} steps done "
            f"again)"
        )
    else:
        out.print(f"[red]NOT EQUAL[/]  steps {list(result.different or result.missing)[:10]}")
    out.print(f"run        {run.path}", soft_wrap=True)
    out.print(f"took       {time.monotonic() - began:.0f} s")
    sys.exit(0 if result.equal and run.state == "finished" else 1)


def _launch(spec: "RunSpec", store: "Store", folder: Path) -> "Run":
    from launcher import control, create
    from smolplan.cli.style import progress_line

    with progress_line("Preparing the data") as say:
        run, attempt = create.create_run(spec, store, folder, monitored=True, on_progress=say)
    control.start(store, run, attempt, spec)
    return run


def _follow(
    store: "Store",
    run: "Run",
    spec: "RunSpec",
    title: str,
    on_step: Callable[[int], None] = lambda step: None,
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

        ended = control.await_end(store, run.id, 600, look)
    if ended.state != "finished":
        lines = "\n".join(last_log_lines(RunDir(run.path), store.attempts(run.id)[-1].number))
        raise SmolplanError(f"run {run.id} is {ended.state}: {ended.reason}\n{lines}")
    return ended


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
