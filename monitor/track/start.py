"""Starts what tells trackers of a run."""

from launcher.helpers import Helpers
from monitor.track.follow import is_behind
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec


def start_trackers(helpers: Helpers, run: RunDir, spec: RunSpec) -> None:
    """See to it that every tracker of the spec is told what is new."""
    for tracker in spec.log.trackers:
        record = run.tracking(tracker)
        if run.spec.exists() and is_behind(run, tracker):
            record.parent.mkdir(exist_ok=True)
            lock, output = record.with_suffix(".lock"), record.with_suffix(".log")
            words = ("monitor.track", str(run.path), tracker)
            helpers.start(*words, lock=lock, output=output)
