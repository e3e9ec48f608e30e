"""YAML text to a pydantic model, with errors that name file, line, field, value and remedy."""

import difflib
import re
from collections.abc import Hashable
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from smolplan.errors import UserError
from smolplan.spec.fields import SECRET

Model = TypeVar("Model", bound=BaseModel)


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


def suggestion(name: str, known: list[str], see: str = "") -> str:
    """What to say of an unknown name: the near ones if there are any, else all, or where they
    stand."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(near) + "?"
    return f"All {len(known)}: {see}" if see else "Known: " + ", ".join(known) + "."


def parse_as(model: type[Model], text: str, *, where: str, example: str) -> Model:
    """`where` names the text's origin in errors, `example` is the remedy for what is no mapping at
    all. Raises UserError."""
    try:
        root = yaml.compose(text, Loader=_StrictLoader)
        content = yaml.load(text, Loader=_StrictLoader)  # a SafeLoader, so no code can run
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        problem = problem.replace("but found another document", "a second document begins here")
        raise UserError(f"not valid YAML: {problem}", where=where + line) from None
    except (ValueError, TypeError, RecursionError) as error:
        # A date of the 45th day, a number of five thousand digits, five thousand brackets.
        raise UserError(f"not valid YAML: {error}", where=where) from None
    if not isinstance(content, dict):
        raise UserError("a mapping of fields belongs here", where=where, remedy=example)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        sentences = [_sentence(model, problem, root, where) for problem in error.errors()]
        raise UserError("\n".join(sentences)) from None


def place_of(text: str, field: str, *, where: str) -> str:
    """File, line and name of a field, as errors have them, of a text that parse_as has taken."""
    line, _ = _found(yaml.compose(text, Loader=_StrictLoader), tuple(field.split(".")))
    return f"{where}:{line}: {field}"


_SAID = {
    "missing": "this field is required and missing",
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


def _sentence(model: type[BaseModel], problem: Any, root: yaml.Node | None, where: str) -> str:
    loc: tuple[int | str, ...] = tuple(part for part in problem["loc"] if part != "[key]")
    message = _SAID.get(problem["type"], problem["msg"])
    message = message.removeprefix("Value error, ").replace("Input should be", "it must be")
    # A rule over several fields or parts begins with the field that is to be changed.
    if not loc and (named := re.match(r"(?:\w+\.)+\w+", message)):
        loc = tuple(named[0].split("."))
        message = message.removeprefix(named[0]).lstrip()
    elif (
        problem["type"] == "value_error"
        and (named := re.match(r"(\w+):? (?!and\b)", message))
        and named[1] in known_fields(_part(model, loc))
    ):
        loc = (*loc, named[1])
        message = message.removeprefix(named[0])
    line, whole = _found(root, loc)
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    place = f"{where}:{line}" + (f": {field.removeprefix('.')}" if loc else "")
    if problem["type"] == "extra_forbidden":
        known = known_fields(_part(model, loc[:-1]))
        return f"{place}: there is no field {loc[-1]!r} here. {suggestion(str(loc[-1]), known)}"
    given = problem["input"]
    told = problem["type"] == "value_error" and repr(given) in message
    told = told or problem["type"] == SECRET
    if whole and not told and not isinstance(given, dict | list | tuple | BaseModel):
        message += f", got {given!r}"
    return f"{place}: {message}"


def known_fields(part: type[BaseModel]) -> list[str]:
    """Names that may stand in a part: its fields, and what it reads into them (also_read)."""
    return sorted({*part.model_fields, *getattr(part, "also_read", ())})


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
