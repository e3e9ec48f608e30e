"""A spec from a YAML file or a preset, with errors that name file, line, field and remedy."""

from importlib import resources
from pathlib import Path

import yaml

from smolplan.errors import UserError
from smolplan.spec.parse import parse_as, suggestion
from smolplan.spec.run import RunSpec

SEE = "smolplan spec presets"
"""Names all presets."""


def preset_names() -> list[str]:
    """Names of the bundled specs, sorted."""
    folder = resources.files("smolplan") / "presets"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def load_preset(name: str) -> RunSpec:
    """The bundled spec of that name. Raises UserError on an unknown one, with near names."""
    if name not in preset_names():
        raise UserError(
            f"there is no preset {name!r}",
            where="--preset",
            remedy=suggestion(name, preset_names(), SEE),
        )
    text = (resources.files("smolplan") / "presets" / f"{name}.yaml").read_text("utf-8")
    return parse_spec(text, where=f"preset {name}")


def load_spec(path: Path | str) -> RunSpec:
    """The spec in a YAML file, or, where there is no such file, the preset of that name.

    Raises UserError for a file that cannot be read and for anything wrong in it.
    """
    if path == "":
        raise UserError("a spec is needed", remedy=f"Give a YAML file or a preset. All: {SEE}")
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if str(path) in preset_names():
            return load_preset(str(path))
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(
            f"cannot read the spec: {reason}",
            where=str(path)[:200],
            remedy="Give a YAML file or a preset. " + suggestion(str(path), preset_names(), SEE),
        ) from None
    return parse_spec(text, where=str(path))


def parse_spec(text: str, *, where: str) -> RunSpec:
    """YAML text → RunSpec. `where` names its origin in errors. Raises UserError."""
    example = "See an example by: smolplan spec show tiny-cpu"
    return parse_as(RunSpec, text, where=where, example=example)


def dump_spec(spec: RunSpec) -> str:
    """The spec as YAML, every field written out; parse_spec gives it back equal."""
    content = spec.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
