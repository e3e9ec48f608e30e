"""What pods say, as Kubernetes writes it, and what follows. Pure."""

from typing import Any

from launcher.backends.base import Observation
from launcher.kubernetes.judge import Seen, judge
from launcher.kubernetes.state import disruption, parse_pods

NOW = 1_795_000_000.0
LATER = "2026-11-18T12:30:00Z"
JOB = {"metadata": {"name": "r-1"}, "spec": {}, "status": {}}


def pod(node: int, phase: str = "Running", **status: Any) -> dict[str, Any]:
    running = {"ready": True, "state": {"running": {"startedAt": LATER}}}
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"r-1-node-0-{node}-abcde",
            "annotations": {"batch.kubernetes.io/job-completion-index": str(node)},
        },
        "spec": {"nodeName": f"gpu-{node}"},
        "status": {"phase": phase, "containerStatuses": [running], "conditions": [], **status},
    }


def terminated(code: int, reason: str = "Error", message: str = "") -> list[dict[str, Any]]:
    return [
        {"state": {"terminated": {"exitCode": code, "reason": reason, "message": message}}},
    ]


def seen(*pods: dict[str, Any], **known: Any) -> Observation:
    parsed = parse_pods(pods)
    given: dict[str, Any] = {
        "what": "jobset r-1",
        "hosts": ("r-1-node-0-0", "r-1-node-0-1"),
        "job": JOB,
        "pods": parsed,
        "exit": None,
        "reported": frozenset(),
        "yielded": False,
        "now": NOW,
        "disruption": disruption(parsed),
        **known,
    }
    return judge(Seen(**given))


def test_pods_that_run_are_nodes_on_their_hosts() -> None:
    nodes = seen(pod(1), pod(0)).nodes
    assert [(n.node, n.host, n.alive) for n in nodes] == [(0, "gpu-0", True), (1, "gpu-1", True)]


def test_a_pod_that_has_said_how_it_ended_is_not_gone_while_the_others_still_run() -> None:
    through = pod(0, "Succeeded", containerStatuses=terminated(0, "Completed"))
    assert seen(through, pod(1), reported=frozenset({0})).alive is None
    assert seen(through, pod(1)).ended


def test_a_pod_that_its_node_evicted_is_told_of_with_the_nodes_reason() -> None:
    target = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    message = "The node was low on resource: ephemeral-storage."
    evicted = pod(1, "Failed", reason="Evicted", message=message)
    evicted["status"]["containerStatuses"] = []
    evicted["status"]["conditions"] = [{**target, "message": message}]
    told = seen(pod(0), evicted)
    assert "on gpu-1 was ended by its node" in told.ended and "ephemeral-storage" in told.ended
    assert told.blamed == {}


def test_a_host_that_could_not_give_its_gpus_is_to_blame() -> None:
    refused = pod(1, "Failed", reason="UnexpectedAdmissionError", message="Allocate failed")
    refused["status"].pop("containerStatuses")
    told = seen(pod(0), refused)
    assert "UnexpectedAdmissionError: Allocate failed" in told.ended
    assert told.blamed == {"gpu-1": "gone"}


def test_short_memory_of_a_pods_own_limit_is_no_fault_of_its_host() -> None:
    killed = pod(1, "Failed", containerStatuses=terminated(137, "OOMKilled"))
    told = seen(pod(0), killed)
    assert "ended with exit code 137 (OOMKilled)" in told.ended and told.blamed == {}


def test_a_supervisor_that_could_not_start_is_quoted_once_its_record_is_overdue() -> None:
    said = "usage\npython: No module named launcher\n"
    broken = pod(0, "Failed", containerStatuses=terminated(1, message=said))
    assert "its record is awaited" in seen(broken, pod(1), patient=True).settling
    assert seen(broken, pod(1)).ended.endswith("exit code 1: python: No module named launcher")
    assert not seen(broken, pod(1), reported=frozenset({0}), patient=True).settling


def test_a_pod_whose_node_is_silent_is_unknown_and_its_host_is_to_blame_once_it_is_given_up() -> (
    None
):
    lost = pod(1, conditions=[{"type": "Ready", "status": "False"}])
    node = seen(pod(0), lost).nodes[1]
    assert node.alive is None and "lost touch with gpu-1" in node.trouble
    lost["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z"
    target = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    lost["status"]["conditions"].append(target)
    told = seen(pod(0), lost)
    assert "evicted from a node that is tainted or does not answer" in told.ended
    assert told.blamed == {"gpu-1": "unreachable"}


def test_pods_that_are_to_go_have_their_grace_period() -> None:
    going = pod(1)
    going["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    for job in (JOB, None):
        assert "its ranks save and end" in seen(pod(0), going, job=job).settling
    going["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z"
    assert "was deleted" in seen(pod(0), going).ended
    assert seen(pod(0), going, job=None).cancelled == "jobset r-1 was deleted"


def test_its_own_word_counts_for_more_than_what_befell_its_pods() -> None:
    ended = {"exit_code": 65, "error": "loss is nan"}
    assert seen(job=None, exit=ended) == Observation(seen(job=None, exit=ended).nodes)
    assert not seen(job=None, exit={"exit_code": 0}).cancelled


def test_an_attempt_that_gave_way_and_whose_pods_are_gone_says_at_least_that() -> None:
    assert "preempted, evicted or deleted" in seen(yielded=True, exit={"exit_code": 68}).ended
    asked = seen(exit={"exit_code": 68})  # by `smolplan stop`
    assert not asked.ended and not asked.settling


def test_a_job_that_a_queue_has_put_back_ends_the_attempt_and_one_it_still_holds_waits() -> None:
    held = {**JOB, "spec": {"suspend": True}}
    assert "is suspended" in seen(job=held).waiting
    assert "is suspended" in seen(job=held, yielded=True, exit={"exit_code": 68}).ended


def test_a_job_that_fails_without_a_pod_is_told_of_in_its_own_words() -> None:
    condition = {"type": "Failed", "status": "True", "message": "quota exceeded"}
    assert "quota exceeded" in seen(job={**JOB, "status": {"conditions": [condition]}}).ended


def test_pods_that_wait_say_for_what() -> None:
    pending = pod(1, "Pending")
    pending["status"]["containerStatuses"] = [
        {"state": {"waiting": {"reason": "ContainerCreating"}}},
    ]
    assert seen(pod(0), pending).waiting == "1 of 2 nodes wait; node 1: ContainerCreating"
    assert seen(pod(0)).waiting == "1 of 2 nodes wait; node 1: it has no pod yet"
