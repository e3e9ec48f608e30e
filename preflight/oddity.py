"""A setting that does not do what its writer meant, and the finding that several of them make."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from preflight.report import Finding, Source


@dataclass(frozen=True)
class Oddity:
    field: str
    value: object
    why: str
    """What follows for the run."""
    right: str
    """What to do: a sentence."""
    grave: bool = False
    """Whether the run is not to start with it."""


def judge(
    oddities: Iterable[Oddity],
    summary: str,
    *,
    source: Source = "spec",
    measured: Mapping[str, float] | None = None,
    needed: Mapping[str, float] | None = None,
) -> Finding:
    """A pass with `summary` if there are none; else what each is, why, and what would be right."""
    found = sorted(oddities, key=lambda oddity: not oddity.grave)
    fields = list(dict.fromkeys(oddity.field for oddity in found))
    return Finding(
        state="pass" if not found else "fail" if found[0].grave else "warn",
        summary=_few(fields) if found else summary,
        why="; ".join(f"{o.field} {o.value}: {o.why}" for o in found),
        remedy=" ".join(dict.fromkeys(o.right for o in found)),
        measured=dict(measured or {}),
        needed=dict(needed or {}),
        source=source,
    )


def _few(fields: list[str]) -> str:
    """As many names as a line of the table has room for."""
    told = fields[0]
    for number, name in enumerate(fields[1:], start=1):
        if len(told) + len(name) > 40:
            return f"{told} and {len(fields) - number} more"
        told += f", {name}"
    return told
