"""Asks the hosts of an attempt, over and over, whether its supervisors live, so that whoever wants
to know need not wait for a host that does not answer."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from launcher.backends.base import NodeView
from launcher.hosts.fleet import Answer, Fleet
from launcher.hosts.host import Trouble
from launcher.placement import Placement
from smolplan.rundir import RunDir, read_json

QUICKEST_S = 0.2
"""Between two rounds, however often the run is looked at. A rank that ends is told of by its own
node, through the run directory, at once; what is to be found here is a host or a supervisor that
vanished."""

ANSWER_S = 5.0
"""For one answer: a host that trains is busy, not deaf. Less where a host is to be missed sooner,
since only several answers that did not come tell that it is lost."""

FIRST_LOOK_S = 3.0


class Prober:
    """One attempt's."""

    def __init__(
        self,
        fleet: Fleet,
        run: RunDir,
        attempt: int,
        placement: Placement,
        *,
        every_s: float,
        missed_within_s: float,
    ) -> None:
        self._fleet, self._run, self._attempt = fleet, run, attempt
        self._placement, self._every_s = placement, max(QUICKEST_S, every_s)
        self._answer_s = min(ANSWER_S, missed_within_s / 2)
        self._views = {
            node: NodeView(node, host, None) for node, host in enumerate(placement.hosts)
        }
        self._asked_at_s = time.monotonic()
        self._answered_at_s = dict.fromkeys(self._views, self._asked_at_s)
        self._stopping, self._looked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    @property
    def attempt(self) -> int:
        return self._attempt

    def views(self) -> tuple[NodeView, ...]:
        """How the nodes stand, as of the last answers. The first time it waits for some. One that
        has yet to answer is silent since it last did."""
        self._looked.wait(FIRST_LOOK_S)
        now_s = time.monotonic()
        return tuple(
            replace(view, silent_s=now_s - self._answered_at_s[node])
            if self._answered_at_s[node] < self._asked_at_s
            else view
            for node, view in sorted(self._views.items())
        )

    def silent(self) -> frozenset[str]:
        """Hosts whose last probe failed."""
        return frozenset(view.host for view in self._views.values() if view.probes_failed)

    def stop(self) -> None:
        self._stopping.set()

    def _go(self) -> None:
        node_of = {host: node for node, host in enumerate(self._placement.hosts)}
        while not self._stopping.is_set():
            names = self._supervisors()
            self._asked_at_s = time.monotonic()
            self._fleet.call(
                "alive",
                lambda host, names=names: {"names": names[node_of[host]]},  # type: ignore[misc]
                hosts=self._placement.hosts,
                timeout_s=self._answer_s,
                on_answer=lambda host, answer: self._take(node_of[host], answer),
            )
            self._looked.set()
            self._stopping.wait(self._every_s)

    def _supervisors(self) -> Mapping[int, list[str]]:
        """The names of the nodes' supervisors, as far as these have reported."""
        reports = {node: read_json(self._run.node(self._attempt, node)) for node in self._views}
        return {node: [str(told["supervisor"])] if told else [] for node, told in reports.items()}

    def _take(self, node: int, answer: Answer) -> None:
        before, now_s = self._views[node], time.monotonic()
        if isinstance(answer, Trouble):
            self._views[node] = NodeView(
                node,
                before.host,
                None,
                answer.message,
                before.probes_failed + 1,
                now_s - self._answered_at_s[node],
            )
            return
        self._answered_at_s[node] = now_s
        alive: bool | None = next(iter(answer["alive"].values()), None)
        self._views[node] = NodeView(node, before.host, alive)
