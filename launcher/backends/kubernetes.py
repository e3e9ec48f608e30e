"""The backend for a Kubernetes cluster: an attempt is a JobSet, or Kubeflow's TrainJob, and its
nodes are pods, one on a host.

Kubernetes starts and ends pods and says why; what comes after an attempt is the monitor's to
decide, and a restart is a new object. docs/kubernetes.md tells which cause is whose.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

from launcher.backends.base import NodeView, NotNow, Observation
from launcher.kubernetes.judge import Seen, judge
from launcher.kubernetes.kubectl import KubectlError, Refused, current_context
from launcher.kubernetes.looks import Looks, cluster_of, find
from launcher.kubernetes.manifest import (
    PORT,
    RESOURCES,
    meeting_address,
    name_of,
    objects,
    pod_host,
    to_yaml,
)
from launcher.kubernetes.pod import checked
from launcher.kubernetes.record import KubernetesRecord, read_record, write_record
from launcher.kubernetes.state import Pod
from launcher.outcome import end_from_outside, node_outcomes, read_exit
from launcher.placement import Placement, read_placement, write_placement
from launcher.slurm.nodes import blamed
from launcher.store import Attempt, Store
from smolplan.errors import UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec

log = logging.getLogger("launcher.kubernetes")

PATIENCE_S = 10.0
"""How a node ended is written to a network file system, and may be seen here somewhat later than
the pod's end is. From memory: NFS looks anew for a name that it did not find within seconds."""

PROBES = 3
"""As many as the monitor asks for (monitor.detect.dead): the node controller has waited longer."""

END_ANSWER_S = 8.0
"""For one answer while an attempt is ended: the monitor has other runs to see to."""


class KubernetesBackend:
    """See launcher.backends.base.Backend."""

    def __init__(self) -> None:
        self._looks: dict[str, Looks] = {}
        """By token."""
        self._silent_since_s: dict[str, float] = {}
        """By host."""
        self._over_since_s: dict[str, float] = {}
        """By pod."""

    def render(
        self, spec: RunSpec, run: RunDir, attempt_number: int, *, checked: bool = True
    ) -> str:
        return to_yaml(self._objects(spec, run, attempt_number, "…", checked)).rstrip()

    def request(
        self, spec: RunSpec, run: RunDir, attempt_number: int, *, checked: bool = True
    ) -> dict[str, object]:
        return {"objects": self._objects(spec, run, attempt_number, "…", checked)}

    def _objects(
        self, spec: RunSpec, run: RunDir, number: int, token: str, checked: bool
    ) -> list[dict[str, Any]]:
        return objects(spec, run, number, token, left_out=_left_out(run), check=checked)

    def submit(
        self,
        spec: RunSpec,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Doing it twice creates one object: the API server takes a name once."""
        number = attempt.number
        record = read_record(run, number)
        if record is not None and record.created:
            return
        if not run.spec.exists():
            raise UserError(f"cannot start attempt {number}: its folder is gone", where=str(run))
        checked = not run.unchecked.exists()
        manifests = self._objects(spec, run, number, attempt.token, checked)
        record = record or _record(spec, run, attempt)
        try:
            run.begin_attempt(number)
            if read_placement(run, number) is None:
                write_placement(run, number, _placement(spec, record.name))
            write_record(run, number, record)
            _create(record, manifests)
            write_record(run, number, record.taken())
        except OSError as error:
            raise UserError(
                f"cannot start attempt {number}: {error.strerror}", where=str(run.attempt(number))
            ) from None

    def await_report(
        self,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Pods may wait for room until tomorrow: that the object was taken is all to wait for."""

    def observe(self, run: RunDir, attempt: Attempt) -> Observation:
        number, token = attempt.number, attempt.token
        record = read_record(run, number)
        if record is None or not record.created:
            return Observation(submitted=False)
        placement = read_placement(run, number)
        hosts = placement.hosts if placement else (pod_host(record.name, 0),)
        ended = read_exit(run, number, token)  # before the look: it is written before a pod ends
        yielded = run.yield_request(number).exists()
        if token not in self._looks:
            self._looks[token] = Looks(record)
        looks = self._looks[token]
        look = looks.fresh() if yielded and ended is not None else looks.last()
        if look is None:
            return Observation(settling="how its pods ended is asked for")
        if look.trouble:
            silent_s = time.monotonic() - look.answered_s
            return Observation(
                tuple(
                    NodeView(node, host, None, look.trouble, look.failed, silent_s)
                    for node, host in enumerate(hosts)
                )
            )
        pods = look.pods
        if placement is not None:
            _name_hosts(run, number, placement, pods)
        seen = judge(
            Seen(
                what=f"{record.kind} {record.name}",
                hosts=hosts,
                job=look.job,
                pods=pods,
                exit=ended,
                reported=frozenset(node_outcomes(run, number, token, range(len(hosts)))),
                yielded=yielded,
                now=time.time(),
                disruption=look.disruption,
                patient=self._patient(pods),
            )
        )
        return replace(seen, nodes=tuple(self._with_probes(node) for node in seen.nodes))

    def _with_probes(self, node: NodeView) -> NodeView:
        """Kubernetes' own probes, every 10 s (kubelet's node status), have failed for some time
        when it says that it has lost touch."""
        if not node.trouble:
            self._silent_since_s.pop(node.host, None)
            return node
        since_s = self._silent_since_s.setdefault(node.host, time.monotonic())
        return replace(node, probes_failed=PROBES, silent_s=time.monotonic() - since_s)

    def _patient(self, pods: dict[int, Pod]) -> bool:
        """Whether some pod has ended only just now."""
        now_s = time.monotonic()
        since_s = [self._over_since_s.setdefault(p.name, now_s) for p in pods.values() if p.over]
        return any(now_s - then_s < PATIENCE_S for then_s in since_s)

    def end(self, run: RunDir, attempt: Attempt, why: str, *, timeout_s: float = 30.0) -> bool:
        """A pod on a host that does not answer stays for ever; once that host is back, its
        supervisor finds that the attempt has ended."""
        number = attempt.number
        end_from_outside(run, number, attempt.token, why)
        record = read_record(run, number)
        if record is None:
            return True
        deadline = time.monotonic() + timeout_s
        try:
            cluster_of(record).delete(_names(record), timeout_s=END_ANSWER_S)
            while not _is_gone(*find(record, timeout_s=END_ANSWER_S)):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.5)
        except (KubectlError, UserError) as error:
            log.error("attempt %d of %s: %s", number, run, error)
            # Where the API server never said that it took it, the end on record is enough: a pod
            # that starts all the same finds it.
            return not record.created
        self.close()
        return True

    def close(self) -> None:
        for looks in self._looks.values():
            looks.stop()
        self._looks.clear()


def _record(spec: RunSpec, run: RunDir, attempt: Attempt) -> KubernetesRecord:
    """In the cluster of the attempt before: somebody may have changed the current context."""
    settings = checked(spec, run)
    before = next(
        filter(None, (read_record(run, n) for n in range(attempt.number - 1, 0, -1))), None
    )
    kubeconfig = before.kubeconfig if before else os.environ.get("KUBECONFIG", "")
    context = before.context if before else settings.context or current_context(kubeconfig)
    return KubernetesRecord(
        token=attempt.token,
        kind=settings.kind,
        name=name_of(run, attempt.number, spec.cluster.nodes),
        namespace=settings.namespace,
        context=context,
        kubeconfig=kubeconfig,
    )


def _placement(spec: RunSpec, name: str) -> Placement:
    nodes, port = spec.cluster.nodes, spec.launch.rendezvous_port
    return Placement(
        hosts=tuple(pod_host(name, node) for node in range(nodes)),
        ranks_per_node=spec.cluster.gpus_per_node,
        address="127.0.0.1" if nodes == 1 else meeting_address(name),
        port=port or (0 if nodes == 1 else PORT),
    )


def _name_hosts(run: RunDir, attempt: int, placement: Placement, pods: dict[int, Pod]) -> None:
    """Put on record which host is which node, once all pods have one: hosts are what faults are
    remembered by."""
    hosts = tuple(pods[n].host if n in pods else "" for n in range(len(placement.hosts)))
    if all(hosts) and hosts != placement.hosts:
        try:
            write_placement(run, attempt, replace(placement, hosts=hosts))
        except OSError as error:
            log.error("%s: %s", run.placement(attempt), error.strerror)


def _create(record: KubernetesRecord, manifests: list[dict[str, Any]]) -> None:
    """Raises UserError, and NotNow while the API server does not answer."""
    try:
        try:
            cluster_of(record).create(manifests)
        except Refused as error:
            taken = "AlreadyExists" in str(error)
            if not taken or find(record)[0] is None:
                raise UserError(
                    f"the cluster takes no such {record.kind}: {error}",
                    where="launch.kubernetes",
                    remedy=_remedy(record, str(error)),
                ) from None
    except KubectlError as error:
        raise NotNow(f"Kubernetes does not answer: {error}") from None


def _remedy(record: KubernetesRecord, refusal: str) -> str:
    if "AlreadyExists" in refusal:
        return f"Another's object has this name; see: kubectl get {RESOURCES[record.kind]}"
    if "no matches for kind" in refusal or "doesn't have a resource type" in refusal:
        return f"Have {record.kind} installed in the cluster (docs/kubernetes.md)."
    if "forbidden" in refusal:
        return "Have the rights in docs/kubernetes.md granted to you."
    return "See what is sent by: smolplan launch SPEC --dry-run"


def _names(record: KubernetesRecord) -> list[str]:
    kinds = ["trainjob", "runtime"] if record.kind == "trainjob" else ["jobset"]
    return [f"{RESOURCES[kind]}/{record.name}" for kind in kinds]


def _is_gone(job: dict[str, Any] | None, pods: dict[int, Pod]) -> bool:
    """No process is left, or those that are left are out of reach and end by themselves."""
    stays = job is not None and "deletionTimestamp" not in job["metadata"]
    now = time.time()
    left = [p for p in pods.values() if not p.over and not p.host_silent and not p.overdue(now)]
    return not stays and not left


def _left_out(run: RunDir) -> list[str]:
    """Hosts with a fault. Where too few others are left, the pods wait, and say so."""
    with closing(Store()) as store:
        return blamed(store.host_faults(standing=True), run.path.name)
