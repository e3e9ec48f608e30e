"""Starts what evaluates a run's checkpoints beside it."""

from launcher.helpers import Helpers
from smolplan.evaluations_due import due
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec


def start_evaluations(
    helpers: Helpers, run: RunDir, spec: RunSpec, *, is_over: bool = False
) -> None:
    """See to it that every checkpoint that is due is evaluated, one at a time. `is_over`: nobody
    will look again, so that the last one is not left to a later start."""
    if due(run, spec) and run.spec.exists():
        run.evals.mkdir(exist_ok=True)
        words = (
            ("monitor.evaluate_through", str(run.path))
            if spec.eval.through
            else ("trainer.evaluate", str(run.path), "--due")
        )
        helpers.start(*words, lock=run.evaluation_lock, output=run.evals / "log", at_once=is_over)
