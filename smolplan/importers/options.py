"""What the user says besides the file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from smolplan.errors import UserError
from smolplan.spec import RunSpec
from smolplan.spec.parse import suggestion

_BETWEEN = re.compile(r",\s*(?=\w+(?:\.\w+)+=)")


@dataclass(frozen=True)
class Options:
    """GPUs of the run where the file names none, and fields that win over the file."""

    gpus: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    """By dotted name of the spec's field; already of the field's type (see parse_overrides)."""
    starts_from: Path | None = None
    """Folder of the weights that the run is to start from."""


def parse_overrides(given: Sequence[str]) -> dict[str, Any]:
    """["optim.tokens=11T"] → {"optim.tokens": 11_000_000_000_000}. Raises UserError."""
    known = _fields(RunSpec, "")
    overrides: dict[str, Any] = {}
    for item in given:
        name, sign, written = item.partition("=")
        if not sign:
            raise UserError(
                f"{item!r} has no value", where="--set", remedy="Write --set optim.tokens=11T."
            )
        if name not in known:
            raise UserError(
                f"a run spec has no field {name!r}",
                where="--set",
                remedy=suggestion(name, sorted(known), "smolplan spec schema"),
            )
        try:
            value = yaml.safe_load(written)
            annotation = known[name].rebuild_annotation()
            overrides[name] = TypeAdapter[Any](annotation).validate_python(value)
        except ValidationError as error:
            why = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"{name} cannot be {written!r}: {why}", where="--set") from None
        except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
            why = str(error).splitlines()[0]
            raise UserError(f"{name} cannot be {written!r}: {why}", where="--set") from None
    return overrides


def settings_of(written: str) -> list[str]:
    """["a.b=1", "c.d=[2, 3]"] of "a.b=1,c.d=[2, 3]": a comma that a field's name and = follow."""
    return _BETWEEN.split(written)


def spec_fields() -> list[str]:
    """Dotted names of all fields of the spec, in its order."""
    return list(_fields(RunSpec, ""))


def usual(name: str) -> Any:
    """What a field of the spec, by dotted name, is unless given; a value of its own where it must
    be given."""
    return _fields(RunSpec, "")[name].default


def _fields(model: type[BaseModel], prefix: str) -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for name, info in model.model_fields.items():
        part = _part(info.annotation)
        if part is not None:
            found |= _fields(part, f"{prefix}{name}.")
        else:
            found[prefix + name] = info
    return found


def _part(annotation: Any) -> type[BaseModel] | None:
    """The part that a field is, or may be; a list of parts is a value."""
    may_be = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    for candidate in (annotation, *may_be):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
