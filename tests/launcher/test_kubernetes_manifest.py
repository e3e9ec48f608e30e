"""What is sent to Kubernetes: held against the published schemas, and against its own rules."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.kubernetes.manifest import meeting_address, name_of, objects, to_yaml
from launcher.kubernetes.names import dns_label, is_dns_label
from smolplan.errors import UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, SourceSpec
from tests.launcher.kubernetes_schema import faults, jobset_specs
from tests.support import make_spec

RUN = RunDir(Path("/mnt/shared/runs/small-1126-231010-ab12"))


def make(kind: str = "jobset", *, nodes: int = 2, gpu: str = "h100", **launch: Any) -> RunSpec:
    """A spec for pods of two GPUs; `launch` holds fields of launch.kubernetes, and environment."""
    content = json.loads(make_spec(Path("/mnt/shared/cache")).model_dump_json())
    content["parallel"]["data_parallel"] = 2 * nodes
    content["optim"]["global_batch_size"] = 4 * nodes
    content["cluster"] = {"nodes": nodes, "gpus_per_node": 2, "gpu": gpu}
    content["launch"] = {
        "backend": "kubernetes",
        "environment": launch.pop("environment", {}),
        "kubernetes": {
            "kind": kind,
            "image": "registry/smolplan:1",
            "volumes": [{"claim": "shared", "path": "/mnt/shared"}],
            **launch,
        },
    }
    return RunSpec.model_validate(content)


def pod_spec(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (spec,) = [spec for m in manifests for spec in jobset_specs(m)]
    pod: dict[str, Any] = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    return pod


label_keys = st.from_regex(r"\A([a-z]{1,9}\.io/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,9}[a-z])?\Z")
label_values = st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9_.-]{0,20}[a-z0-9])?\Z")
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["jobset", "trainjob"]),
    nodes=st.integers(1, 400),
    gpu=st.sampled_from(["h100", "cpu"]),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "node_selector": st.dictionaries(label_keys, label_values, max_size=3),
            "tolerate": st.lists(label_keys, max_size=3),
            "queue": st.just("team-a"),
            "service_account": st.just("trainer"),
            "host_network": st.booleans(),
            "resources": st.dictionaries(
                label_keys, st.sampled_from(["8", "500m", "1.5Gi", "2e3", ".5"]), max_size=2
            ),
            "environment": st.dictionaries(st.from_regex(r"\A[A-Z_]{1,5}\Z"), texts, max_size=3),
        },
    ),
    folder=texts.filter(lambda t: "/" not in t and t not in (".", "..")),
    left_out=st.lists(texts | label_values, max_size=4),
)
def test_whatever_a_spec_holds_its_manifest_fits_the_published_schemas(
    kind: str,
    nodes: int,
    gpu: str,
    fields: dict[str, Any],
    folder: str,
    left_out: list[str],
) -> None:
    run = RunDir(Path("/mnt/shared/runs") / (folder or "x"))
    spec = make(kind, nodes=nodes, gpu=gpu, **fields)
    manifests = objects(spec, run, 3, "token", left_out=left_out)
    assert [fault for m in manifests for fault in faults(m)] == []
    assert list(yaml.safe_load_all(to_yaml(manifests))) == json.loads(json.dumps(manifests))
    assert is_dns_label(f"{manifests[0]['metadata']['name']}-node-0-{nodes - 1}-abcde")


@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
def test_a_field_that_nobody_knows_or_of_the_wrong_kind_is_refused(kind: str) -> None:
    manifests = objects(make(kind), RUN, 1, "token")
    for path, wrong in [
        (("restartPolice",), "Never"),
        (("containers", 0, "command"), "a shell line"),
        (("volumes", 0, "emptyDir", "sizeLimit"), "a lot"),
        (("terminationGracePeriodSeconds",), "150"),
    ]:
        planted = deepcopy(manifests)
        place: Any = pod_spec(planted)
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = wrong
        assert [fault for m in planted for fault in faults(m)], path


def test_dollars_quotes_and_line_breaks_reach_the_pod_as_they_are() -> None:
    odd = "$(HOME) $$ \"'\n\t€ $(rm -rf /)"
    run = RunDir(Path(f"/mnt/shared/{odd}/run"))
    (manifest,) = objects(make(environment={"ODD": odd}), run, 1, "token")
    (container,) = pod_spec([manifest])["containers"]
    # Go's expansion of $(NAME) turns $$ into $ first (k8s.io/kubernetes/third_party/forked/
    # golang/expansion), so nothing is left to stand for a variable.
    (value,) = [e["value"] for e in container["env"] if e["name"] == "ODD"]
    assert value == odd.replace("$", "$$")
    assert str(run.path).replace("$", "$$") in container["command"]
    assert str(run.path) in container["lifecycle"]["preStop"]["exec"]["command"]


def test_pods_check_their_hosts_first_unless_somebody_said_why_not() -> None:
    for check in (True, False):
        (container,) = pod_spec(objects(make(), RUN, 1, "t", check=check))["containers"]
        assert ("--check" in container["command"]) == check


def test_hosts_that_are_left_out_are_no_hosts_for_a_pod_and_pods_stay_apart() -> None:
    affinity = pod_spec(objects(make(), RUN, 1, "t", left_out=["gpu-7", "a b"]))["affinity"]
    (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    (rule,) = term["matchExpressions"]
    assert rule == {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["gpu-7"]}
    assert affinity["podAntiAffinity"]


def test_nothing_restarts_by_itself_and_a_pod_has_time_for_a_checkpoint() -> None:
    spec = make()
    (manifest,) = objects(spec, RUN, 1, "t")
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0 and manifest["spec"]["failurePolicy"]["maxRestarts"] == 0
    assert job["completions"] == job["parallelism"] == 2
    pod = pod_spec([manifest])
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] > spec.monitor.stop_grace_s


def test_each_attempt_has_a_name_and_a_meeting_place_of_its_own() -> None:
    names = {name_of(RUN, attempt, 2) for attempt in (1, 2, 30)}
    assert len(names) == 3
    assert meeting_address("x-1") == "x-1-node-0-0.x-1"
    long = name_of(RunDir(Path("/r") / ("a" * 80)), 123, 5000)
    assert is_dns_label(f"{long}-node-0-4999-abcde")


def test_two_texts_never_share_a_name() -> None:
    assert dns_label("plain-name") == "plain-name"
    assert len({dns_label(text, 20) for text in ["a b", "a_b", "A b", "a" * 30, "a" * 31]}) == 5
    assert all(is_dns_label(dns_label(text, 20)) for text in ["", "9x", "-", "ü", "…", "a" * 99])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"volumes": []}, "launch.kubernetes.volumes"),
        ({"volumes": [{"claim": "c", "path": "/mnt/shared2"}]}, "launch.kubernetes.volumes"),
        ({"volumes": [{"claim": "c", "path": "relative"}]}, r"volumes\[0\].path"),
        ({"volumes": [{"claim": "C c", "path": "/mnt/shared"}]}, r"volumes\[0\].claim"),
        ({"volumes": [{"claim": "c", "path": "/dev/shm"}]}, r"volumes\[0\].path"),
        ({"shared_memory": "a lot"}, "shared_memory"),
        ({"resources": {"rdma/ib": "eight"}}, "resources.rdma/ib"),
        ({"node_selector": {"a b": "c"}}, "node_selector"),
        ({"namespace": "Team_A"}, "namespace"),
    ],
)
def test_what_the_server_would_refuse_is_told_beforehand_with_its_field(
    fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(UserError, match=field):
        objects(make(**fields), RUN, 1, "t")


def test_a_pod_that_could_not_find_the_tokenised_text_is_refused() -> None:
    spec = make()
    lost = spec.model_copy(
        update={"data": spec.data.model_copy(update={"cache_dir": Path("/root/.cache")})}
    )
    with pytest.raises(UserError, match=r"data\.cache_dir"):
        objects(lost, RUN, 1, "t")


def test_tokens_that_no_pod_would_find_are_refused_and_others_need_no_cache() -> None:
    def reading(folder: str) -> RunSpec:
        spec = make()
        source = SourceSpec(tokens=Path(folder), name="web")
        data = spec.data.model_copy(update={"sources": (source,), "cache_dir": None})
        return spec.model_copy(update={"data": data})

    with pytest.raises(UserError, match=r"data\.sources\.0\.tokens: no volume holds .* of web"):
        objects(reading("/data/web"), RUN, 1, "t")
    assert objects(reading("/mnt/shared/web"), RUN, 1, "t")
