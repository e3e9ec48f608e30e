"""Which checkpoints of a run are evaluated beside it (eval.every_steps), and are not yet."""

from pathlib import Path

from smolplan.rundir import MANIFEST, RunDir
from smolplan.spec import RunSpec


def due(run: RunDir, spec: RunSpec) -> tuple[int, ...]:
    """Steps whose checkpoints are here, newest first: should evaluations be slower than the run,
    the newest says most. One that was made anew since it was evaluated, behind a roll-back, is due
    again."""
    every = spec.eval.every_steps
    if every is None:
        return ()
    return tuple(
        step
        for step in reversed(run.saved_steps())
        if (step % every == 0 or step == spec.steps) and not _is_done(run, step)
    )


def _is_done(run: RunDir, step: int) -> bool:
    try:
        made = (run.checkpoint(step) / MANIFEST).stat().st_mtime_ns
    except OSError:
        return True  # removed meanwhile
    return any(_changed(path) >= made for path in (run.evaluation(step), run.unevaluable(step)))


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1
