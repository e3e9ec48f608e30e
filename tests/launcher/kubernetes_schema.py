"""Manifests against the schemas that their makers publish (schemas/README.md)."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

API_VERSIONS = {
    "JobSet": "jobset.x-k8s.io/v1alpha2",
    "TrainJob": "trainer.kubeflow.org/v1alpha1",
    "TrainingRuntime": "trainer.kubeflow.org/v1alpha1",
    "Job": "batch/v1",
    "Pod": "v1",
}


@cache
def _published() -> dict[str, Any]:
    path = Path(__file__).with_name("schemas") / "published.json"
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    published = _published()
    return jsonschema.Draft202012Validator({**published[kind], "$defs": published["$defs"]})


def faults(manifest: dict[str, Any]) -> list[str]:
    """What an API server that is asked to be strict would refuse."""
    kind = manifest.get("kind", "")
    if manifest.get("apiVersion") != API_VERSIONS.get(kind):
        return [f"no matches for kind {kind!r} in version {manifest.get('apiVersion')!r}"]
    found = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in _validator(kind).iter_errors(manifest)
    ]
    for spec in jobset_specs(manifest):
        for job in spec["replicatedJobs"]:
            # A JobSet's child, as Kubernetes itself describes it.
            child = {"apiVersion": "batch/v1", "kind": "Job", "spec": job["template"]["spec"]}
            found += faults(child)
    return found


def jobset_specs(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    if manifest["kind"] == "JobSet":
        return [manifest["spec"]]
    if manifest["kind"] == "TrainingRuntime":
        return [manifest["spec"]["template"]["spec"]]
    return []
