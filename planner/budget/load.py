"""A budget from a YAML file or a bundled preset, with errors that name file, line, field, value
and what would be right."""

import re
from collections.abc import Hashable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from planner.budget.spec import BudgetSpec
from smolplan.errors import UserError
from smolplan.spec.load import suggestion

EXAMPLE = "See an example by: smolplan budget --preset smollm3-3b"


class _OnceLoader(yaml.SafeLoader):
    """SafeLoader that refuses a field given twice, of which YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a name of a field is expected here", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the field {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def budget_presets() -> list[str]:
    """Names of the bundled budgets, sorted."""
    folder = resources.files("planner.budget") / "presets"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def load_budget_preset(name: str) -> BudgetSpec:
    """The bundled budget of that name. Raises UserError with near names."""
    if name not in budget_presets():
        raise UserError(
            f"there is no bundled budget {name!r}",
            where="--preset",
            remedy=suggestion(name, budget_presets()),
        )
    file = resources.files("planner.budget") / "presets" / f"{name}.yaml"
    return parse_budget(file.read_text("utf-8"), where=f"preset {name}")


def load_budget(path: Path) -> BudgetSpec:
    """The budget in a file. Raises UserError for one that cannot be read, and for what is wrong."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(
            f"cannot read the budget: {reason}", where=str(path)[:200], remedy=EXAMPLE
        ) from None
    return parse_budget(text, where=str(path))


def parse_budget(text: str, *, where: str) -> BudgetSpec:
    """YAML → BudgetSpec. `where` names its origin in errors. Raises UserError."""
    try:
        root = yaml.compose(text, Loader=_OnceLoader)
        content = yaml.load(text, Loader=_OnceLoader)  # a SafeLoader, so no code can run
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"not valid YAML: {problem}", where=where + line) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"not valid YAML: {error}", where=where) from None
    if not isinstance(content, dict):
        raise UserError("a budget is a mapping of fields", where=where, remedy=EXAMPLE)
    try:
        return BudgetSpec.model_validate(content)
    except ValidationError as error:
        sentences = [_sentence(problem, root, where) for problem in error.errors()]
        raise UserError("\n".join(sentences)) from None


_SAID = {
    "missing": "this field is required and missing",
    "model_type": "a mapping of fields belongs here",
    "model_attributes_type": "a mapping of fields belongs here",
    "tuple_type": "a list belongs here: begin its lines with a dash",
    "string_type": "text belongs here; put it in quotes",
    "float_parsing": "a number belongs here",
    "float_type": "a number belongs here",
    "bool_parsing": "true or false belongs here",
}
"""pydantic's words where they speak of Python."""


def _sentence(problem: Any, root: yaml.Node | None, where: str) -> str:
    loc: tuple[int | str, ...] = problem["loc"]
    message = _SAID.get(problem["type"], problem["msg"])
    message = message.removeprefix("Value error, ").replace("Input should be", "it must be")
    # A rule over several parts begins with the field that is to be changed.
    if not loc and (named := re.match(r"(?:\w+\.)+\w+", message)):
        loc = tuple(named[0].split("."))
        message = message.removeprefix(named[0]).lstrip()
    line, last = _found(root, loc)
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    place = f"{where}:{line}" + (f": {field.removeprefix('.')}" if loc else "")
    if problem["type"] == "extra_forbidden":
        known = sorted(_part(BudgetSpec, loc[:-1]).model_fields)
        return f"{place}: there is no field {loc[-1]!r} here. {suggestion(str(loc[-1]), known)}"
    given = problem["input"]
    said = problem["type"] == "value_error" and repr(given) in message
    if last and not said and not isinstance(given, dict | list | BaseModel):
        message += f", got {given!r}"
    return f"{place}: {message}"


def _found(node: yaml.Node | None, loc: tuple[int | str, ...]) -> tuple[int, bool]:
    """Line (from 1) of the innermost node on the way that the file has, and whether it is the
    last."""
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            children = {key.value: (key, value) for key, value in node.value}
        elif isinstance(node, yaml.SequenceNode):
            children = {i: (value, value) for i, value in enumerate(node.value)}
        else:
            return line, False
        if part not in children:
            return line, False
        key, node = children[part]
        line = key.start_mark.line + 1
    return line, True


def _part(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that stands at a place."""
    for name in loc:
        field = model.model_fields.get(str(name))
        if field is None:  # an index into a list
            continue
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return model
