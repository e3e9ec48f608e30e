"""From an attempt's object and pods to how it stands. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.backends.base import NodeView, Observation
from launcher.kubernetes.state import Pod, condition, holds
from smolplan.errors import ExitCode


@dataclass(frozen=True)
class Seen:
    """One look at an attempt."""

    what: str
    """The object in words: "jobset small-1"."""
    hosts: Sequence[str]
    """What each node is called before its pod has a host."""
    job: Mapping[str, Any] | None
    """None if the API server has none of that name."""
    pods: Mapping[int, Pod]
    exit: Mapping[str, Any] | None
    """How it ended, by its own account."""
    reported: frozenset[int]
    """Nodes whose end is on record."""
    yielded: bool
    """Its ranks were told to save and end, since a pod is to go."""
    now: float
    """Seconds since the epoch."""
    disruption: str = ""
    """By what a pod is ended from outside, or was, though it is gone by now."""
    patient: bool = False
    """A record that is missing may still be on its way, through a network file system."""


def judge(seen: Seen) -> Observation:
    gave_way = seen.yielded and _code(seen) == ExitCode.STOPPED_ON_REQUEST
    if seen.exit is not None and not gave_way:
        return Observation(_nodes(seen))  # its own word counts
    if seen.job is None or "deletionTimestamp" in seen.job["metadata"]:
        why = f"{seen.what} was deleted"
        return _saving(seen, why) or Observation(cancelled=why)
    if lost := _lost(seen):
        return lost
    status = seen.job.get("status", {})
    if holds(status, "Suspended") or seen.job.get("spec", {}).get("suspend"):
        why = f"{seen.what} is suspended, as while a queue holds it"
        if gave_way:
            return _saving(seen, why) or Observation(ended=why)
        return Observation(waiting=why)
    if why := seen.disruption:
        return _saving(seen, why) or Observation(ended=why, blamed=_blamed(seen.pods))
    if gave_way:
        return Observation(ended="its pods were preempted, evicted or deleted, and are gone")
    silent = [p for p in seen.pods.values() if p.over and p.node not in seen.reported]
    if silent and seen.patient:
        return Observation(settling=f"{silent[0]} {silent[0].ended}; its record is awaited")
    if holds(status, "Failed"):
        said = condition(status, "Failed").get("message", "no reason is given")
        return Observation(ended=f"{seen.what} failed: {said}"[:500])
    return _waiting(seen) or Observation(_nodes(seen))


def _code(seen: Seen) -> Any:
    return None if seen.exit is None else seen.exit["exit_code"]


def _saving(seen: Seen, why: str) -> Observation | None:
    """While pods that are to go are within their grace period."""
    for pod in seen.pods.values():
        if pod.running and pod.gone_by is not None and not pod.overdue(seen.now):
            return Observation(settling=f"{why}; its ranks save and end")
    return None


def _waiting(seen: Seen) -> Observation | None:
    """For pods that do not run yet."""
    pods = [seen.pods.get(node) for node in range(len(seen.hosts))]
    late = [
        (node, pod) for node, pod in enumerate(pods) if pod is None or not (pod.running or pod.over)
    ]
    if not late:
        return None
    node, pod = late[0]
    why = "it has no pod yet" if pod is None else pod.waiting
    return Observation(waiting=f"{len(late)} of {len(pods)} nodes wait; node {node}: {why}")


def _lost(seen: Seen) -> Observation | None:
    """A pod that cannot run, or that ended and told nobody."""
    for pod in seen.pods.values():
        if pod.broken:
            return Observation(ended=f"{pod} cannot run: {pod.broken}")
        if not pod.ended or pod.disruption or pod.node in seen.reported:
            continue
        killed = pod.exit_code == 128 + 9  # it could write nothing down
        if pod.exit_code is None or killed or not seen.patient:
            kind = pod.fault or ("gone" if killed and "OOMKilled" not in pod.ended else "")
            blamed = {pod.host: kind} if kind and pod.host else {}
            return Observation(ended=f"{pod} {pod.ended}", blamed=blamed)
    return None


def _blamed(pods: Mapping[int, Pod]) -> dict[str, str]:
    gone = [pod for pod in pods.values() if pod.disruption and pod.host_silent]
    return {pod.host: "unreachable" for pod in gone}


def _nodes(seen: Seen) -> tuple[NodeView, ...]:
    views = []
    for node, called in enumerate(seen.hosts):
        pod = seen.pods.get(node)
        host = (pod.host if pod else "") or called
        if pod is None:
            views.append(NodeView(node, host, False if seen.job is None else None))
        elif pod.host_silent:
            views.append(NodeView(node, host, None, f"Kubernetes has lost touch with {host}"))
        elif pod.over:
            # One that has said how it ended is through, however long the others take.
            views.append(NodeView(node, host, None if node in seen.reported else False))
        else:
            views.append(NodeView(node, host, True if pod.running else None))
    return tuple(views)
