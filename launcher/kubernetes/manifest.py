"""What is sent to the API server for an attempt: a JobSet, or Kubeflow's TrainJob with the runtime
that it needs. Pure: from the spec to objects.

Nothing in them restarts anything. A broken attempt ends whole, and the monitor starts the next as
an object of its own, with its own name, token and meeting place.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import yaml

from launcher.kubernetes.names import dns_label, label_value
from launcher.kubernetes.pod import CONTAINER, checked, pod_template
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec

REPLICATED_JOB = "node"
"""Kubeflow's Trainer looks for a job of this name."""

PORT = 29500
"""torchrun's own default. Each pod has an address of its own, so a fixed port is free."""

KEEP_ENDED_S = 7 * 24 * 3600
"""An attempt that nobody looked after is cleared away after a week."""

RESOURCES = {
    "jobset": "jobsets.jobset.x-k8s.io",
    "trainjob": "trainjobs.trainer.kubeflow.org",
    "runtime": "trainingruntimes.trainer.kubeflow.org",
}
"""What kubectl calls them, without doubt about whose they are."""

TOKEN_LABEL = "smolplan/token"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def name_of(run: RunDir, attempt: int, nodes: int) -> str:
    """Of an attempt's object. Its pods are called NAME-node-0-INDEX-xxxxx, and that too must be a
    DNS label."""
    tail = f"-{attempt}"
    longest = 63 - len(f"-{REPLICATED_JOB}-0-{nodes - 1}-xxxxx") - len(tail)
    return dns_label(run.path.name, longest) + tail


def token_mark(token: str) -> str:
    """A label's value that tells an attempt from all others, and is of no use to a reader."""
    return hashlib.sha256(token.encode()).hexdigest()[:32]


def pod_host(name: str, node: int) -> str:
    """A pod's host name, which the Job controller gives it."""
    return f"{name}-{REPLICATED_JOB}-0-{node}"


def meeting_address(name: str) -> str:
    """Node 0's name for the others: within the headless service that the JobSet makes."""
    return f"{pod_host(name, 0)}.{name}"


def objects(
    spec: RunSpec,
    run: RunDir,
    attempt: int,
    token: str,
    *,
    left_out: Iterable[str] = (),
    check: bool = True,
) -> list[dict[str, Any]]:
    """In the order in which they are made. `check`: pods check their hosts before ranks start.
    Raises UserError."""
    settings = checked(spec, run)
    name = name_of(run, attempt, spec.cluster.nodes)
    labels = {
        "app.kubernetes.io/managed-by": "smolplan",
        "smolplan/run": label_value(run.path.name),
        "smolplan/attempt": str(attempt),
        TOKEN_LABEL: token_mark(token),
    }
    queue = {QUEUE_LABEL: settings.queue} if settings.queue else {}
    metadata = {"name": name, "namespace": settings.namespace, "labels": {**labels, **queue}}
    pods = pod_template(
        spec,
        run,
        attempt,
        token,
        labels=labels,
        apart={TOKEN_LABEL: labels[TOKEN_LABEL]},
        left_out=left_out,
        check=check,
    )
    jobs = _jobs(pods, name, spec.cluster.nodes)
    if settings.kind == "jobset":
        return [
            {
                "apiVersion": "jobset.x-k8s.io/v1alpha2",
                "kind": "JobSet",
                "metadata": metadata,
                "spec": {**jobs, "ttlSecondsAfterFinished": KEEP_ENDED_S},
            }
        ]
    jobs["replicatedJobs"][0]["template"]["metadata"] = {
        "labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    }
    return [
        {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainingRuntime",
            "metadata": {**metadata, "labels": labels},
            "spec": {"mlPolicy": {"numNodes": spec.cluster.nodes}, "template": {"spec": jobs}},
        },
        {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "metadata": metadata,
            "spec": {
                "runtimeRef": {
                    "apiGroup": "trainer.kubeflow.org",
                    "kind": "TrainingRuntime",
                    "name": name,
                },
                "trainer": {"numNodes": spec.cluster.nodes},
            },
        },
    ]


def _jobs(pods: dict[str, Any], name: str, nodes: int) -> dict[str, Any]:
    """A JobSet's spec: one Job with a pod for each node."""
    job = {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": 0,
        # backoffLimit ends the Job too; these say in its condition which it was.
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "NotIn",
                        "values": [0],
                    },
                },
            ]
        },
        "template": pods,
    }
    return {
        "network": {
            "enableDNSHostnames": True,
            "publishNotReadyAddresses": True,
            "subdomain": name,
        },
        "successPolicy": {"operator": "All"},
        "failurePolicy": {"maxRestarts": 0},
        "replicatedJobs": [{"name": REPLICATED_JOB, "replicas": 1, "template": {"spec": job}}],
    }


class _Plain(yaml.SafeDumper):
    """No anchors; and quotes around whatever some reader of YAML might take for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(dumper: _Plain, text: str) -> yaml.ScalarNode:
    plain = re.fullmatch(r"[A-Za-z/][A-Za-z0-9/._-]*", text) is not None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Plain.add_representer(str, _write_text)


def to_yaml(manifests: list[dict[str, Any]]) -> str:
    """For people; what is sent is the same as JSON."""
    return yaml.dump_all(manifests, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)
