"""Field types that the parts of the spec share: numbers with units, and the common base."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from smolplan.units import parse_count, parse_duration_s


class AddedLater:
    """Marks a field that the spec's first version lacked: it is written out only where it is not
    its default, so that a spec of before keeps its YAML and its hash."""


ADDED_LATER = AddedLater()


class SpecPart(BaseModel):
    """Base of every part of the spec: frozen, and a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        for name, field in type(self).model_fields.items():
            if ADDED_LATER in field.metadata and getattr(self, name) == field.default:
                content.pop(name, None)
        return content


SECRET = "secret_given"
"""Type of the error of a value that may hold a password: it is not repeated."""


def secret_given(what: str) -> PydanticCustomError:
    return PydanticCustomError(SECRET, "{what}", {"what": what})


LARGEST = 10**18
"""A thousand times the tokens of any run there was; beyond it floats no longer count exactly."""


def _whole(value: Any) -> Any:
    number = parse_count(value)
    if number != int(number):
        raise ValueError(f"{value!r} is not a whole number; write it like 3B, 11T, 2M or 384")
    if abs(number) > LARGEST:
        raise ValueError(f"{number:.3g} is more than anyone has; write it like 3B, 11T or 384")
    return int(number)


def _path(value: Any) -> Any:
    """Raises ValueError for what is no path, and for the home of a user that there is not."""
    if not isinstance(value, str | Path):
        raise ValueError(f"{value!r} is not a path; write it in quotes")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"{str(value)!r} begins with the home of an unknown user") from None


def _schema(kind: str, pattern: str, **bounds: float) -> WithJsonSchema:
    """For editors: a number within its bounds, or a text of that pattern; `format` names both."""
    return WithJsonSchema(
        {"type": ["number", "string"], "pattern": pattern, "format": kind, **bounds}
    )


_COUNT_TEXT = r"^[0-9][0-9_,]*(\.[0-9]*)?([eE]\+?[0-9]+)? ?[kKmMbBtTqQ]?$"
_SPAN_TEXT = r"^[0-9][0-9_,]*(\.[0-9]*)?([eE]-?[0-9]+)? ?[A-Za-z]*$"

Count = Annotated[
    int, BeforeValidator(_whole), Field(gt=0), _schema("count", _COUNT_TEXT, minimum=1)
]
"""A positive whole number; "11T" and 11e12 are read too."""

CountOrZero = Annotated[
    int, BeforeValidator(_whole), Field(ge=0), _schema("count", _COUNT_TEXT, minimum=0)
]
"""As Count, or 0."""

Seconds = Annotated[
    float,
    BeforeValidator(parse_duration_s),
    Field(gt=0),
    _schema("duration", _SPAN_TEXT, exclusiveMinimum=0),
]
"""A span of time in seconds; "30s", "4h" and "4w" are read too."""

UserPath = Annotated[Path, BeforeValidator(_path), WithJsonSchema({"type": "string"})]
"""A path; a leading ~ is the home folder."""
