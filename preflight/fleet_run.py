"""One preflight of all hosts at once: each checks itself, then they are compared, then come the
checks that need several."""

import json
import logging
import platform
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launcher.hosts.host import Trouble
from planner.plan import make_plan
from preflight import remote
from preflight.context import Context
from preflight.fleet import Answer, FleetContext
from preflight.once import ProbeError
from preflight.peers import judge
from preflight.reach import Reach
from preflight.registry import Check, Tier, of_each_host, select
from preflight.report import Report, Result
from preflight.runner import run_check, run_fleet_check
from smolplan.spec import RunSpec

log = logging.getLogger(__name__)

START_S = 60.0
"""Longest silence of a host before its first word: Python and our modules are read from storage
that all hosts ask at once."""

GRACE_S = 15.0
"""Beyond a check's deadline: to end what it has started, and to tell."""

REACHED = "host.reached"
"""Made whatever else is asked for: a host that says nothing must not look fit."""

INSTALL = "Install smolplan there, with the same Python packages as here, or set launch.python."


@dataclass(frozen=True)
class HostProgress:
    """How far a host is."""

    host: str
    done: int = 0
    of: int = 0
    running: str = ""
    """The check that it is at."""
    began: float = 0.0
    """By time.monotonic(); of that check."""
    results: tuple[Result, ...] = ()
    trouble: Trouble | None = None
    ended: bool = False


OnProgress = Callable[[Mapping[str, HostProgress]], None]


def run_fleet(
    spec: RunSpec,
    runs_dir: Path,
    reach: Reach,
    hosts: Sequence[str],
    *,
    addresses: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    tier: Tier = "standard",
    passive_only: bool = False,
    scripts: Sequence[Path] = (),
    on_start: Callable[[Check], None] = lambda check: None,
    on_progress: OnProgress = lambda hosts: None,
) -> Report:
    """Check `hosts` for a run of `spec` under `runs_dir`. A host that does not answer, or falls
    silent, is a result; the others go on. Raises UserError as `runner.run` does."""
    began, started_at = time.monotonic(), time.time()
    checks = [c for c in select(only, skip, tier) if c.passive or not passive_only]
    of_fleet = _always(REACHED, [c for c in checks if c.scope == "fleet"])
    plan, results = make_plan(spec), []
    context = Context(spec, plan, runs_dir.expanduser().absolute(), scripts=scripts)
    try:
        for check in checks:
            if check.scope == "host" and check.once:
                on_start(check)
                results.append(run_check(check, context))
    finally:
        context.close()
    of_host = of_each_host(checks)
    told = _of_hosts(spec, context.runs_dir, reach, hosts, of_host, on_progress)
    results += judge([r for host in told.values() for r in host.results], of_host)
    fleet = FleetContext(
        spec=spec,
        plan=plan,
        runs_dir=context.runs_dir,
        hosts=tuple(hosts),
        results=tuple(results),
        ask=_asker(reach, [host for host in hosts if told[host].trouble is None]),
        addresses=addresses or {},
        troubles={host: p.trouble for host, p in told.items() if p.trouble is not None},
        ping=_pinger(reach, [host for host in hosts if told[host].trouble is None]),
    )
    for check in of_fleet:
        on_start(check)
        found = run_fleet_check(check, fleet)
        results += found
        fleet = replace(fleet, results=tuple(results))
    order = {check.name: number for number, check in enumerate(checks, 1)} | {REACHED: 0}
    places = {host: number for number, host in enumerate(hosts)}
    return Report(
        spec_name=spec.name,
        spec_hash=spec.content_hash(),
        runs_dir=str(context.runs_dir),
        results=tuple(sorted(results, key=lambda r: (order[r.name], places.get(r.host, -1)))),
        seconds=time.monotonic() - began,
        hosts=tuple(hosts),
        tier=tier,
        started_at=started_at,
        made_on=platform.node(),
    )


def _always(name: str, chosen: list[Check]) -> list[Check]:
    from preflight.registry import all_checks

    (first,) = [c for c in all_checks() if c.name == name]
    return [first, *(c for c in chosen if c.name != name)]


def _of_hosts(
    spec: RunSpec,
    runs_dir: Path,
    reach: Reach,
    hosts: Sequence[str],
    checks: Sequence[Check],
    on_progress: OnProgress,
) -> dict[str, HostProgress]:
    """All hosts run their checks, at once. Waits no longer for a host than it may be silent."""
    watch = _Watch(hosts, checks)
    longest_s = START_S + sum(check.deadline_s + GRACE_S for check in checks)

    def argument(host: str) -> dict[str, Any]:
        asked = remote.request(spec, runs_dir, [c.name for c in checks], host)
        return {"argv": ["-m", "preflight.remote"], "python": True, "stdin": asked}

    def call() -> None:
        try:
            watch.ended(
                reach.call(
                    "run",
                    argument,
                    hosts=hosts,
                    timeout_s=longest_s,
                    on_answer=watch.answered,
                    on_note=watch.heard,
                )
            )
        except Exception as error:
            log.debug("asking the hosts broke", exc_info=True)
            watch.ended(dict.fromkeys(hosts, Trouble("remote", f"{type(error).__name__}: {error}")))

    threading.Thread(target=call, name="hosts", daemon=True).start()
    while not watch.settled():
        on_progress(watch.hosts)
        watch.changed.wait(0.25)
        watch.changed.clear()
    on_progress(watch.hosts)
    return dict(watch.hosts)


@dataclass
class _Watch:
    """What hosts have told so far; written by the threads that hear them."""

    names: Sequence[str]
    checks: Sequence[Check]
    hosts: dict[str, HostProgress] = field(default_factory=dict)
    changed: threading.Event = field(default_factory=threading.Event)
    heard_at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hosts = {name: HostProgress(name, of=len(self.checks)) for name in self.names}
        self.heard_at = dict.fromkeys(self.names, time.monotonic())
        self._deadlines = {check.name: check.deadline_s for check in self.checks}

    def heard(self, host: str, note: dict[str, Any]) -> None:
        try:
            event = json.loads(note["line"])
            result = Result.model_validate(event["result"]) if "result" in event else None
        except (ValueError, KeyError, TypeError):
            # Greetings of a login, warnings of a library.
            log.debug("%s said %r", host, note)
            return
        now, known = time.monotonic(), self.hosts[host]
        self.heard_at[host] = now
        if known.ended:
            return
        if result is not None:
            known = replace(known, results=(*known.results, result), done=known.done + 1)
        elif "starting" in event:
            known = replace(known, running=event["starting"], began=now)
        elif "done" in event:
            known = replace(known, ended=True, running="")
        self.hosts[host] = known
        self.changed.set()

    def answered(self, host: str, answer: Any) -> None:
        known = self.hosts[host]
        if not known.ended:
            self.hosts[host] = replace(known, ended=True, trouble=_trouble(answer))
        self.changed.set()

    def ended(self, answers: Mapping[str, Any]) -> None:
        for host in self.names:
            self.answered(host, answers.get(host))

    def settled(self) -> bool:
        """Whether no host is waited for any longer; those silent for too long are not."""
        now = time.monotonic()
        for host, known in self.hosts.items():
            allowed = START_S
            if known.running:
                allowed = self._deadlines.get(known.running, 0.0) + GRACE_S
            silent = now - self.heard_at[host]
            if not known.ended and silent > allowed:
                at = f"in {known.running}" if known.running else "before its first word"
                trouble = Trouble("timeout", f"silent for {silent:.0f} s, {at}")
                self.hosts[host] = replace(known, ended=True, trouble=trouble)
        return all(known.ended for known in self.hosts.values())


def _trouble(answer: Any) -> Trouble:
    """Why a host that was waited for did not come to its end."""
    if isinstance(answer, Trouble):
        return answer
    if not isinstance(answer, dict):
        return Trouble("garbled", "no answer")
    said = str(answer.get("stderr", "")).strip().rpartition("\n")[2]
    why = f"preflight ended there with exit code {answer.get('exit_code')}"
    lacking = "No module named" in said
    return Trouble("remote", f"{why}: {said}" if said else why, INSTALL if lacking else "")


def _asker(reach: Reach, live: Sequence[str]) -> Any:
    def ask(
        probe: str,
        arguments: Sequence[str] | Callable[[str], Sequence[str]] = (),
        *,
        hosts: Collection[str] | None = None,
        timeout_s: float,
    ) -> dict[str, Answer]:
        def argument(host: str) -> dict[str, Any]:
            given = arguments(host) if callable(arguments) else arguments
            argv = ["-m", f"preflight.probes.{probe}", *given]
            return {"argv": argv, "python": True, "stdin": ""}

        wanted = [host for host in live if hosts is None or host in hosts]
        told = reach.call("run", argument, hosts=wanted, timeout_s=timeout_s)
        return {host: _probed(told.get(host)) for host in wanted}

    return ask


def _probed(answer: Any) -> Answer:
    if isinstance(answer, Trouble):
        return ProbeError(answer.message, answer.remedy)
    try:
        found = json.loads(answer["stdout"])
    except (ValueError, KeyError, TypeError):
        found = None
    if answer["exit_code"] or not isinstance(found, dict):
        trouble = _trouble(answer)
        return ProbeError(trouble.message, trouble.remedy)
    return found


def _pinger(reach: Reach, live: Sequence[str]) -> Any:
    def ping(*, timeout_s: float) -> dict[str, Answer]:
        told = reach.call("ping", {}, hosts=live, timeout_s=timeout_s)
        return {
            host: ProbeError(answer.message, answer.remedy)
            if isinstance(answer, Trouble)
            else answer
            for host, answer in told.items()
        }

    return ping
