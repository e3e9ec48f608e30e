"""How the processes are started."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from smolplan.spec.fields import Count, CountOrZero, Seconds, SpecPart, UserPath


def _environment_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is not a name of an environment variable")
    return name


def _environment_value(value: str) -> str:
    if "\0" in value:
        raise ValueError(f"{value!r} has a NUL, which no environment variable can hold")
    return value


class LaunchSpec(SpecPart):
    backend: Literal["local"] = Field(default="local", description="This machine.")
    runs_dir: UserPath | None = Field(
        default=None, description="Folder of the run directories; ./runs unless given."
    )
    environment: dict[
        Annotated[str, AfterValidator(_environment_name)],
        Annotated[str, AfterValidator(_environment_value)],
    ] = Field(default={}, description="Environment variables of every rank.")
    threads_per_rank: Count = Field(default=1, description="CPU threads of one rank.")
    rendezvous_port: CountOrZero = Field(
        default=0, le=65535, description="TCP port of the rendezvous; 0 takes a free one."
    )
    collective_timeout_s: Seconds = Field(
        default=1800.0, description="A collective that takes longer breaks the attempt."
    )
