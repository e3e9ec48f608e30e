"""attempts/K/kubernetes.json: which object an attempt is and in which cluster, for whoever looks
at it next, from another shell with another current context."""

from dataclasses import asdict, dataclass, replace

from smolplan.rundir import RunDir, read_json, write_json


@dataclass(frozen=True)
class KubernetesRecord:
    token: str
    kind: str
    """jobset or trainjob."""
    name: str
    namespace: str
    context: str = ""
    """Of kubectl's configuration; empty within a cluster."""
    kubeconfig: str = ""
    """KUBECONFIG of whoever submitted it; empty for kubectl's own default."""
    created: bool = False
    """The API server has taken it: if it is not there, somebody has deleted it."""

    def taken(self) -> "KubernetesRecord":
        return replace(self, created=True)


def write_record(run: RunDir, attempt: int, record: KubernetesRecord) -> None:
    """Raises OSError."""
    write_json(run.attempt(attempt) / "kubernetes.json", asdict(record))


def read_record(run: RunDir, attempt: int) -> KubernetesRecord | None:
    """None if there is none, or it cannot be read."""
    content = read_json(run.attempt(attempt) / "kubernetes.json")
    try:
        return None if content is None else KubernetesRecord(**content)
    except TypeError:
        return None
