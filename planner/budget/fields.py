"""Numbers of a budget as people write them, with bounds that keep every answer finite."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from smolplan.spec.fields import Seconds
from smolplan.units import parse_bytes, parse_bytes_per_s, parse_count, parse_plain


def _share(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        return parse_plain(value.strip()[:-1], "a share", "0.3 or 30%") / 100
    return parse_plain(value, "a share", "0.3 or 30%")


def _dollars(value: Any) -> Any:
    if isinstance(value, str):
        value = value.strip().removeprefix("$")
        return parse_count(value)
    return value


Share = Annotated[float, BeforeValidator(_share), Field(ge=1e-6, le=1)]
"""A share from a millionth to 1; "30%" is read too."""

Bytes = Annotated[float, BeforeValidator(parse_bytes), Field(ge=0, le=1e24)]
"""A size; "24TB" is read too."""

Bandwidth = Annotated[float, BeforeValidator(parse_bytes_per_s), Field(ge=1)]
"""Bytes per second; "2.2GB/s" and "400Gb/s" are read too."""

Dollars = Annotated[float, BeforeValidator(_dollars), Field(ge=1e-6, le=1e15)]
"""US dollars; "$2.50" and "$3M" are read too."""

GpuHours = Annotated[float, BeforeValidator(parse_count), Field(ge=0, le=1e15)]
"""GPU-hours; "46,080" and "1.5k" are read too."""

Span = Annotated[Seconds, Field(ge=1, le=1e10)]
"""A span from a second to three centuries; "4h" is read too."""
