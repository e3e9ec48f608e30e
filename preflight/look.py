"""One preflight or several, of this machine or of all hosts, compared with earlier ones."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from launcher.store import Store
from preflight import history, runner
from preflight.fleet_run import OnProgress, run_fleet
from preflight.host_record import put_on_record
from preflight.registry import Check, Tier, select
from preflight.report import Report
from preflight.targets import targets
from smolplan.spec import RunSpec

OnStart = Callable[[Check, int, int], None]
"""The check that begins, its number, and how many there are."""


class Look:
    """What is looked at and how; to be closed, so that nothing is left running on a host."""

    def __init__(
        self,
        spec: RunSpec,
        runs_dir: Path,
        *,
        only: Sequence[str] = (),
        skip: Sequence[str] = (),
        tier: Tier = "standard",
        passive_only: bool = False,
        hosts: Sequence[str] = (),
        here: bool = False,
        scripts: Sequence[Path] = (),
    ) -> None:
        """Raises UserError for hosts that cannot be told, and for checks that there are not."""
        self.spec, self.runs_dir = spec, runs_dir
        self._only, self._skip, self._tier = only, skip, tier
        self._passive_only, self._scripts = passive_only, scripts
        self.targets = None if here else targets(spec, os.environ, hosts)
        self.checks = [c for c in select(only, skip, tier) if c.passive or not passive_only]
        if self.targets is None:
            self.checks = [c for c in self.checks if c.scope == "host"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.targets is not None:
            self.targets.reach.close()

    def report(
        self,
        *,
        on_start: OnStart = lambda check, number, of: None,
        on_progress: OnProgress = lambda hosts: None,
    ) -> Report:
        """What is found now; a figure worse than the same host had earlier is a warning."""
        started = 0

        def start(check: Check) -> None:
            nonlocal started
            started += 1
            on_start(check, started, len(self.checks))

        if self.targets is None:
            report = runner.run(
                self.spec,
                self.runs_dir,
                only=self._only,
                skip=self._skip,
                tier=self._tier,
                passive_only=self._passive_only,
                scripts=self._scripts,
                on_start=start,
            )
        else:
            report = run_fleet(
                self.spec,
                self.runs_dir,
                self.targets.reach,
                self.targets.hosts,
                addresses=self.targets.addresses,
                only=self._only,
                skip=self._skip,
                tier=self._tier,
                passive_only=self._passive_only,
                scripts=self._scripts,
                on_start=start,
                on_progress=on_progress,
            )
        return history.compare(report, self.checks, history.reports(self.spec.name))

    def keep(self, report: Report) -> None:
        """For `--last`, for the comparison with later ones, and for the launch to ask; and on the
        hosts' own record. Raises SmolplanError if the record cannot be written."""
        history.keep(report)
        with closing(Store()) as store:
            put_on_record(store, report)
