"""How the processes are started, and on which hosts."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from smolplan.spec.fields import (
    ADDED_LATER,
    Count,
    CountOrZero,
    Seconds,
    SpecPart,
    UserPath,
)

Backend = Literal["local", "ssh", "slurm", "kubernetes"]


def _environment_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is not a name of an environment variable")
    return name


def _environment_value(value: str) -> str:
    if "\0" in value:
        raise ValueError(f"{value!r} has a NUL, which no environment variable can hold")
    return value


def _one_line(value: str) -> str:
    if not value or any(ord(sign) < 32 for sign in value) or value != value.strip():
        raise ValueError(f"{value!r} is empty, begins or ends with a blank, or has a line break")
    if value.startswith("-"):
        raise ValueError(f"{value!r} begins with a dash, as only options do")
    return value


Name = Annotated[str, AfterValidator(_one_line)]
"""A name that is handed on to another program: one line, and never mistaken for an option."""


class SshSpec(SpecPart):
    """How hosts are reached by SSH. Their keys must be known: an unknown one is refused."""

    config: UserPath | None = Field(
        default=None, description="OpenSSH client configuration; ~/.ssh/config if it is there."
    )
    known_hosts: UserPath | None = Field(
        default=None, description="Host keys; ~/.ssh/known_hosts and the system's unless given."
    )
    user: Name | None = Field(default=None, description="User on the hosts.")
    port: Annotated[int, Field(ge=1, le=65535, strict=True)] | None = None
    key: UserPath | None = Field(default=None, description="Private key, beside those of an agent.")
    jump: Name | None = Field(default=None, description="Jump host, as [user@]host[:port].")
    connect_timeout_s: Seconds = Field(default=10.0, description="Longest wait for one host.")
    fanout: Count = Field(default=64, description="Hosts that are connected to at a time.")


class SlurmSpec(SpecPart):
    """What sbatch is asked for beyond nodes, tasks and GPUs, which the cluster says."""

    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    reservation: Name | None = None
    constraint: Name | None = None
    time_limit_s: Seconds | None = Field(
        default=None, description="Wall time of one job; the partition's own unless given."
    )
    signal_before_s: Seconds = Field(
        default=180.0, description="Time before the limit at which a checkpoint is saved."
    )
    requeue: bool = Field(default=True, description="Queue the job again when its time is over.")
    exclude: tuple[Name, ...] = Field(default=(), description="Nodes that are never used.")
    gres: Name | None = Field(default=None, description="gpu:N of cluster.gpus_per_node if unset.")
    cpus_per_task: Count | None = None
    options: dict[Name, str] = Field(
        default={}, description="Further options of sbatch, without their dashes."
    )


class VolumeMount(SpecPart):
    """A volume that every pod sees."""

    claim: Name = Field(description="Name of a PersistentVolumeClaim.")
    path: Name = Field(description="Where it is mounted.")


class KubernetesSpec(SpecPart):
    """What the pods are, beyond nodes and GPUs, which the cluster says."""

    kind: Literal["jobset", "trainjob"] = "jobset"
    image: Name = Field(description="Container image with Python and the trainer's packages.")
    namespace: Name = "default"
    context: Name | None = Field(default=None, description="Of kubectl; the current one if unset.")
    node_selector: dict[Name, str] = Field(default={}, description="Labels of the nodes to use.")
    queue: Name | None = Field(default=None, description="Kueue's local queue.")
    volumes: tuple[VolumeMount, ...] = Field(
        default=(), description="One of them must hold launch.runs_dir."
    )
    service_account: Name | None = None
    gpu_resource: Name = "nvidia.com/gpu"
    resources: dict[Name, str] = Field(
        default={}, description="Further resources of a pod, such as rdma/ib: 8."
    )
    shared_memory: Name = Field(default="64Gi", description="Size of /dev/shm.")
    host_network: bool = False
    tolerate: tuple[Name, ...] = Field(default=(), description="Taints by key that are tolerated.")


class LaunchSpec(SpecPart):
    backend: Backend = Field(default="local", description="What starts the processes.")
    runs_dir: UserPath | None = Field(
        default=None, description="Folder of the run directories; ./runs unless given."
    )
    environment: dict[
        Annotated[str, AfterValidator(_environment_name)],
        Annotated[str, AfterValidator(_environment_value)],
    ] = Field(default={}, description="Environment variables of every rank.")
    threads_per_rank: Count = Field(default=1, description="CPU threads of one rank.")
    rendezvous_port: CountOrZero = Field(
        default=0, le=65535, description="TCP port of the rendezvous; 0 takes a free one."
    )
    collective_timeout_s: Seconds = Field(
        default=1800.0, description="A collective that takes longer breaks the attempt."
    )
    deterministic: Annotated[bool, ADDED_LATER] = Field(
        default=True,
        description="Only kernels that give the same bits every time; without it a resumed run "
        "equals an undisturbed one within rounding only.",
    )
    compile: Annotated[bool, ADDED_LATER] = Field(
        default=False,
        description="Compile the blocks by torch.compile; on a CPU that needs a C++ compiler.",
    )
    hosts: Annotated[tuple[Name, ...], ADDED_LATER] = Field(
        default=(),
        description="Names or patterns, as gpu[01-50]; those beyond cluster.nodes are spares.",
    )
    python: Annotated[UserPath | None, ADDED_LATER] = Field(
        default=None, description="Interpreter on the hosts; this one's path unless given."
    )
    cache: Annotated[UserPath | None, ADDED_LATER] = Field(
        default=None, description="Folder on a host for smolplan's own code; ~/.cache/smolplan."
    )
    ssh: Annotated[SshSpec | None, ADDED_LATER] = Field(default=None, description="Backend ssh.")
    slurm: Annotated[SlurmSpec | None, ADDED_LATER] = Field(
        default=None, description="Backend slurm."
    )
    kubernetes: Annotated[KubernetesSpec | None, ADDED_LATER] = Field(
        default=None, description="Backend kubernetes."
    )
