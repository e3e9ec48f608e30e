"""What a backend is: how an attempt is started, looked at and ended on one kind of machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from launcher.store import Attempt
from smolplan.errors import SmolplanError, UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, load_spec


@dataclass(frozen=True)
class NodeView:
    """One node of an attempt, as its backend sees it."""

    node: int
    host: str
    alive: bool | None
    """Whether its supervisor runs; None if it has not reported, or it cannot be told."""
    trouble: str = ""
    """Why it cannot be told, in the words of the last probe: the host does not answer."""
    probes_failed: int = 0
    """How many probes in a row."""
    silent_s: float = 0.0
    """For how long it has not answered; with no failed probe, a probe is still on its way."""


@dataclass(frozen=True)
class Successor:
    """The next attempt, which the scheduler has begun by itself."""

    token: str
    reason: str


@dataclass(frozen=True)
class Observation:
    """An attempt, as its backend sees it."""

    nodes: tuple[NodeView, ...] = ()
    waiting: str = ""
    """Why a scheduler has not started it yet; empty where none holds it back."""
    submitted: bool = True
    """False where the scheduler was never given it, or is not known to have taken it."""
    settling: str = ""
    """What a scheduler is about with it, after which it is known how it goes on."""
    over: str = ""
    """How a scheduler says that it ended, for an attempt that says nothing of it itself."""
    cancelled: str = ""
    """That somebody has cancelled it by the scheduler's own means; empty if nobody has."""
    ended: str = ""
    """Why it is over, where the scheduler knows more than its ranks can: a node was preempted."""
    blamed: Mapping[str, str] = field(default_factory=dict)
    """With `ended`: hosts that are to blame, and for what kind of fault."""
    successor: Successor | None = None

    @property
    def alive(self) -> bool | None:
        """False as soon as one node is gone, since the others can do nothing without it; None if
        one has not reported or cannot be seen."""
        states = {node.alive for node in self.nodes}
        if False in states:
            return False
        return True if states == {True} else None


class NotNow(SmolplanError):
    """Nothing can be started now, and nothing is wrong with what was to be: ask again later."""


class Backend(Protocol):
    """Each method may be called again without harm, by another process too."""

    def render(
        self, spec: RunSpec, run: RunDir, attempt_number: int, *, checked: bool = True
    ) -> str:
        """What `submit` would send, for people to read. `checked`: whether nodes that a scheduler
        chooses check themselves before ranks start."""

    def request(
        self, spec: RunSpec, run: RunDir, attempt_number: int, *, checked: bool = True
    ) -> dict[str, object]:
        """The same for machines."""

    def submit(
        self,
        spec: RunSpec,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Start an attempt, detached. Raises SmolplanError if it cannot be started; NotNow if that
        is for now only."""

    def await_report(
        self,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Until every node has said that it runs, or how it ended, or a scheduler holds the
        attempt. Raises SmolplanError if it says nothing."""

    def observe(self, run: RunDir, attempt: Attempt) -> Observation:
        """How the attempt's nodes stand. Never raises for a machine that does not answer."""

    def end(self, run: RunDir, attempt: Attempt, why: str, *, timeout_s: float = 30.0) -> bool:
        """End every process of an attempt at once and for good; True when none is left, or those
        that are left can do no harm."""

    def close(self) -> None:
        """Let go of connections; the attempt goes on."""


def backend_of(spec: RunSpec) -> Backend:
    """The backend that a spec asks for. Raises UserError."""
    match spec.launch.backend:
        case "local":
            from launcher.backends.local import LocalBackend

            return LocalBackend()
        case "slurm":
            from launcher.backends.slurm import SlurmBackend

            return SlurmBackend()
        case "ssh":
            from launcher.backends.ssh import SshBackend

            return SshBackend(spec)
        case "kubernetes":
            from launcher.backends.kubernetes import KubernetesBackend

            return KubernetesBackend()


def backend_of_run(run: RunDir) -> Backend:
    """The backend of a run; this machine's, where its folder is gone and nothing can be read."""
    try:
        return backend_of(load_spec(run.spec))
    except UserError:
        from launcher.backends.local import LocalBackend

        return LocalBackend()
