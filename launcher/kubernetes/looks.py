"""Looks at an attempt's object and pods, over and over, so that whoever wants to know how it
stands need not wait for an API server that does not answer."""

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from launcher.kubernetes.kubectl import Cluster, KubectlError
from launcher.kubernetes.manifest import RESOURCES, TOKEN_LABEL, token_mark
from launcher.kubernetes.record import KubernetesRecord
from launcher.kubernetes.state import Pod, disruption, parse_pods
from smolplan.errors import UserError

LOOK_S = 2.0
"""Between two looks: the API server is shared by all."""

HURRY_S = 0.5
"""The same, while pods are about to go: they are gone within seconds, and with them the reason."""

ANSWER_S = 10.0
"""For one answer. A plugin that fetches a credential takes some of it."""

FRESH_WITHIN_S = 3.0
"""How long somebody waits who needs a look that is newer than what he knows himself."""


def cluster_of(record: KubernetesRecord) -> Cluster:
    return Cluster(record.namespace, record.context, record.kubeconfig)


def find(
    record: KubernetesRecord, *, timeout_s: float = ANSWER_S
) -> tuple[dict[str, Any] | None, dict[int, Pod]]:
    """The attempt's object, None if there is none, and its pods; by the token's mark, so that
    nobody else's are taken for them. Raises KubectlError, and UserError without kubectl."""
    selector = f"{TOKEN_LABEL}={token_mark(record.token)}"
    kinds = [RESOURCES[record.kind], "pods"]
    found = cluster_of(record).get(kinds, selector, timeout_s=timeout_s)
    jobs = [item for item in found if str(item.get("kind", "")).lower() == record.kind]
    pods = parse_pods([item for item in found if item.get("kind") == "Pod"])
    return (jobs[0] if jobs else None), pods


@dataclass(frozen=True)
class Look:
    """The last answer, and what has become of the attempts to get one since."""

    job: dict[str, Any] | None = None
    pods: dict[int, Pod] = field(default_factory=dict)
    began_s: float = 0.0
    """Monotonic, of the look that was answered; 0 before the first."""
    trouble: str = ""
    """Why the newest look was not answered; empty if it was."""
    failed: int = 0
    """Looks in a row that were not."""
    answered_s: float = 0.0
    """Monotonic, of the last answer, or of the start."""
    tried: bool = False
    disruption: str = ""
    """What launcher.kubernetes.state.disruption said when it first said something: a pod that was
    ended is gone soon, and with it the reason."""


class Looks:
    """One attempt's."""

    def __init__(self, record: KubernetesRecord) -> None:
        self._record = record
        self._last = Look(answered_s=time.monotonic())
        self._news = threading.Condition()
        self._wake, self._stopped = threading.Event(), False
        threading.Thread(target=self._go, daemon=True).start()

    def last(self) -> Look:
        """As of the last look; the first time it waits for one."""
        with self._news:
            self._news.wait_for(lambda: self._last.tried, ANSWER_S)
            return self._last

    def fresh(self) -> Look | None:
        """A look that begins from now on; None if none was answered in time."""
        now_s = time.monotonic()
        self._wake.set()
        with self._news:
            if self._news.wait_for(lambda: self._last.began_s > now_s, FRESH_WITHIN_S):
                return self._last
            return None

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def _go(self) -> None:
        while not self._stopped:
            self._wake.clear()
            began_s, last = time.monotonic(), self._last
            try:
                job, pods = find(self._record)
            except (KubectlError, UserError) as error:
                new = replace(last, trouble=str(error), failed=last.failed + 1, tried=True)
            else:
                new = Look(
                    job,
                    pods,
                    began_s,
                    answered_s=time.monotonic(),
                    tried=True,
                    disruption=last.disruption or disruption(pods),
                )
            with self._news:
                self._last = new
                self._news.notify_all()
            going = any(pod.gone_by is not None for pod in new.pods.values())
            self._wake.wait(HURRY_S if going else LOOK_S)
