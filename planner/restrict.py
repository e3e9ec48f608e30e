"""What a person asks of a layout: "tp<=8,pp=1,zero=0"."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from planner.memory import Recompute, Schedule
from smolplan.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHORT_NAMES = {
    "dp": "data_parallel",
    "tp": "tensor_parallel",
    "pp": "pipeline_parallel",
    "vp": "virtual_pipeline",
    "cp": "context_parallel",
    "ep": "expert_parallel",
    "mbs": "micro_batch_size",
    "acc": "gradient_accumulation",
    "zero": "zero_stage",
    "recompute": "recompute",
    "schedule": "schedule",
    "group": "shard_group",
}
RECOMPUTES: tuple[Recompute, ...] = get_args(Recompute)
ONE_F_ONE_B: Schedule = "1f1b"
INTERLEAVED: Schedule = "interleaved"
ZERO_BUBBLE: Schedule = "zero-bubble"
NAMED: dict[str, tuple[str, ...]] = {"recompute": RECOMPUTES, "schedule": get_args(Schedule)}
"""Fields whose values are words."""
ALL = "all"
"""Of shard_group: no group, but all replicas."""
WHERE = "--restrict"

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_TERM = re.compile(r"\s*([A-Za-z_]+)\s*(<=|>=|!=|==|=|<|>)\s*([\w-]+)\s*")


@dataclass(frozen=True)
class Restriction:
    """One term: a field of planner.memory.Layout, an operator and a value."""

    field: str
    operator: str
    value: int | str

    def holds(self, columns: "Mapping[str, NDArray[Any]]") -> "NDArray[np.bool_]":
        column, value = columns[self.field], self.value
        if value == ALL:
            value = 0
        elif self.field == "shard_group":
            column = shard_ranks(columns)
        kept: NDArray[np.bool_] = _OPERATORS[self.operator](column, value)
        return kept

    @property
    def text(self) -> str:
        return f"{self.field} {self.operator} {self.value}"


def shard_ranks(columns: "Mapping[str, NDArray[Any]]") -> "NDArray[Any]":
    """Ranks that ZeRO shards over: 1 without it, and all replicas where no group is set."""
    import numpy as np

    group, replicas = columns["shard_group"], columns["data_parallel"] * columns["context_parallel"]
    return np.where(columns["zero_stage"] == 0, 1, np.where(group == 0, replicas, group))


def parse_restrictions(text: str) -> tuple[Restriction, ...]:
    """Terms separated by commas. Raises UserError with the term at fault."""
    return tuple(_parse_term(term) for term in text.split(","))


def _parse_term(term: str) -> Restriction:
    match = _TERM.fullmatch(term)
    if match is None:
        raise UserError(
            f"{term.strip()!r} is not a field, an operator and a value",
            where=WHERE,
            remedy="Write it like tp<=8,pp=1,zero=0,recompute=none.",
        )
    name, sign, value = match[1].lower(), match[2], match[3].lower()
    field = SHORT_NAMES.get(name, name)
    if field not in SHORT_NAMES.values():
        from smolplan.spec.parse import suggestion

        raise UserError(
            f"a layout has no field {name!r}",
            where=WHERE,
            remedy=suggestion(name, [*SHORT_NAMES, *SHORT_NAMES.values()])
            + f" Short: {', '.join(SHORT_NAMES)}.",
        )
    if (words := NAMED.get(field)) is not None:
        if value not in words or sign not in ("=", "==", "!="):
            raise UserError(
                f"{term.strip()!r} is not one of {', '.join(words)}",
                where=WHERE,
                remedy=f"Write {field}={words[0]} or {field}!={words[-1]}.",
            )
        return Restriction(field, sign, value)
    if field == "shard_group" and value == ALL and sign in ("=", "==", "!="):
        return Restriction(field, sign, value)
    if not value.isascii() or not value.isdigit() or len(value) > 12:
        raise UserError(
            f"{value!r} is not a whole number", where=WHERE, remedy=f"Write {name}{sign}1."
        )
    return Restriction(field, sign, int(value))
