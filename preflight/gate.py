"""Whether a run may start, by what preflight found: pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from preflight.history import Standing
from preflight.host_record import ACTIVE_TIERS
from preflight.report import Report, Result
from smolplan.units import count_of

MISTAKES = {"data.sources", "storage.writable"}
"""Checks, beside those of the configuration, that fail where the user named what there is not."""


OF_NODES = ("host", "network", "gpu")
"""Areas of checks that say nothing of a scheduler's nodes where another machine makes them."""


@dataclass(frozen=True)
class Verdict:
    """Why a run must not start; or who is left out of it."""

    refused: str = ""
    """Empty: it may."""
    remedy: str = ""
    is_mistake: bool = False
    """Whether it is the user's input that has to change, and not a machine."""
    left_out: tuple[str, ...] = ()
    """Hosts that failed a required check, where enough others are fit."""


def judge(
    now: Report,
    standing: Standing | None,
    *,
    nodes: int,
    earlier: Sequence[Report] = (),
    needs_active: bool,
    of_nodes: Collection[str] = (),
) -> Verdict:
    """`now`: the quick checks made for this start. `standing`: what stands against this very spec
    (history.latest_report). `earlier`: all reports of the spec's name, newest first.
    `needs_active`: whether the run's hosts must have been put to work by a preflight of it.
    `of_nodes`: areas that nodes answer for themselves later; here they say nothing of them."""
    failed = standing.failed if standing else now.failed()
    of_all = [r for r in failed if not r.host and r.area not in of_nodes]
    if of_all:
        first = of_all[0]
        is_mistake = first.area == "config" or first.name in MISTAKES
        return Verdict(_sentence(of_all), first.remedy, is_mistake)
    # Hosts that were not asked now are a scheduler's: those that failed it is not to choose, and
    # whichever it chooses check themselves.
    hosts = {result.host for result in failed} & set(now.hosts)
    fit = [host for host in now.hosts if host not in hosts]
    if now.hosts and len(fit) < nodes:
        own = [result for result in failed if result.host in hosts]
        return Verdict(
            f"the run needs {count_of(nodes, 'host')}, and {len(fit)} of {len(now.hosts)} are fit: "
            + _sentence(own),
            own[0].remedy if own else "",
        )
    if needs_active:
        own_hash = [r for r in earlier if r.spec_hash == now.spec_hash and r.tier in ACTIVE_TIERS]
        if not own_hash:
            others = any(r.tier in ACTIVE_TIERS for r in earlier)
            return Verdict(
                "its hosts were checked before the spec was changed"
                if others
                else "its hosts were never checked at work",
                "Check them: smolplan preflight SPEC",
            )
    return Verdict(left_out=tuple(host for host in now.hosts if host in hosts))


def _sentence(failed: Sequence[Result]) -> str:
    first = failed[0]
    where = f" on {first.host}" if first.host else ""
    more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
    return f"{first.name} failed{where} ({first.why or first.summary}){more}"
