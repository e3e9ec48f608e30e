"""The real kubectl, as the backend calls it, before a small API server."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.kubernetes.kubectl import Cluster, KubectlError, Refused, current_context
from launcher.kubernetes.manifest import objects, token_mark
from tests.launcher.small_api_server import SmallApiServer
from tests.launcher.test_kubernetes_manifest import RUN, make

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None,
    reason="kubectl is missing: install a release of it, 1.27 or later, to run these",
)


@pytest.fixture
def server() -> Iterator[SmallApiServer]:
    started = SmallApiServer()
    yield started
    started.close()


@pytest.fixture
def cluster(server: SmallApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("HOME", str(tmp_path))  # where kubectl remembers what it has discovered
    run = Cluster.run

    def without_openapi(self: Cluster, *arguments: str, **named: Any) -> str:
        """kubectl would fetch the server's OpenAPI first, which the small one has not."""
        more = ["--validate=ignore"] if arguments[0] == "create" else []
        return run(self, *arguments, *more, **named)

    monkeypatch.setattr(Cluster, "run", without_openapi)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": server.url}}],
        "contexts": [{"name": "a b", "context": {"cluster": "here", "user": "me"}}],
        "users": [{"name": "me", "user": {}}],
        "current-context": "a b",
    }
    file = tmp_path / "kube config"
    file.write_text(yaml.safe_dump(config))
    return Cluster("team-a", current_context(str(file)), str(file))


@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
def test_kubectl_takes_our_calls_and_carries_objects_unharmed(
    kind: str, cluster: Cluster, server: SmallApiServer
) -> None:
    spec = make(kind, namespace="team-a", environment={"ODD": "$(x) \" ' € \n\t"})
    manifests = objects(spec, RUN, 1, "token")
    cluster.create(manifests)
    assert [item["spec"] for item in server.objects.values()] == [m["spec"] for m in manifests]
    with pytest.raises(Refused, match="AlreadyExists"):
        cluster.create(manifests)
    resource = {"jobset": "jobsets.jobset.x-k8s.io", "trainjob": "trainjobs.trainer.kubeflow.org"}
    kinds, mark = [resource[kind], "pods"], f"smolplan/token={token_mark('token')}"
    (found,) = cluster.get(kinds, mark)
    assert found["spec"] == manifests[-1]["spec"]
    name = f"{resource[kind]}/{found['metadata']['name']}"
    cluster.delete([name])
    cluster.delete([name])  # not there is as good
    assert cluster.get(kinds, mark) == []
    assert {body.get("propagationPolicy") for body in server.deletions} == {"Foreground"}


def test_what_the_server_refuses_is_told_in_its_words(cluster: Cluster) -> None:
    (manifest,) = objects(make(namespace="team-a"), RUN, 1, "token")
    manifest["spec"]["restartPolice"] = "Never"
    with pytest.raises(Refused, match="restartPolice"):
        cluster.create([manifest])


def test_a_server_that_is_gone_has_refused_nothing(
    cluster: Cluster, server: SmallApiServer
) -> None:
    server.close()
    with pytest.raises(KubectlError, match="refused - did you specify") as raised:
        cluster.get(["pods"], "a=b")
    assert not isinstance(raised.value, Refused)


def test_a_kind_that_the_cluster_lacks_and_an_unknown_context_are_refusals(
    cluster: Cluster,
) -> None:
    with pytest.raises(Refused, match="doesn't have a resource type"):
        cluster.get(["widgets.example.org"], "a=b")
    with pytest.raises(Refused, match="does not exist"):
        Cluster("team-a", "elsewhere", cluster.kubeconfig).get(["pods"], "a=b")
