"""The runs of an ablation: those that are finished in its folder, and those that are to be."""

from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from launcher import control
from launcher.store import Run, Store
from planner.ablation.result import Trained
from smolplan.cli.gate import check_before
from smolplan.cli.local_run import evaluation, follow, launch_here
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec

if TYPE_CHECKING:
    from collections.abc import Callable


class Runs:
    """Found by the hash of their specs, which names and seeds are part of."""

    def __init__(self, base: RunSpec, folder: Path, unchecked: str | None) -> None:
        """`unchecked`: why they are to start whatever preflight says (smolplan.cli.gate)."""
        self._base, self._folder, self._unchecked = base, folder, unchecked
        self._store = Store()

    @cached_property
    def _tell(self) -> "Callable[[RunDir], None]":
        """This machine is checked once, before the first run that is started. Raises
        SmolplanError if it is not fit."""
        return check_before(self._base, self._folder, self._unchecked)

    def earlier(self, spec: RunSpec) -> Run | None:
        """The newest run of a spec in the folder, a finished one if there is any."""
        digest = spec.content_hash()
        same = [
            run
            for run in self._store.runs()
            if run.spec_hash == digest and run.path.parent == self._folder and run.path.is_dir()
        ]
        return max(same, key=lambda run: (is_finished(run), run.created_at), default=None)

    def trained(self, spec: RunSpec, seed: int, title: str) -> Trained:
        """Of a spec's run: found as it was finished before, followed if it is at work, resumed if
        it was stopped or failed, or else started now. Raises SmolplanError if it does not
        finish."""
        run = self.earlier(spec)
        if run is None:
            run = launch_here(spec, self._store, self._folder, self._tell)
        elif run.state == "active":
            control.ensure_daemon(self._store)  # after a restart of the machine there is none
        elif not is_finished(run):
            control.resume(self._store, run, monitored=True)
        if not is_finished(run):
            run = follow(self._store, run, spec, title)
        lines = RunDir(run.path).read_metrics()
        return Trained(
            run=run.id,
            path=str(run.path),
            seed=seed,
            bits_per_byte=evaluation(run, spec)["bits_per_byte"],
            tokens_per_s=median(line["tokens_per_s"] for line in lines),
            batches=tuple(line["batch_checksum"] for line in lines),
        )


def is_finished(run: Run | None) -> bool:
    return run is not None and run.state == "finished"
