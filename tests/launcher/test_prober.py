"""Whether hosts answer, told before the last of them has."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from launcher.backends.prober import Prober
from launcher.hosts.fleet import Fleet
from launcher.placement import Placement
from smolplan.rundir import RunDir
from tests.support import wait_until


class DeafFleet:
    """node2 answers once, and then no more before it is let."""

    def __init__(self) -> None:
        self.rounds = 0
        self.let = threading.Event()

    def call(
        self, name: str, arguments: Any, *, on_answer: Callable[[str, Any], None], **_: Any
    ) -> None:
        self.rounds += 1
        on_answer("node1", {"alive": {"a": True}})
        if self.rounds > 1:
            self.let.wait()
        on_answer("node2", {"alive": {"b": True}})


def silent(prober: Prober) -> Sequence[str]:
    return [view.host for view in prober.views() if view.silent_s > 0]


def test_a_host_that_others_have_outrun_with_their_answers_is_silent_until_it_answers(
    tmp_path: Path,
) -> None:
    fleet, placement = DeafFleet(), Placement(("node1", "node2"), 1)
    prober = Prober(
        cast(Fleet, fleet), RunDir(tmp_path), 1, placement, every_s=0.2, missed_within_s=30.0
    )
    try:
        wait_until(lambda: silent(prober) == ["node2"])
        assert not any(view.probes_failed for view in prober.views())
        fleet.let.set()
        wait_until(lambda: silent(prober) == [])
    finally:
        fleet.let.set()
        prober.stop()
