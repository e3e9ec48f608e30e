"""Makes published.json out of the schemas that others publish (README.md says which, and how).

    python tests/launcher/schemas/prune.py published.json CRD.yaml … FOLDER

A CRD is read from its YAML; Kubernetes' own kinds from FOLDER, a strict set of kubernetes-json-
schema. Left out is what no manifest is checked against: descriptions, status, defaults.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

KINDS = {"Job": "io.k8s.api.batch.v1.Job", "Pod": "io.k8s.api.core.v1.Pod"}
"""Kubernetes' own kinds: a JobSet's child, and what runs."""

DROPPED = frozenset({"description", "default", "$schema", "x-kubernetes-validations"})
SHARED_FROM = 120
"""Characters from which a part that occurs twice is written once, under $defs."""


def main(output: str, *sources: str) -> None:
    kinds: dict[str, Any] = {}
    for source in map(Path, sources):
        if source.is_dir():
            known = json.loads((source / "_definitions.json").read_text("utf-8"))["$defs"]
            kinds |= {kind: resolve(known, known[name]) for kind, name in KINDS.items()}
        else:
            crd = yaml.safe_load(source.read_text("utf-8"))["spec"]
            (version,) = [v for v in crd["versions"] if v["storage"]]
            kinds[crd["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    parts = {kind: strict(clean(schema)) for kind, schema in kinds.items()}
    for kind in sorted(parts.keys() - KINDS.keys()):
        parts[kind]["properties"].pop("status", None)
        # As a CRD leaves it open: that it is Kubernetes' own.
        parts[kind]["properties"]["metadata"] = parts["Pod"]["properties"]["metadata"]
        parts[kind]["required"] = ["apiVersion", "kind", "metadata", "spec"]
    counts: Counter[str] = Counter()
    for schema in parts.values():
        count(schema, counts)
    names = {text: f"d{i}" for i, text in enumerate(t for t, n in counts.items() if n > 1)}
    lines = [
        *(f"{json.dumps(k)}: {json.dumps(share(s, names, root=True))}" for k, s in parts.items()),
        '"$defs": {\n'
        + ",\n".join(
            f"{json.dumps(name)}: {json.dumps(share(json.loads(text), names, root=True))}"
            for text, name in names.items()
        )
        + "\n}",
    ]
    Path(output).write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def resolve(known: dict[str, Any], schema: Any, seen: tuple[str, ...] = ()) -> Any:
    """With what it refers to in its place."""
    if isinstance(schema, list):
        return [resolve(known, part, seen) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(reference := schema.get("$ref"), str):
        name = reference.rpartition("/")[2]
        return {} if name in seen else resolve(known, known[name], (*seen, name))
    return {k: resolve(known, v, seen) for k, v in schema.items()}


def clean(schema: Any, *, names: bool = False) -> Any:
    """Without what is no rule. `names`: the keys are fields of an object, not of a schema."""
    if isinstance(schema, list):
        return [clean(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        k: clean(v, names=k in ("properties", "patternProperties") and not names)
        for k, v in schema.items()
        if names or k not in DROPPED
    }
    if kept.pop("x-kubernetes-int-or-string", False) is True:
        kept = {
            "type": ["integer", "string"],
            **({"pattern": p} if (p := kept.get("pattern")) else {}),
        }
    return kept if names else {k: v for k, v in kept.items() if not k.startswith("x-kubernetes-")}


def strict(schema: Any, *, names: bool = False) -> Any:
    """No field beyond those named: the API server drops it, or refuses it when asked to be
    strict."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {
        k: strict(v, names=k in ("properties", "patternProperties") and not names)
        for k, v in schema.items()
    }
    if not names and "properties" in out:
        out.setdefault("additionalProperties", False)
    return out


def count(schema: Any, counts: Counter[str]) -> None:
    if isinstance(schema, dict):
        text = json.dumps(schema, sort_keys=True)
        if len(text) > SHARED_FROM and is_schema(schema):
            counts[text] += 1
            if counts[text] > 1:
                return
        for part in schema.values():
            count(part, counts)
    elif isinstance(schema, list):
        for part in schema:
            count(part, counts)


def is_schema(part: dict[str, Any]) -> bool:
    return isinstance(part.get("type"), (str, list)) and not isinstance(part.get("type"), dict)


def share(schema: Any, names: dict[str, str], *, root: bool = False) -> Any:
    if isinstance(schema, dict):
        text = json.dumps(schema, sort_keys=True)
        if not root and text in names:
            return {"$ref": f"#/$defs/{names[text]}"}
        return {k: share(v, names) for k, v in schema.items()}
    if isinstance(schema, list):
        return [share(part, names) for part in schema]
    return schema


if __name__ == "__main__":
    main(*sys.argv[1:])
