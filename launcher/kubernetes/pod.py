"""The pod that a node of an attempt is: one on a host, with the supervisor as its program."""

import math
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from launcher.environment import (
    HOST_VARIABLE,
    VERSION_VARIABLE,
    code_version,
    rank_environment,
)
from launcher.kubernetes.names import (
    is_dns_label,
    is_dns_subdomain,
    is_label_key,
    is_label_value,
    is_quantity,
    literal,
    require,
)
from smolplan.errors import UserError
from smolplan.rundir import RunDir
from smolplan.spec import DataSpec, RunSpec
from smolplan.spec.launch import KubernetesSpec

CONTAINER = "node"
"""Kubeflow's Trainer looks for a container of this name."""

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Set by the Job controller in the pods of an Indexed Job: which node a pod is."""

HOST_LABEL = "kubernetes.io/hostname"
SHARED_MEMORY = PurePosixPath("/dev/shm")

GRACE_MARGIN_S = 30.0
"""Beyond what a graceful stop may take: for the supervisor and the kubelet."""


def pod_template(
    spec: RunSpec,
    run: RunDir,
    attempt: int,
    token: str,
    *,
    labels: dict[str, str],
    apart: dict[str, str],
    left_out: Iterable[str] = (),
    check: bool = True,
) -> dict[str, Any]:
    """`apart`: the labels of the pods that are to be on hosts of their own. `check`: they start
    ranks only once preflight has found all their hosts fit. Raises UserError."""
    settings = checked(spec, run)
    volumes: list[dict[str, Any]] = [
        {
            "name": "shared-memory",
            "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory},
        }
    ]
    mounts = [{"name": "shared-memory", "mountPath": str(SHARED_MEMORY)}]
    for i, volume in enumerate(settings.volumes):
        volumes.append(
            {"name": f"volume-{i}", "persistentVolumeClaim": {"claimName": volume.claim}}
        )
        mounts.append({"name": f"volume-{i}", "mountPath": volume.path})
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(spec.monitor.stop_grace_s + GRACE_MARGIN_S),
        # The supervisor asks nothing of the API server.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "affinity": _affinity(apart, left_out),
        "containers": [_container(spec, settings, run, attempt, token, mounts, check)],
        "volumes": volumes,
    }
    if settings.host_network:
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    if settings.node_selector:
        pod["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerate:
        pod["tolerations"] = [{"key": key, "operator": "Exists"} for key in settings.tolerate]
    return {"metadata": {"labels": labels}, "spec": pod}


def command(spec: RunSpec, run: RunDir, attempt: int, check: bool) -> list[str]:
    # -P: a file trainer.py in the image's folder must not be run in place of ours.
    return [
        *[str(spec.launch.python or "python"), "-P", "-m", "launcher.supervisor"],
        *[str(run.path), str(attempt), "--node-from", INDEX_VARIABLE, "--stay"],
        *(["--check"] if check else []),
    ]


def give_way_command(spec: RunSpec, run: RunDir, attempt: int) -> list[str]:
    """What the kubelet runs beside the supervisor before it ends a pod; it expands no $ here."""
    return [
        *[str(spec.launch.python or "python"), "-P", "-m", "launcher.kubernetes.give_way"],
        *[str(run.path), str(attempt), "--node-from", INDEX_VARIABLE],
    ]


def _container(
    spec: RunSpec,
    settings: KubernetesSpec,
    run: RunDir,
    attempt: int,
    token: str,
    mounts: list[dict[str, str]],
    check: bool,
) -> dict[str, Any]:
    on_gpus = spec.cluster.gpu != "cpu"
    limits = {settings.gpu_resource: str(spec.cluster.gpus_per_node)} if on_gpus else {}
    limits |= settings.resources
    variables = {**rank_environment(spec, token), VERSION_VARIABLE: code_version()}
    privileges: dict[str, Any] = {"allowPrivilegeEscalation": False}
    if on_gpus:
        # RDMA and pinned memory are locked, beyond the limit that a container gets.
        privileges["capabilities"] = {"add": ["IPC_LOCK"]}
    return {
        "name": CONTAINER,
        "image": settings.image,
        "command": [literal(word) for word in command(spec, run, attempt, check)],
        "env": [
            *({"name": name, "value": literal(value)} for name, value in variables.items()),
            {"name": HOST_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "volumeMounts": mounts,
        "securityContext": privileges,
        # A supervisor that cannot even start has said why on its standard error alone.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": {"preStop": {"exec": {"command": give_way_command(spec, run, attempt)}}},
        **({"resources": {"limits": limits}} if limits else {}),
    }


def _affinity(apart: dict[str, str], left_out: Iterable[str]) -> dict[str, Any]:
    affinity: dict[str, Any] = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": apart}, "topologyKey": HOST_LABEL}
            ]
        }
    }
    # A host of another kind of cluster may be on record, by a name that no label can hold.
    hosts = sorted({host for host in left_out if host and is_label_value(host)})
    if hosts:
        term = {"matchExpressions": [{"key": HOST_LABEL, "operator": "NotIn", "values": hosts}]}
        affinity["nodeAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}
        }
    return affinity


def checked(spec: RunSpec, run: RunDir) -> KubernetesSpec:
    """Raises UserError for what the API server would refuse, or what could never work."""
    settings = spec.launch.kubernetes
    if settings is None:
        raise UserError(
            "no image is given for the pods",
            where="launch.kubernetes",
            remedy="Give at least image and volumes there.",
        )
    word = "Use small letters, digits and dashes."
    require(is_dns_label(settings.namespace), "namespace", settings.namespace, word)
    if settings.service_account is not None:
        account = settings.service_account
        require(is_dns_subdomain(account), "service_account", account, word)
    if settings.queue is not None:
        require(is_dns_label(settings.queue), "queue", settings.queue, word)
    require(is_label_key(settings.gpu_resource), "gpu_resource", settings.gpu_resource, word)
    label = "See the labels of the nodes by: kubectl get nodes --show-labels"
    for key, value in settings.node_selector.items():
        require(is_label_key(key), "node_selector", key, label)
        require(is_label_value(value), f"node_selector.{key}", value, label)
    for key in settings.tolerate:
        require(is_label_key(key), "tolerate", key, "Give the key of a taint alone.")
    quantity = "Write a quantity, such as 8, 500m or 64Gi."
    require(is_quantity(settings.shared_memory), "shared_memory", settings.shared_memory, quantity)
    for name, amount in settings.resources.items():
        require(is_label_key(name), "resources", name, word)
        require(is_quantity(amount), f"resources.{name}", amount, quantity)
    require(" " not in settings.image, "image", settings.image, "Give REGISTRY/NAME:TAG.")
    _check_volumes(settings, run, spec.data)
    return settings


def _check_volumes(settings: KubernetesSpec, run: RunDir, data: DataSpec) -> None:
    seen = {str(SHARED_MEMORY)}
    for i, volume in enumerate(settings.volumes):
        require(
            is_dns_subdomain(volume.claim),
            f"volumes[{i}].claim",
            volume.claim,
            "Give the name of a PersistentVolumeClaim: kubectl get pvc",
        )
        path = PurePosixPath(volume.path)
        fits = path.is_absolute() and ".." not in path.parts and ":" not in volume.path
        require(
            fits and str(path) not in seen,
            f"volumes[{i}].path",
            volume.path,
            "Give an absolute path without a colon, another one for each volume.",
        )
        seen.add(str(path))
    if not any(holds(volume.path, run.path) for volume in settings.volumes):
        raise UserError(
            f"no volume holds the runs' folder {run.path.parent}, so no pod would find its run",
            where="launch.kubernetes.volumes",
            remedy="Mount a shared claim there, at the same path as here, or set launch.runs_dir.",
        )
    cache, is_read = data.cache_dir, not all(source.tokens for source in data.sources)
    is_held = cache is not None and any(holds(volume.path, cache) for volume in settings.volumes)
    if not is_held and (is_read or not data.sources):
        raise UserError(
            "no volume holds the tokenised text, so no pod would find it",
            where="data.cache_dir",
            remedy="Give a folder inside one of launch.kubernetes.volumes.",
        )
    for number, source in enumerate(data.sources):
        tokens = source.tokens and source.tokens.absolute()
        if tokens and not any(holds(volume.path, tokens) for volume in settings.volumes):
            raise UserError(
                f"no volume holds the tokens of {source.label}, so no pod would find them",
                where=f"data.sources.{number}.tokens",
                remedy="Copy the folder to one of launch.kubernetes.volumes.",
            )
    try:
        str(run.path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the folder {str(run.path)!r} is no text in UTF-8", where="launch.runs_dir"
        ) from None


def holds(mount: str, path: Path) -> bool:
    return PurePosixPath(path).is_relative_to(PurePosixPath(mount))
