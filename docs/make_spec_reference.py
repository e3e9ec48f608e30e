"""`python docs/make_spec_reference.py`: docs/spec.md and the JSON schema, from the spec itself."""

import json
from pathlib import Path
from typing import Any

from smolplan.spec import RunSpec

HEADER = """# The run spec

One YAML file that planner, preflight, launcher, trainer and monitor all read. For editors:
[run-spec.schema.json](run-spec.schema.json). Start from `smolplan spec show tiny-cpu`.
Counts read `11T`, durations `4w`. Made by `python docs/make_spec_reference.py`.
"""


def _kind(field: dict[str, Any]) -> str:
    options = field.get("anyOf", [field])
    names = [
        " or ".join(map(str, o["enum"]))
        if "enum" in o
        else str(o.get("const", o.get("format", o.get("type", ""))))
        for o in options
    ]
    return " or ".join(n for n in names if n and n != "null")


def reference() -> str:
    schema = RunSpec.model_json_schema()
    parts = [HEADER]
    sections = {"(top level)": schema}
    for name, field in schema["properties"].items():
        target = field.get("$ref") or next(iter(field.get("allOf", [{}]))).get("$ref")
        if target:
            sections[name] = schema["$defs"][target.rpartition("/")[2]]
    for name, section in sections.items():
        parts.append(f"\n## {name}\n\n| field | type | default | |\n|---|---|---|---|\n")
        for key, field in section["properties"].items():
            if "$ref" in field:
                continue
            default = field.get("default")
            shown = "required" if key in section.get("required", []) else f"`{default}`"
            if default is None and shown != "required":
                shown = ""
            parts.append(f"| {key} | {_kind(field)} | {shown} | {field.get('description', '')} |\n")
    return "".join(parts)


if __name__ == "__main__":
    folder = Path(__file__).parent
    (folder / "spec.md").write_text(reference())
    schema_text = json.dumps(RunSpec.model_json_schema(), indent=1) + "\n"
    (folder / "run-spec.schema.json").write_text(schema_text)
