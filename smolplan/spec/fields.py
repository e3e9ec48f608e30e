"""Field types that the parts of the spec share: numbers with units, and the common base."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from smolplan.units import parse_bytes, parse_count, parse_duration_s


class SpecPart(BaseModel):
    """Base of every part of the spec: frozen, and a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _whole(value: Any) -> Any:
    number = parse_count(value)
    if number != int(number):
        raise ValueError(f"{value!r} is not a whole number; write it like 3B, 11T, 2M or 384")
    return int(number)


Count = Annotated[int, BeforeValidator(_whole), Field(gt=0)]
"""A positive whole number; "11T" and 11e12 are read too."""

Seconds = Annotated[float, BeforeValidator(parse_duration_s), Field(gt=0)]
"""A span of time in seconds; "30s", "4h" and "4w" are read too."""

Bytes = Annotated[float, BeforeValidator(parse_bytes), Field(gt=0)]
"""A size in bytes; "80GB" and "512MiB" are read too."""

UserPath = Annotated[Path, BeforeValidator(lambda value: Path(value).expanduser())]
"""A path; a leading ~ is the home folder."""
