"""A stand-in for kubectl and the cluster behind it, at the edge where they are programs.

What is created is held against the published schemas. A controller's and a scheduler's part is
played whenever somebody asks; a kubelet's by a process for each pod, which runs the container's
own argv here, as a process: so a run on this cluster trains. Its state is a folder of JSON files.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

Object = dict[str, Any]

INDEX = "batch.kubernetes.io/job-completion-index"
REPOSITORY = Path(__file__).parents[2]
KINDS = {
    "jobsets.jobset.x-k8s.io": "JobSet",
    "trainjobs.trainer.kubeflow.org": "TrainJob",
    "trainingruntimes.trainer.kubeflow.org": "TrainingRuntime",
    "pods": "Pod",
}
FLAGS = {
    "create": {"filename", "output"},
    "get": {"selector", "output"},
    "delete": {"ignore-not-found", "cascade", "wait"},
}
GLOBAL = {"context", "namespace", "request-timeout"}


class FakeCluster:
    """The state, and what tests do to it. Kept small on purpose: it knows what the backend uses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, folder: Path, hosts: list[str]) -> "FakeCluster":
        for part in ("objects", "bin", "site", "home", "logs"):
            (folder / part).mkdir(parents=True)
        cluster = cls(folder)
        cluster.set("hosts", hosts)
        kubectl = folder / "bin" / "kubectl"
        kubectl.write_text(
            f"#!{sys.executable} -S\nimport sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
            f"from tests.launcher.fake_kubectl import kubectl\nkubectl({str(folder)!r})\n"
        )
        kubectl.chmod(0o755)
        # The cluster's DNS, as a pod's processes see it.
        (folder / "site" / "sitecustomize.py").write_text(
            DNS.format(objects=str(folder / "objects"))
        )
        return cluster

    # What is set from outside: hosts, api (what it answers with), suspended, images, open_files
    # (host → the most).

    def set(self, name: str, value: Any) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(value))

    def setting(self, name: str) -> Any:
        try:
            return json.loads((self.folder / f"{name}.json").read_text())
        except FileNotFoundError:
            return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def path(self, kind: str, name: str) -> Path:
        return self.folder / "objects" / f"{kind}.{name}.json"

    def all(self, kind: str) -> list[Object]:
        paths = sorted((self.folder / "objects").glob(f"{kind}.*.json"))
        return [json.loads(path.read_text()) for path in paths]

    def put(self, item: Object) -> None:
        path = self.path(item["kind"], item["metadata"]["name"])
        path.with_suffix(".new").write_text(json.dumps(item))
        path.with_suffix(".new").rename(path)

    def take(self, kind: str, name: str) -> Object | None:
        try:
            item: Object = json.loads(self.path(kind, name).read_text())
        except FileNotFoundError:
            return None
        return item

    def pods(self) -> list[Object]:
        return self.all("Pod")

    def disrupt(self, pod: str, reason: str, message: str = "") -> None:
        """As the scheduler, an eviction or the taint manager does."""
        with self.locked():
            item = self.take("Pod", pod)
            assert item is not None
            told = {"type": "DisruptionTarget", "status": "True", "reason": reason}
            item["status"]["conditions"].append({**told, "message": message})
            self.put(mark_deleted(item))

    def lose(self, pod: str) -> None:
        """Its host no longer answers: the pod stays as it was last seen, but is not ready."""
        with self.locked():
            item = self.take("Pod", pod)
            assert item is not None
            item["status"]["conditions"] = [
                {**c, "status": "False"} if c["type"] == "Ready" else c
                for c in item["status"]["conditions"]
            ]
            item["metadata"].setdefault("annotations", {})["lost"] = "yes"
            self.put(item)

    def left(self, kind: str) -> int:
        """How many of a kind are left, once the controllers have looked."""
        with self.locked():
            self.tick()
            return len(self.all(kind))

    # The controllers' part.

    def tick(self) -> None:
        suspended = bool(self.setting("suspended"))
        for kind in ("JobSet", "TrainJob"):
            for job in self.all(kind):
                job["spec"]["suspend"] = suspended
                pods = self.pods_of(job)
                if "deletionTimestamp" in job["metadata"]:
                    for pod in pods:
                        self.put(mark_deleted(pod))
                    if not pods:
                        self.path(kind, job["metadata"]["name"]).unlink()
                    continue
                if not pods and not suspended and "conditions" not in job["status"]:
                    self.make_pods(job)
                phases = [pod["status"]["phase"] for pod in pods]
                if "Failed" in phases:
                    self.finish(job, "Failed", "jobset failed due to one or more job failures")
                    for pod in pods:
                        if pod["status"]["phase"] in ("Pending", "Running"):
                            self.put(mark_deleted(pod))
                elif phases and set(phases) == {"Succeeded"}:
                    self.finish(job, "Completed", "jobset completed successfully")
                self.put(job)
        for pod in self.pods():
            if "nodeName" not in pod["spec"]:
                self.schedule(pod)
            if "deletionTimestamp" in pod["metadata"] and pod["status"]["phase"] != "Running":
                if pod["metadata"].get("finalizers"):  # it stays until its Job has counted it
                    self.put({**pod, "metadata": {**pod["metadata"], "finalizers": []}})
                else:
                    self.path("Pod", pod["metadata"]["name"]).unlink(missing_ok=True)

    def finish(self, job: Object, kind: str, message: str) -> None:
        told = {"type": kind, "status": "True", "reason": kind, "message": message}
        job["status"].setdefault("conditions", [told])

    def pods_of(self, job: Object) -> list[Object]:
        return [p for p in self.pods() if p["metadata"]["labels"].get("job") == job_name(job)]

    def make_pods(self, job: Object) -> None:
        spec = job["spec"]
        if job["kind"] == "TrainJob":
            runtime = self.take("TrainingRuntime", spec["runtimeRef"]["name"])
            assert runtime is not None
            spec = runtime["spec"]["template"]["spec"]
        (group,) = spec["replicatedJobs"]
        template = group["template"]["spec"]["template"]
        for i in range(group["template"]["spec"]["completions"]):
            host_name = f"{job_name(job)}-{group['name']}-0-{i}"
            pod = json.loads(json.dumps(template))
            pod |= {"apiVersion": "v1", "kind": "Pod"}
            pod["metadata"] |= {
                "name": f"{host_name}-{os.urandom(3).hex()[:5]}",
                "creationTimestamp": timestamp(time.time()),
                "annotations": {INDEX: str(i)},
                "finalizers": ["batch.kubernetes.io/job-tracking"],
            }
            pod["metadata"]["labels"]["job"] = job_name(job)
            pod["spec"] |= {"hostname": host_name, "subdomain": spec["network"]["subdomain"]}
            pod["status"] = {"phase": "Pending", "conditions": []}
            check(pod)
            self.put(pod)

    def schedule(self, pod: Object) -> None:
        affinity = pod["spec"]["affinity"]
        terms = affinity.get("nodeAffinity", {}).get(
            "requiredDuringSchedulingIgnoredDuringExecution", {"nodeSelectorTerms": []}
        )["nodeSelectorTerms"]
        out = {h for term in terms for rule in term["matchExpressions"] for h in rule["values"]}
        taken = {p["spec"].get("nodeName") for p in self.pods()}
        free = [host for host in self.setting("hosts") if host not in out | taken]
        status = pod["status"]
        scheduled = {"type": "PodScheduled", "status": "True" if free else "False"}
        status["conditions"] = [scheduled]
        if not free:
            message = f"0/{len(self.setting('hosts'))} nodes are available"
            scheduled |= {"reason": "Unschedulable", "message": message}
            self.put(pod)
            return
        pod["spec"]["nodeName"] = free[0]
        waits = {"reason": "ContainerCreating"}
        broken = self.setting("images") == "broken"
        if broken:
            waits = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
        status["containerStatuses"] = [container_status(pod, {"waiting": waits}, ready=False)]
        self.put(pod)
        if not broken:
            name = pod["metadata"]["name"]
            program = "from tests.launcher.fake_kubectl import kubelet; kubelet()"
            subprocess.Popen(
                [sys.executable, "-S", "-c", program, str(self.folder), name],
                cwd=REPOSITORY,
                env={k: v for k, v in os.environ.items() if k != "SMOLPLAN_ATTEMPT_TOKEN"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(self.folder / "logs" / f"{name}.kubelet").open("w"),
                start_new_session=True,
            )


def job_name(job: Object) -> str:
    name: str = job["metadata"]["name"]
    return name


def mark_deleted(item: Object) -> Object:
    grace_s = item["spec"].get("terminationGracePeriodSeconds", 30)
    item["metadata"].setdefault("deletionTimestamp", timestamp(time.time() + grace_s))
    return item


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def container_status(pod: Object, state: Object, *, ready: bool) -> Object:
    (container,) = pod["spec"]["containers"]
    told = {"name": container["name"], "image": container["image"], "imageID": ""}
    return {**told, "ready": ready, "restartCount": 0, "state": state}


def check(item: Object) -> None:
    import site

    site.main()  # left out at the start, since it takes longer than most calls
    from tests.launcher.kubernetes_schema import faults

    if found := faults(item):
        refuse(f"error validating data: {'; '.join(found)}")


def refuse(message: str) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(1)


# kubectl


def kubectl(folder: str) -> None:
    cluster = FakeCluster(Path(folder))
    words = [w for w in sys.argv[1:] if not w.startswith("-")]
    flags = dict(w[2:].partition("=")[::2] for w in sys.argv[1:] if w.startswith("--"))
    if words == ["config", "current-context"]:
        sys.stdout.write(cluster.setting("context") or refuse("error: current-context is not set"))
        return
    verb, *names = words
    for flag in flags.keys() - FLAGS[verb] - GLOBAL:
        refuse(f"error: unknown flag: --{flag}")
    if answer := cluster.setting("api"):
        refuse(answer)
    with (cluster.folder / "calls").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    with cluster.locked():
        if verb == "create":
            create(cluster, flags["namespace"])
        elif verb == "get":
            cluster.tick()
            label, _, value = flags["selector"].partition("=")
            items = [
                item
                for kind in names[0].split(",")
                for item in cluster.all(KINDS[kind])
                if item["metadata"]["labels"].get(label) == value
            ]
            json.dump({"apiVersion": "v1", "kind": "List", "items": items}, sys.stdout)
        else:
            delete(cluster, names, flags)


def create(cluster: FakeCluster, namespace: str) -> None:
    failed = []
    for item in json.load(sys.stdin)["items"]:
        name = item["metadata"]["name"]
        assert item["metadata"]["namespace"] == namespace
        check(item)
        kind = item["kind"]
        if cluster.take(kind, name) is not None:
            failed.append(f"Error from server (AlreadyExists): {kind} {name!r} already exists")
            continue
        cluster.put({**item, "status": {}})
        sys.stdout.write(f"{kind.lower()}/{name}\n")
    if failed:
        refuse("\n".join(failed))


def delete(cluster: FakeCluster, names: list[str], flags: dict[str, str]) -> None:
    for kind, _, name in (word.partition("/") for word in names):
        item = cluster.take(KINDS[kind], name)
        if item is None and "ignore-not-found" not in flags:
            refuse(f'Error from server (NotFound): {kind} "{name}" not found')
        if item is None:
            continue
        if flags.get("cascade") == "foreground" and KINDS[kind] != "TrainingRuntime":
            cluster.put(mark_deleted(item))
        else:
            cluster.path(KINDS[kind], name).unlink()
        for pod in cluster.pods_of(item):
            cluster.put(mark_deleted(pod))


# A kubelet, for one pod


def kubelet() -> None:
    folder, name = sys.argv[1:]
    cluster = FakeCluster(Path(folder))
    with cluster.locked():
        pod = cluster.take("Pod", name)
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return
        running = {"running": {"startedAt": timestamp(time.time())}}
        pod["status"]["phase"] = "Running"
        pod["status"]["conditions"].append({"type": "Ready", "status": "True"})
        pod["status"]["containerStatuses"] = [container_status(pod, running, ready=True)]
        cluster.put(pod)
    (container,) = pod["spec"]["containers"]
    environment = container_environment(cluster, pod, container)
    log = cluster.folder / "logs" / f"{name}.log"
    with log.open("wb") as output:
        program = subprocess.Popen(
            [*held_to(cluster, pod), *(expand(w, environment) for w in container["command"])],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    told = False
    while program.poll() is None:
        now = cluster.take("Pod", name)
        if now is None or ("deletionTimestamp" in now["metadata"] and not told and not lost(now)):
            told = True
            terminate(pod, container, program, environment)
        time.sleep(0.05)
    code = program.returncode if program.returncode >= 0 else 128 - program.returncode
    past: Object = {"exitCode": code, "reason": "Error" if code else "Completed"}
    if code:
        past["message"] = log.read_text(errors="replace")[-2048:]
    with cluster.locked():
        now = cluster.take("Pod", name)
        if now is not None and not lost(now):
            now["status"]["phase"] = "Failed" if code else "Succeeded"
            ended = container_status(pod, {"terminated": past}, ready=False)
            now["status"]["containerStatuses"] = [ended]
            cluster.put(now)


def held_to(cluster: FakeCluster, pod: Object) -> list[str]:
    """A host's own limit of open files, where one is set."""
    limit = (cluster.setting("open_files") or {}).get(pod["spec"]["nodeName"])
    return [] if limit is None else ["prlimit", f"--nofile={limit}"]


def lost(pod: Object) -> bool:
    return "lost" in pod["metadata"]["annotations"]


def terminate(
    pod: Object, container: Object, program: subprocess.Popen[bytes], environment: dict[str, str]
) -> None:
    """preStop, then SIGTERM, then, when the grace period is over, SIGKILL to all."""
    deadline = time.monotonic() + pod["spec"]["terminationGracePeriodSeconds"]
    hook = container["lifecycle"]["preStop"]["exec"]["command"]
    with subprocess.Popen(hook, env=environment, cwd="/", stdin=subprocess.DEVNULL) as process:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    program.terminate()
    while program.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if program.poll() is None:
        os.killpg(program.pid, signal.SIGKILL)


def container_environment(cluster: FakeCluster, pod: Object, container: Object) -> dict[str, str]:
    """The image's variables, then the container's. Nothing of the launcher's own is seen."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": f"{cluster.folder / 'site'}:{REPOSITORY}",
        "HOME": str(cluster.folder / "home"),
        "HOSTNAME": pod["spec"]["hostname"],
        "JOB_COMPLETION_INDEX": pod["metadata"]["annotations"][INDEX],
    }
    for variable in container["env"]:
        if "value" in variable:
            environment[variable["name"]] = expand(variable["value"], environment)
        else:
            assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
            environment[variable["name"]] = pod["spec"]["nodeName"]
    return environment


def expand(text: str, environment: dict[str, str]) -> str:
    """As the kubelet does in arguments and values: $$ is a dollar, $(NAME) a variable that is
    known, and anything else stays."""

    def put(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else environment.get(name, match[0])

    return re.sub(r"\$(?:\$|\(([^)]*)\))", put, text)


DNS = """
import json, re, socket
from pathlib import Path

_real = socket.getaddrinfo


def _find(host, *arguments, **named):
    match = re.fullmatch(r"([a-z0-9-]+)\\.([a-z0-9-]+)", str(host))
    if match:
        for path in Path({objects!r}).glob("Pod.*.json"):
            spec = json.loads(path.read_text())["spec"]
            if (spec["hostname"], spec["subdomain"]) == match.groups() and "nodeName" in spec:
                return _real("127.0.0.1", *arguments, **named)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return _real(host, *arguments, **named)


socket.getaddrinfo = _find
"""
