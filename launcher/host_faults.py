"""Hosts that failed, and those that do so often, wherever their GPUs are now."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

OFTEN = 3
"""Faults within OFTEN_WITHIN_S that make a host one of the last to be chosen. Meta's lemon nodes
(arXiv 2410.21680) were found by how often they had failed within 28 days (from memory); the count
is a choice of ours."""

OFTEN_WITHIN_S = 28 * 86_400.0


SUSPICIONS = frozenset({"killed", "gone", "differs"})
"""Kinds of fault that may not have been the host's, and that no single check stands for."""


@dataclass(frozen=True)
class HostFault:
    """Why a host is, or was, left out of new attempts."""

    host: str
    kind: str
    """unreachable, killed (a rank was ended by a signal), gone (its supervisor vanished), differs
    (a rank held other numbers than its peers), what a scheduler says of it, or the name of the
    preflight check that failed, as area.what."""
    detail: str
    serials: tuple[str, ...]
    """Of the host's GPUs: they keep their record when they are moved to another host."""
    run_id: str
    attempt: int
    seen_at: float
    cleared_at: float | None
    """When it was found to be well again; None while it counts."""
    cleared_by: str


def offenders(
    faults: Iterable[HostFault], gpus: Mapping[str, Iterable[str]], now: float
) -> dict[str, int]:
    """Host → how many faults it or one of its GPUs had lately, for those with OFTEN and more.
    `gpus`: host → serial numbers; `now`: seconds since 1970. A fault of a host whose GPUs are
    known follows each of these."""
    by_host: Counter[str] = Counter()
    by_serial: Counter[str] = Counter()
    for fault in faults:
        if now - fault.seen_at > OFTEN_WITHIN_S:
            continue
        by_host[fault.host] += 1
        by_serial.update(fault.serials)
    found = {}
    for host in {*by_host, *gpus}:
        count = max([by_host[host], *(by_serial[serial] for serial in gpus.get(host, ()))])
        if count >= OFTEN:
            found[host] = count
    return found
