"""What a status tells of a run beyond its last records: where its time went, when it may end."""

from dataclasses import dataclass
from typing import Any

from launcher.store import Run, Store
from planner.outlook import Outlook
from smolplan.errors import UserError
from smolplan.rundir import RunDir

MOST_BYTES = 16 << 20
"""Of metrics that a status reads, within a second or so; a longer run's `smolplan estimate --from`
takes its time."""


@dataclass(frozen=True)
class Insight:
    goodput: float
    wall_s: float
    outlook: Outlook | None
    """None where the run is over, or too young."""

    def to_json(self) -> dict[str, Any]:
        from smolplan.cli.estimate_run import eta_json

        eta = None if self.outlook is None else eta_json(self.outlook)
        return {"goodput": self.goodput, "eta_interval_s": eta}


def insight_of(store: Store, run: Run) -> Insight | None:
    """None where nothing is on record, or more than can be read at once."""
    from monitor.story import read_story
    from smolplan.cli.estimate_run import outlook_of

    directory = RunDir(run.path)
    try:
        if directory.metrics.stat().st_size > MOST_BYTES:
            return None
        story = read_story(store, run)
    except (OSError, UserError):  # the status itself tells what is wrong
        return None
    outlook = None
    if run.state == "active":
        try:
            outlook = outlook_of(story)
        except UserError:
            outlook = None
    return Insight(story.goodput.ratio, story.goodput.wall_s, outlook)
