"""`python docs/make_spec_reference.py`: docs/spec.md and the JSON schema, from the spec itself."""

import json
from pathlib import Path
from typing import Any

from smolplan.spec import RunSpec

HEADER = """# The run spec

One YAML file that planner, preflight, launcher, trainer and monitor all read. For editors:
[run-spec.schema.json](run-spec.schema.json). Start from `smolplan spec show tiny-cpu`, or from one
of the published models that `smolplan spec presets` lists.
Counts read `11T`, durations `4w`. Made by `python docs/make_spec_reference.py`.

## A model by its name
`model: {published: qwen3-30b-a3b}` is the shape of a model of the catalogue; fields beside it win.
`smolplan spec show` writes it out, and so does a run directory: the spec that is kept, and its
hash, hold the fields themselves.

    name: my-moe
    model:
      published: qwen3-30b-a3b
      layers: 24
    data: {seq_len: 4096}
    optim: {tokens: 1T, global_batch_size: 1024, learning_rate: 3e-4}
    parallel: {data_parallel: 64, expert_parallel: 8}
    cluster: {nodes: 8}

## A model by its layers
`layer_pattern` has a letter a layer and is repeated over them. `WWWWWA` is five layers with a
window and one without (Gemma 3), `LLLA` three of gated linear attention and one of attention
(Qwen3-Next), `MMMMMAMMMM` one of attention amid nine Mamba-2 ones (Granite 4). In lower case a
layer has no feed-forward part: `MMMmA` begins Nemotron-H's `M-M-M-M*-`.

    model:
      layers: 40
      layer_pattern: MMMMMAMMMM
      mamba: {heads: 48, head_dim: 64, state_size: 128}
      experts: {routed: 64, per_token: 6, ffn_hidden: 512, shared: 1, shared_ffn_hidden: 1024}
      ...

The planner counts all of this. The bundled trainer runs nearly all of it
([trainer.md](trainer.md)); `launch` refuses the rest and names the fields. `smolplan spec validate`
tells what is wrong with a file, `smolplan spec import` makes one of another trainer's
([import.md](import.md)).
"""


def _kind(field: dict[str, Any]) -> str:
    options = field.get("anyOf", [field])
    names = [
        " or ".join(map(str, o["enum"]))
        if "enum" in o
        else str(
            o.get("const", o.get("format", o.get("type", "its own part" if "$ref" in o else "")))
        )
        for o in options
    ]
    return " or ".join(n for n in names if n and n != "null")


def _part(field: dict[str, Any]) -> str | None:
    """The name of the definition that a field is, or may be."""
    for option in (field, *field.get("allOf", ()), *field.get("anyOf", ())):
        if "$ref" in option:
            return str(option["$ref"].rpartition("/")[2])
    return None


def _sections(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The spec's parts by their dotted names, each followed by its own."""
    found = {"(top level)": schema}

    def descend(section: dict[str, Any], prefix: str) -> None:
        for name, field in section["properties"].items():
            if (target := _part(field)) is not None:
                found[prefix + name] = schema["$defs"][target]
                descend(schema["$defs"][target], f"{prefix}{name}.")

    descend(schema, "")
    return found


def _rows(section: dict[str, Any]) -> str:
    rows = "| field | type | default | |\n|---|---|---|---|\n"
    required = section.get("required") or section.get("anyOf", [{}])[0].get("required", ())
    for key, field in section["properties"].items():
        if "$ref" in field:
            continue
        default = field.get("default")
        shown = "required" if key in required else "" if default is None else f"`{default}`"
        rows += f"| {key} | {_kind(field)} | {shown} | {field.get('description', '')} |\n"
    return rows


def reference() -> str:
    parts = [HEADER]
    for name, section in _sections(RunSpec.model_json_schema()).items():
        parts.append(f"\n## {name}\n\n")
        if name == "model":
            parts.append("Required unless `published` tells it.\n\n")
        parts.append(_rows(section))
    return "".join(parts)


if __name__ == "__main__":
    folder = Path(__file__).parent
    (folder / "spec.md").write_text(reference())
    schema_text = json.dumps(RunSpec.model_json_schema(), indent=1) + "\n"
    (folder / "run-spec.schema.json").write_text(schema_text)
