"""The backend for hosts that are reached by SSH: a supervisor on each, started over one connection.

The launcher says which host is which node and where they meet (attempts/K/placement.json), and
starts a supervisor on each host; from then on the attempt needs neither launcher nor SSH. Its
supervisors end by themselves once it has ended or a newer attempt has begun, so that a host that
cannot be reached does no harm.
"""

import base64
import hashlib
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from launcher.backends.base import NodeView, NotNow, Observation
from launcher.backends.prober import Prober
from launcher.environment import rank_environment
from launcher.forge.child import through_forge
from launcher.forge.start import forge_command
from launcher.host_faults import SUSPICIONS, offenders
from launcher.hosts.fleet import Answer, Fleet, fleet_of
from launcher.hosts.host import Host, Trouble
from launcher.hosts.inventory import inventory
from launcher.hosts.meeting import find_meeting
from launcher.outcome import end_from_outside, node_outcomes, read_exit
from launcher.placement import Placement, choose_hosts, read_placement, settle_placement
from launcher.store import Attempt, Store
from smolplan.errors import SmolplanError, UserError
from smolplan.rundir import RunDir, read_json
from smolplan.spec import RunSpec

log = logging.getLogger("launcher.ssh")

PING_S = 10.0
SPAWN_S = 30.0
WARM_S = 5.0
"""A spare that is slow to answer is not waited for: the run trains already."""
REPORT_WITHIN_S = 60.0
"""Many hosts load Python from one file server at a time."""

NOT_SENT = {"PYTHONPATH", "TMPDIR"}
"""Of the kept environment: on another host they would mean other folders."""

SILENCE = frozenset({"unreachable", "host.reached"})
"""Faults, the second preflight's name for it, that are over as soon as the host answers."""


class SshBackend:
    """See launcher.backends.base.Backend."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._fleet: Fleet | None = None
        self._hosts: Mapping[str, Host] = {}
        self._prober: Prober | None = None
        self._ending: dict[str, _Ending] = {}

    def render(
        self, spec: RunSpec, run: RunDir, attempt_number: int, *, checked: bool = True
    ) -> str:
        hosts = [host.name for host in inventory(spec, os.environ)]
        nodes = spec.cluster.nodes
        lines = [
            f"# One supervisor a host, over SSH, once each host has smolplan's code ({nodes} of "
            f"{len(hosts)} hosts; the others are spares)"
        ]
        settings = [f"{k}={shlex.quote(v)}" for k, v in rank_environment(spec, "…").items()]
        for node, host in enumerate(hosts[:nodes]):
            argv = shlex.join([_python(spec), *_supervisor(run, attempt_number, node)])
            lines.append(f"{shlex.quote(host)}: {' '.join(settings)} {argv}")
        return "\n".join(lines)

    def request(
        self, spec: RunSpec, run: RunDir, attempt_number: int, *, checked: bool = True
    ) -> dict[str, object]:
        hosts = [host.name for host in inventory(spec, os.environ)]
        nodes = spec.cluster.nodes
        return {
            "commands": {
                host: [_python(spec), *_supervisor(run, attempt_number, node)]
                for node, host in enumerate(hosts[:nodes])
            },
            "environment": rank_environment(spec, "…"),
            "spares": hosts[nodes:],
        }

    def submit(
        self,
        spec: RunSpec,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Doing it twice starts one: the hosts stay those that were chosen the first time, and a
        second supervisor of a node ends at once."""
        number = attempt.number
        if not run.spec.exists():
            raise UserError(f"cannot start attempt {number}: its folder is gone", where=str(run))
        try:
            run.begin_attempt(number)
            placement = read_placement(run, number)
            if placement is None:
                chosen = self._place(spec, run, number, on_progress)
                placement = settle_placement(run, number, chosen)
        except OSError as error:
            raise UserError(
                f"cannot start attempt {number}: {error.strerror}", where=str(run.attempt(number))
            ) from None
        self._spawn(spec, run, attempt, placement, on_progress)
        self._warm_spares(spec, run, placement)

    def _place(
        self, spec: RunSpec, run: RunDir, number: int, on_progress: Callable[[str], None]
    ) -> Placement:
        """Which hosts, of those that answer, and where they meet. Raises UserError; NotNow where a
        run that went before only has to wait for hosts to answer."""
        fleet, nodes = self._reach(), spec.cluster.nodes
        answers = fleet.call("ping", timeout_s=PING_S, on_answer=_counting(fleet, on_progress))
        silent = {host: told for host, told in answers.items() if isinstance(told, Trouble)}
        with closing(Store()) as store:
            _keep_record(store, run, number, answers)
            faults = [f for f in store.host_faults(standing=True) if f.kind not in SILENCE]
            often = offenders(store.host_faults(), store.gpus_of_hosts(), time.time())
        # A host that fails often is chosen where no other is left.
        names = sorted(fleet.hosts, key=lambda host: host in often)
        before = next(
            (p.hosts for k in range(number - 1, 0, -1) if (p := read_placement(run, k))), ()
        )
        certain = {f.host for f in faults if f.kind not in SUSPICIONS} | set(silent)
        try:
            try:
                left_out = certain | {f.host for f in faults}
                hosts = choose_hosts(names, nodes, left_out=left_out, before=before)
            except UserError:
                hosts = choose_hosts(names, nodes, left_out=certain, before=before)
        except UserError as error:
            for host, trouble in silent.items():
                on_progress(f"{host}: {trouble.message}")
            first = next(iter(silent.items()), None)
            why = f"; {first[0]}: {first[1].message}" if first else ""
            if silent and number > 1:
                raise NotNow(f"{error.what}{why}") from None
            remedy = (first[1].remedy if first else "") or error.remedy
            raise UserError(f"{error.what}{why}", where=error.where, remedy=remedy) from None
        for node, host in enumerate(before or names[:nodes]):
            if host not in hosts:
                why = silent[host].message if host in silent else "left out after a fault"
                on_progress(f"{host}: {why}; a spare takes its place")
                run.record("host_replaced", "launcher", host=host, by=hosts[node], reason=why)
        address, port = "127.0.0.1", spec.launch.rendezvous_port
        if nodes > 1:
            address, port = find_meeting(
                fleet,
                hosts,
                preferred=self._hosts[hosts[0]].target,
                interface=spec.launch.environment.get("GLOO_SOCKET_IFNAME")
                or spec.launch.environment.get("NCCL_SOCKET_IFNAME", ""),
                port=port,
            )
        return Placement(hosts, spec.cluster.gpus_per_node, address, port)

    def _spawn(
        self,
        spec: RunSpec,
        run: RunDir,
        attempt: Attempt,
        placement: Placement,
        on_progress: Callable[[str], None],
    ) -> None:
        """Raises SmolplanError that names the host."""
        fleet = self._reach()
        self._see_folder(fleet, run, placement.hosts)
        environment = _environment(spec, run, attempt.token)
        logs = run.attempt(attempt.number) / "logs"
        node_of = {host: node for node, host in enumerate(placement.hosts)}

        def arguments(host: str) -> dict[str, Any]:
            return {
                "argv": _forged(run, attempt.number, node_of[host]),
                "python": True,
                "env": environment,
                "output": str(logs / f"supervisor-{node_of[host]}.log"),
            }

        answers = fleet.call(
            "spawn",
            arguments,
            hosts=placement.hosts,
            timeout_s=SPAWN_S,
            on_answer=lambda host, told: on_progress(
                f"{host}: {told.message if isinstance(told, Trouble) else 'started'}"
            ),
        )
        _raise_for(answers, f"attempt {attempt.number} cannot be started")

    def _warm_spares(self, spec: RunSpec, run: RunDir, placement: Placement) -> None:
        """Have a forge on each host that may be next, so that ranks start there as fast as on one
        that had them before. What a spare answers, or that it does not, changes nothing."""
        fleet = self._reach()
        if spares := [host for host in fleet.hosts if host not in placement.hosts]:
            asked = {
                "argv": [*forge_command(run)[1:], "--spare"],
                "python": True,
                "env": _environment(spec, run, ""),
            }
            fleet.call("spawn", asked, hosts=spares, timeout_s=WARM_S)

    def _see_folder(self, fleet: Fleet, run: RunDir, hosts: Sequence[str]) -> None:
        """Raises UserError if a host does not have this very run folder before it."""
        answers = fleet.call("get", {"path": str(run.spec)}, hosts=hosts, timeout_s=PING_S)
        own = hashlib.sha256(run.spec.read_bytes()).digest()
        for host, told in answers.items():
            seen = None if isinstance(told, Trouble) else base64.b64decode(told["base64"])
            if seen is None or hashlib.sha256(seen).digest() != own:
                why = told.message if isinstance(told, Trouble) else "another folder is there"
                raise UserError(
                    f"{host} does not see the run folder {run}: {why}",
                    where="launch.runs_dir",
                    remedy="Name a folder that every host has mounted at the same place.",
                )

    def await_report(
        self,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        placement = read_placement(run, attempt.number)
        hosts = placement.hosts if placement else ()
        missing = dict(enumerate(hosts))
        deadline = time.monotonic() + REPORT_WITHIN_S
        while missing and read_exit(run, attempt.number, attempt.token) is None:
            for node in [n for n in missing if run.node(attempt.number, n).exists()]:
                host = missing.pop(node)
                on_progress(f"{host}: runs ({len(hosts) - len(missing)} of {len(hosts)})")
            if missing and time.monotonic() > deadline:
                logs = run.attempt(attempt.number) / "logs"
                node, host = next(iter(missing.items()))
                raise SmolplanError(
                    f"{', '.join(missing.values())} {'does' if len(missing) == 1 else 'do'} not "
                    f"report in attempt {attempt.number}; see {logs / f'supervisor-{node}.log'}"
                )
            time.sleep(0.02)

    def observe(self, run: RunDir, attempt: Attempt) -> Observation:
        placement = read_placement(run, attempt.number)
        if placement is None:
            return Observation(submitted=False)
        prober = self._prober
        if prober is None or prober.attempt != attempt.number:
            if read_exit(run, attempt.number, attempt.token) is not None:
                # It is over: no host is asked anew.
                nodes = enumerate(placement.hosts)
                return Observation(tuple(NodeView(node, host, None) for node, host in nodes))
            if prober:
                prober.stop()
            try:
                fleet = self._reach()
            except SmolplanError as error:
                nodes = enumerate(placement.hosts)
                return Observation(tuple(NodeView(n, h, None, str(error), 1) for n, h in nodes))
            settings = self._spec.monitor
            prober = Prober(
                fleet,
                run,
                attempt.number,
                placement,
                every_s=settings.poll_s,
                missed_within_s=settings.host_timeout_s,
            )
            self._prober = prober
        views = prober.views()
        gone = [view.node for view in views if view.alive is False]
        # One that has said how it ended is through, however long the others take.
        through = node_outcomes(run, attempt.number, attempt.token, gone) if gone else {}
        return Observation(
            tuple(replace(view, alive=None) if view.node in through else view for view in views)
        )

    def end(self, run: RunDir, attempt: Attempt, why: str, *, timeout_s: float = 30.0) -> bool:
        """Where a host does not answer, its supervisor reads that the attempt has ended, and ends
        its ranks by itself; they could write nothing that counts."""
        number = attempt.number
        end_from_outside(run, number, attempt.token, why)
        placement = read_placement(run, number)
        if placement is None:
            return True
        if attempt.token not in self._ending:
            silent = self._prober.silent() if self._prober else frozenset()
            try:
                fleet = self._reach()
            except SmolplanError as error:
                log.error("attempt %d of %s: %s", number, run, error)
                return False
            self._ending[attempt.token] = _Ending(fleet, attempt.token, placement.hosts, silent)
        ending = self._ending[attempt.token]
        if not ending.done(timeout_s):
            return False
        del self._ending[attempt.token]
        return not ending.resisting

    def close(self) -> None:
        with self._lock:
            if self._prober:
                self._prober.stop()
            if self._fleet:
                self._fleet.close()
            self._fleet = None

    def _reach(self) -> Fleet:
        """Raises UserError."""
        with self._lock:
            if self._fleet is None:
                hosts = inventory(self._spec, os.environ)
                self._hosts = {host.name: host for host in hosts}
                self._fleet = fleet_of(self._spec, hosts)
            return self._fleet


class _Ending:
    """Has the hosts of an attempt end its processes, without anybody waiting for a dead host."""

    def __init__(
        self, fleet: Fleet, token: str, hosts: Sequence[str], silent: frozenset[str]
    ) -> None:
        self.resisting: set[str] = set()
        """Hosts on which some processes do not die."""
        self._waiting = threading.Condition()
        self._open = set(hosts) - silent
        threading.Thread(target=self._go, args=(fleet, token, hosts), daemon=True).start()

    def done(self, timeout_s: float) -> bool:
        """Whether every host that is known to listen has answered, or been found not to."""
        with self._waiting:
            return self._waiting.wait_for(lambda: not self._open, timeout_s)

    def _go(self, fleet: Fleet, token: str, hosts: Sequence[str]) -> None:
        asked = {"token": token, "timeout_s": 20.0}
        fleet.call("kill", asked, hosts=hosts, timeout_s=25.0, on_answer=self._take)

    def _take(self, host: str, answer: Answer) -> None:
        with self._waiting:
            if not isinstance(answer, Trouble) and not answer["ended"]:
                self.resisting.add(host)
            self._open.discard(host)
            self._waiting.notify_all()


def _python(spec: RunSpec) -> str:
    return str(spec.launch.python or sys.executable)


def _supervisor(run: RunDir, attempt: int, node: int) -> list[str]:
    module = ["-P", "-m", "launcher.supervisor"]
    return [*module, str(run.path), str(attempt), "--node", str(node)]


def _environment(spec: RunSpec, run: RunDir, token: str) -> dict[str, str]:
    """Of what is started on a host, beyond what it has itself."""
    kept = read_json(run.environment) or {}
    sent = {name: str(value) for name, value in kept.items() if name not in NOT_SENT}
    return {**sent, **rank_environment(spec, token)}


def _forged(run: RunDir, attempt: int, node: int) -> list[str]:
    """The same, in milliseconds where an earlier attempt has left a forge on the host."""
    _, _, module, *arguments = _supervisor(run, attempt, node)
    return through_forge(run.path, module, *arguments)[1:]


def _counting(fleet: Fleet, on_progress: Callable[[str], None]) -> Callable[[str, Answer], None]:
    total, answered = len(fleet.hosts), 0

    def count(host: str, answer: Answer) -> None:
        nonlocal answered
        answered += 1
        said = answer.message if isinstance(answer, Trouble) else "answers"
        on_progress(f"{host}: {said} ({answered} of {total})")

    return count


def _keep_record(store: Store, run: RunDir, number: int, answers: Mapping[str, Answer]) -> None:
    """Hosts that do not answer are remembered, though they count again as soon as they do."""
    standing = {f.host for f in store.host_faults(standing=True) if f.kind in SILENCE}
    for host, answer in answers.items():
        if isinstance(answer, Trouble) and host not in standing:
            store.blame_host(
                host, "unreachable", answer.message, run_id=run.path.name, attempt=number
            )
            run.record("host_unreachable", "launcher", host=host, reason=answer.message)
        elif not isinstance(answer, Trouble) and host in standing:
            store.clear_host(host, "it answers again", kinds=SILENCE)


def _raise_for(answers: Mapping[str, Answer], what: str) -> None:
    for host, told in answers.items():
        if isinstance(told, Trouble):
            raise SmolplanError(f"{what}: {host}: {told.message}")
