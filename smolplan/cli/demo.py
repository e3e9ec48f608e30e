"""smolplan demo: from the question to a run that loses a rank and mends itself."""

from smolplan.cli.runs_dir import RunsDir
from smolplan.units import count_of

KILL_AFTER_SHARE = 0.4

LONGEST_S = 600.0
"""Of one of its runs."""


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
    from smolplan.cli.local_run import follow, launch_here
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
    calm = launch_here(spec, store, folder)
    calm = follow(store, calm, spec, "undisturbed", timeout_s=LONGEST_S)
    out.print(f"{calm.id}: {calm.state}")

    out.rule("4. The same again, and a rank is killed", align="left")
    run = launch_here(spec, store, folder)
    killed: list[tuple[float, int]] = []

    def kill_once(step: int) -> None:
        beats = RunDir(run.path).read_heartbeats()
        if killed or step < KILL_AFTER_SHARE * spec.steps or 1 not in beats:
            return
        os.kill(beats[1].pid, signal.SIGKILL)
        killed.append((time.time(), step))

    run = follow(store, run, spec, "disturbed", kill_once, LONGEST_S)
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
            f"with the\n           undisturbed run: equal bit for bit ("
            f"{count_of(result.redone, 'step')} done again)"
        )
    else:
        out.print(f"[red]NOT EQUAL[/]  steps {list(result.different or result.missing)[:10]}")
    out.print(f"run        {run.path}", soft_wrap=True)
    out.print(f"took       {time.monotonic() - began:.0f} s")
    sys.exit(0 if result.equal and run.state == "finished" else 1)
