"""kubectl, each call with a deadline: it is what operators have, and what carries their
credentials. KubectlError: the API server did not answer, so nothing is known."""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smolplan.errors import SmolplanError, UserError

REQUEST_S = 20
"""For one request to the API server, which answers within a second unless it is in trouble."""

DEADLINE_S = 30.0
"""For a call of several requests, and for a plugin that fetches a credential."""

UNREACHABLE = (
    *("Unable to connect to the server", "connection refused", "i/o timeout", "no such host"),
    *("TLS handshake timeout", "was refused - did you specify", "context deadline exceeded"),
    *("Client.Timeout", "request canceled", "EOF", "ServiceUnavailable", "InternalError"),
    *("Timeout:", "TooManyRequests", "the server is currently unable", "etcdserver"),
)
"""What kubectl and the API server's machinery say where the server has not decided anything: from
memory of client-go's and apimachinery's errors."""


class KubectlError(SmolplanError):
    """kubectl failed, or gave no answer; the message is what it said."""


class Refused(KubectlError):
    """The API server has said no: another try would be answered in the same way."""


@dataclass(frozen=True)
class Cluster:
    """Which API server, as which user, in which namespace."""

    namespace: str
    context: str = ""
    kubeconfig: str = ""

    def run(self, *arguments: str, stdin: str = "", timeout_s: float = DEADLINE_S) -> str:
        """kubectl's output. Raises KubectlError, and UserError if there is no kubectl."""
        where = [f"--context={self.context}"] if self.context else []
        return run(
            [
                *["kubectl", *where, f"--namespace={self.namespace}"],
                *[f"--request-timeout={REQUEST_S}s", *arguments],
            ],
            stdin=stdin,
            environment=_environment(self.kubeconfig),
            timeout_s=timeout_s,
        )

    def get(
        self, kinds: Sequence[str], selector: str, *, timeout_s: float = DEADLINE_S
    ) -> list[dict[str, Any]]:
        """The objects of these kinds that carry the label. Raises KubectlError."""
        said = self.run(
            *("get", ",".join(kinds), f"--selector={selector}", "--output=json"),
            timeout_s=timeout_s,
        )
        try:
            items: list[dict[str, Any]] = json.loads(said)["items"]
        except (ValueError, KeyError):
            raise KubectlError(f"kubectl get printed no list of objects: {said[:200]!r}") from None
        return items

    def create(self, manifests: Sequence[Mapping[str, Any]]) -> None:
        """Raises KubectlError; Refused, with AlreadyExists in it, if the name is taken."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.run("create", "--filename=-", "--output=name", stdin=json.dumps(listed))

    def delete(self, names: Sequence[str], *, timeout_s: float = DEADLINE_S) -> None:
        """Ask for KIND/NAME… to go, with all that hangs on them; not there is as good. Raises
        KubectlError."""
        self.run(
            *("delete", *names, "--ignore-not-found", "--cascade=foreground", "--wait=false"),
            timeout_s=timeout_s,
        )


def current_context(kubeconfig: str = "") -> str:
    """Empty where there is none, as in a pod with a service account."""
    try:
        said = run(["kubectl", "config", "current-context"], environment=_environment(kubeconfig))
    except KubectlError:
        return ""
    return said.strip()


def _environment(kubeconfig: str) -> dict[str, str]:
    return {**os.environ, **({"KUBECONFIG": kubeconfig} if kubeconfig else {})}


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    timeout_s: float = DEADLINE_S,
) -> str:
    """Its output. Raises KubectlError, and UserError if there is no such command here."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise UserError(
            "there is no kubectl here",
            where="launch.backend kubernetes",
            remedy="Install it, and check: kubectl auth can-i create jobsets.jobset.x-k8s.io",
        ) from None
    except subprocess.TimeoutExpired:
        raise KubectlError(f"kubectl gave no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise KubectlError(f"kubectl: {error.strerror}") from None
    if done.returncode:
        said = _message(done.stderr) or f"exit code {done.returncode}"
        unreachable = any(words in said for words in UNREACHABLE)
        raise (KubectlError if unreachable else Refused)(said[:500])
    return done.stdout


def _message(stderr: str) -> str:
    """Without the log lines of client-go (klog: E1126 23:38:16.139147 …), which tell it again."""
    lines = [line for line in stderr.splitlines() if not re.match(r"[IWEF]\d{4} ", line)]
    return " ".join(" ".join(lines or stderr.splitlines()).split())
