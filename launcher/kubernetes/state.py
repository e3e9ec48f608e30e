"""What Kubernetes says of an attempt's pods, read from their JSON. Pure.

Reasons and fields: k8s.io/api/core/v1 and batch/v1; those that a container waits for are from
k8s.io/kubernetes/pkg/kubelet (images, kuberuntime), from memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

INDEX = "batch.kubernetes.io/job-completion-index"

BROKEN = frozenset(
    {
        *("ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"),
        *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
        *("PreCreateHookError", "PreStartHookError", "PostStartHookError"),
    }
)
"""Why a container waits, where waiting does not help."""

DISRUPTIONS = {
    "PreemptionByScheduler": "was preempted by a pod of higher priority",
    "EvictionByEvictionAPI": "was evicted, as when its node is drained",
    "DeletionByTaintManager": "was evicted from a node that is tainted or does not answer",
    "DeletionByPodGC": "was lost with its node",
    "TerminationByKubelet": "was ended by its node, which shuts down or is short of memory or disk",
}
"""Reasons of a pod's condition DisruptionTarget (k8s.io/api/core/v1/types.go)."""

DELETED = "was deleted"
"""A pod's disruption where no condition says more."""

HOST_FAULTS = {"UnexpectedAdmissionError": "gone"}
"""Reasons of a failed pod that its host is to blame for (the kubelet could not give it the devices
that the host had offered), and the kind of fault (launcher.host_faults.HostFault.kind)."""

OVERDUE_S = 60.0
"""A pod that is still there this long after its grace period: its host does not answer."""


@dataclass(frozen=True)
class Pod:
    """One node of an attempt."""

    node: int
    name: str
    host: str
    """The name of its node in the cluster; empty before it has one."""
    phase: str
    running: bool
    """Its container runs, by the last word of its host."""
    waiting: str = ""
    """Why it does not run yet."""
    broken: str = ""
    """Why it never will."""
    exit_code: int | None = None
    ended: str = ""
    """How it ended, in a clause; empty while it has not."""
    fault: str = ""
    """The kind of fault that its host is to blame for, as far as Kubernetes tells."""
    disruption: str = ""
    """By what it is ended from outside, in a clause; empty if it is not."""
    gone_by: float | None = None
    """When its grace period ends, in seconds since the epoch; None while nobody has deleted it."""
    host_silent: bool = False

    @property
    def over(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    def overdue(self, now: float) -> bool:
        return self.gone_by is not None and now > self.gone_by + OVERDUE_S

    def __str__(self) -> str:
        return f"pod {self.name}" + (f" on {self.host}" if self.host else "")


def parse_pods(items: Sequence[Mapping[str, Any]]) -> dict[int, Pod]:
    """Node → its pod; the newer one where a controller has made two."""
    dated = sorted(items, key=lambda item: str(item["metadata"].get("creationTimestamp", "")))
    pods = [_pod(item) for item in dated]
    return dict(sorted({pod.node: pod for pod in pods}.items()))


def _pod(item: Mapping[str, Any]) -> Pod:
    metadata, status = item["metadata"], item.get("status", {})
    index = {**metadata.get("labels", {}), **metadata.get("annotations", {})}.get(INDEX, "0")
    states = [container.get("state", {}) for container in status.get("containerStatuses", [])]
    state: Mapping[str, Any] = states[0] if states else {}
    phase = str(status.get("phase", "Pending"))
    held = state.get("waiting", {})
    ended, code = _ended(status, state) if phase in ("Succeeded", "Failed") else ("", None)
    running = phase == "Running" and "running" in state
    deleted = metadata.get("deletionTimestamp")
    return Pod(
        node=int(index),
        name=str(metadata["name"]),
        host=str(item.get("spec", {}).get("nodeName", "")),
        phase=phase,
        running=running,
        waiting="" if running or ended else _waiting(status, held),
        broken=_said(held) if held.get("reason") in BROKEN else "",
        exit_code=code,
        ended=ended,
        fault=HOST_FAULTS.get(str(status.get("reason", "")), ""),
        disruption=_disruption(status, deleted is not None),
        gone_by=None if deleted is None else _epoch(str(deleted)),
        host_silent=running and _host_silent(status),
    )


def _waiting(status: Mapping[str, Any], held: Mapping[str, Any]) -> str:
    scheduled = condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return _said(scheduled)
    return _said(held) or "starting"


def _ended(status: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[str, int | None]:
    """In a clause, and the exit code; a pod that its node refused has had no container."""
    past = state.get("terminated")
    if past is None:
        return _said(status) or "ended", None
    code = int(past.get("exitCode", 0))
    reason = str(past.get("reason", ""))
    words = f"ended with exit code {code}"
    if reason not in ("", "Error", "Completed"):
        words += f" ({reason})"
    if status.get("reason"):
        words += f", {_said(status)}"
    lines = [line.strip() for line in str(past.get("message", "")).splitlines() if line.strip()]
    return (f"{words}: {lines[-1][:200]}" if lines and code else words), code


def _disruption(status: Mapping[str, Any], deleted: bool) -> str:
    found = condition(status, "DisruptionTarget")
    if found.get("status") == "True":
        reason = str(found.get("reason", ""))
        words = DISRUPTIONS.get(reason, f"was disrupted ({reason})")
        return f"{words}: {found['message']}"[:300] if found.get("message") else words
    return DELETED if deleted else ""


def _host_silent(status: Mapping[str, Any]) -> bool:
    """Where a node does not answer, the node controller calls its pods not ready, while their
    containers are as the kubelet has last seen them: ready (no probe of ours makes them not so)."""
    (container, *_) = status["containerStatuses"]
    return bool(container.get("ready")) and condition(status, "Ready").get("status") == "False"


def disruption(pods: Mapping[int, Pod]) -> str:
    """Which pod is ended from outside, and by what; empty if none is."""
    found = [pod for pod in pods.values() if pod.disruption]
    # When one has failed, its Job's controller deletes the others: that is no cause.
    found.sort(key=lambda pod: pod.disruption == DELETED)
    return f"{found[0]} {found[0].disruption}" if found else ""


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Empty if there is none of that kind."""
    found: Mapping[str, Any] = next(
        (c for c in status.get("conditions", []) if c.get("type") == kind), {}
    )
    return found


def holds(status: Mapping[str, Any], kind: str) -> bool:
    return condition(status, kind).get("status") == "True"


def _said(place: Mapping[str, Any]) -> str:
    """Reason and message, on one line."""
    words = [str(place[key]) for key in ("reason", "message") if place.get(key)]
    return " ".join(": ".join(words).split())[:300]


def _epoch(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
