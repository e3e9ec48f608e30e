"""A spec from a YAML file or a preset, with errors that name file, line, field and remedy."""

import difflib
import re
from collections.abc import Hashable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from smolplan.errors import UserError
from smolplan.spec.run import RunSpec


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice: YAML's silent last-one-wins hides mistakes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # << is no key, and may come twice
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(
                    problem="a name of a field is expected here", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the field {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def preset_names() -> list[str]:
    """Names of the bundled specs, sorted."""
    folder = resources.files("smolplan") / "presets"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def suggestion(name: str, known: list[str]) -> str:
    """What to say of an unknown name: the near ones if there are any, else all."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(near) + "?"
    return "Known: " + ", ".join(known) + "."


def load_preset(name: str) -> RunSpec:
    """The bundled spec of that name. Raises UserError on an unknown one, with near names."""
    if name not in preset_names():
        raise UserError(
            f"there is no preset {name!r}",
            where="--preset",
            remedy=suggestion(name, preset_names()),
        )
    text = (resources.files("smolplan") / "presets" / f"{name}.yaml").read_text("utf-8")
    return parse_spec(text, where=f"preset {name}")


def load_spec(path: Path | str) -> RunSpec:
    """The spec in a YAML file, or, where there is no such file, the preset of that name.

    Raises UserError for a file that cannot be read and for anything wrong in it.
    """
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
            remedy="Give a YAML file or a preset. " + suggestion(str(path), preset_names()),
        ) from None
    return parse_spec(text, where=str(path))


def parse_spec(text: str, *, where: str) -> RunSpec:
    """YAML text → RunSpec. `where` names its origin in errors. Raises UserError."""
    try:
        root = yaml.compose(text, Loader=_StrictLoader)
        content = yaml.load(text, Loader=_StrictLoader)  # a SafeLoader, so no code can run
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(
            f"not valid YAML: {getattr(error, 'problem', error)}", where=where + line
        ) from None
    except (ValueError, TypeError, RecursionError) as error:
        # A date of the 45th day, a number of five thousand digits, five thousand brackets.
        raise UserError(f"not valid YAML: {error}", where=where) from None
    if not isinstance(content, dict):
        raise UserError(
            "a run spec is a mapping of fields",
            where=where,
            remedy="See an example by: smolplan spec show tiny-cpu",
        )
    try:
        return RunSpec.model_validate(content)
    except ValidationError as error:
        raise _explain(error, root, where) from None


def dump_spec(spec: RunSpec) -> str:
    """The spec as YAML, every field written out; parse_spec gives it back equal."""
    content = spec.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


_PLAIN = {
    "model_type": "a mapping of fields belongs here",
    "model_attributes_type": "a mapping of fields belongs here",
    "dict_type": "a mapping belongs here",
    "tuple_type": "a list belongs here",
    "string_type": "text belongs here; put it in quotes",
    "int_type": "a whole number belongs here",
    "float_type": "a number belongs here",
    "float_parsing": "a number belongs here",
    "bool_type": "true or false belongs here",
    "bool_parsing": "true or false belongs here",
}
"""pydantic's words where they speak of Python."""


def _explain(error: ValidationError, root: yaml.Node | None, where: str) -> UserError:
    sentences = []
    for problem in error.errors():
        loc = tuple(part for part in problem["loc"] if part != "[key]")
        message = problem["msg"].removeprefix("Value error, ")
        # A rule over several parts begins with the field that is to be changed.
        if named := re.match(r"(?:\w+\.)+\w+", message) if not loc else None:
            loc = tuple(named[0].split("."))
            message = message.removeprefix(named[0]).lstrip()
        field = ".".join(str(part) for part in loc)
        line = _line_of(root, loc)
        place = f"{where}:{line}" + (f": {field}" if field else "")
        if problem["type"] == "extra_forbidden":
            known = _fields_of(RunSpec, loc[:-1])
            what = f"there is no field {loc[-1]!r} here. {suggestion(str(loc[-1]), known)}"
        elif problem["type"] == "missing":
            what = "this field is required and missing"
        else:
            what = _PLAIN.get(problem["type"], message)
            given = problem["input"]
            if not isinstance(given, dict | list | tuple | BaseModel) and repr(given) not in what:
                what += f", got {given!r}"
        sentences.append(f"{place}: {what}")
    return UserError("\n".join(sentences))


def _line_of(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """Line (from 1) of the innermost node on the way to `loc` that the file really has."""
    if node is None:
        return 1
    line = node.start_mark.line + 1
    for part in loc:
        children: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        if isinstance(node, yaml.MappingNode):
            children = {key.value: (key, value) for key, value in node.value}
        elif isinstance(node, yaml.SequenceNode):
            children = {i: (value, value) for i, value in enumerate(node.value)}
        if part not in children:
            break
        key, node = children[part]
        line = key.start_mark.line + 1
    return int(line)


def _fields_of(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        annotation = field.annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return sorted(model.model_fields)
