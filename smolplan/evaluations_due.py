"""Which checkpoints of a run are evaluated beside it (eval.every_steps), and are not yet."""

from pathlib import Path

from smolplan.checksums import checksum, text_in
from smolplan.rundir import RunDir
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
    made = checksum(run, step) or ""
    return any(_is_of(path, made) for path in (run.evaluation(step), run.unevaluable(step)))


def _is_of(score: Path, made: str) -> bool:
    """Whether it is there, and of that checkpoint; one of a tool of the user's, or written before
    scores told, does not say."""
    try:
        return text_in(score, "checkpoint") in (None, made)
    except OSError:
        return False
