"""Which rank holds the others up, by what each is at: a pure function."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath

from launcher.stacks import RankStack
from monitor.view import Finding, Progress, StacksView

COLLECTIVES = ("torch/distributed/distributed_c10d.py", "torch/distributed/c10d_logger.py")
COLLECTIVE_PACKAGES = ("torch/distributed/_functional_collectives", "torch/distributed/fsdp/")
"""Files of torch in which a rank waits for the others."""

WRAPPERS = ("torch/_ops.py", "torch/utils/_contextlib.py")

STATES = {
    "T": "is stopped by a signal",
    "t": "is held by a debugger",
    "Z": "is dead",
    "X": "is dead",
    "": "is gone",
}

ROOTS = ("trainer", "site-packages", "dist-packages")

MOST_NAMED = 8


@dataclass(frozen=True)
class Verdict:
    """Who holds the others up, and how that is known."""

    ranks: tuple[int, ...]
    """Empty where none stands out."""
    told: str
    """A clause for people."""


HostOf = Callable[[int], str]
"""The host of a rank; empty where all are on one."""


def explained(finding: Finding, stacks: StacksView, host_of: HostOf = lambda rank: "") -> Finding:
    """The same hang, with the rank that holds the others up and where it is."""
    verdict = judge(stacks.ranks, stacks.collectives, host_of)
    places = {str(rank): where(stacks.ranks[rank]) for rank in verdict.ranks}
    return replace(
        finding,
        summary=f"{finding.summary}; {verdict.told}",
        evidence={
            **finding.evidence,
            "at_fault": list(verdict.ranks),
            "where": places,
            "stacks": stacks.folder,
            "nodes_without_answer": sorted(stacks.awaited),
        },
    )


def judge(
    ranks: Mapping[int, RankStack],
    collectives: Mapping[int, tuple[Progress, ...]],
    host_of: HostOf = lambda rank: "",
) -> Verdict:
    """Of the ranks that have told. A process that cannot run comes first; then the one that has
    begun fewer collectives than its peers; then one that is in none while others wait in one."""
    if not ranks:
        return Verdict((), "no host told what its ranks are at")
    verdict = partial(_verdict, ranks=ranks, host_of=host_of)
    if broken := [rank for rank, stack in ranks.items() if stack.state in STATES]:
        states = {STATES[ranks[rank].state] for rank in broken}
        return verdict(broken, " or ".join(sorted(states)))
    if late := _behind(collectives):
        behind, missing = late
        return verdict(behind, f"did not come to {missing}")
    waiting = {rank for rank, stack in ranks.items() if _collective(stack)}
    busy = sorted(rank for rank, stack in ranks.items() if stack.frames and rank not in waiting)
    if waiting and busy:
        return verdict(busy, "is in no collective")
    if stuck := [rank for rank, stack in ranks.items() if stack.state == "D"]:
        return verdict(stuck, "waits in the kernel")
    if deaf := sorted(ranks.keys() - waiting - set(busy)):
        return verdict(deaf, "told no stack")
    if not waiting:
        return Verdict((), f"none stands out: {_at(ranks.values())}")
    return Verdict(
        (), f"all of them wait in a collective ({_at(ranks.values())}): look at the network"
    )


def _verdict(
    at_fault: Iterable[int], why: str, *, ranks: Mapping[int, RankStack], host_of: HostOf
) -> Verdict:
    named = tuple(sorted(at_fault))
    place = where(ranks[named[0]])
    others = [stack for rank, stack in ranks.items() if rank not in named and _collective(stack)]
    told = f"{_names(named, host_of)} {why}" + (f" (it is in {place})" if place else "")
    if others:
        many = "1 other waits" if len(others) == 1 else f"{len(others)} others wait"
        told += f", while {many} in {_at(others)}"
    return Verdict(named, told)


def _behind(
    collectives: Mapping[int, tuple[Progress, ...]],
) -> tuple[list[int], str] | None:
    """Ranks that began fewer collectives of some process group than others of it, and the first
    that they did not begin. One that waits in a collective, of whatever group, is a victim: of this
    one too, if somebody who does not tell has left it alone there."""
    groups: dict[str, dict[int, Progress]] = {}
    for rank, progress in collectives.items():
        for one in progress:
            groups.setdefault(one.group, {})[rank] = one
    held = {rank for rank, told in collectives.items() if any(p.waiting for p in told)}
    found: dict[int, str] = {}
    for group, members in groups.items():
        furthest = max(members.values(), key=lambda p: p.number)
        for rank, one in members.items():
            if one.number < furthest.number and rank not in held:
                is_next = furthest.number == one.number + 1
                what = furthest.collective if is_next else "collective"
                found[rank] = f"{what} {one.number + 1} of {furthest.description or group}"
    if not found:
        return None
    return sorted(found), found[min(found)]


def _collective(stack: RankStack) -> bool:
    for _, file, _ in stack.frames:
        path = PurePath(file).as_posix()
        if path.endswith(WRAPPERS):
            continue
        return path.endswith(COLLECTIVES) or any(part in path for part in COLLECTIVE_PACKAGES)
    return False


def where(stack: RankStack) -> str:
    """The innermost place in the trainer's own code, or the innermost at all: "batch
    (trainer/data/loader.py:88)"; with the kernel's function where it waits in that."""
    own = [frame for frame in stack.frames if "/trainer/" in PurePath(frame[1]).as_posix()]
    told = []
    for function, file, line in (own or list(stack.frames))[:1]:
        told.append(f"{function} ({_short(file)}:{line})")
    if stack.state == "D":
        told.append(f"the kernel's {stack.waits_in or 'wait'}")
    return ", ".join(told)


def _at(stacks: Iterable[RankStack]) -> str:
    places = sorted({place for stack in stacks if (place := where(stack))})
    return ", ".join(places[:2]) + (", …" if len(places) > 2 else "")


def _short(file: str) -> str:
    """From the package on."""
    parts = PurePath(file).parts
    root = max((i for i, part in enumerate(parts) if part in ROOTS), default=len(parts) - 2)
    return "/".join(parts[root if parts[root] == "trainer" else root + 1 :])


def _names(ranks: tuple[int, ...], host_of: HostOf) -> str:
    hosts = ", ".join(dict.fromkeys(host for rank in ranks[:MOST_NAMED] if (host := host_of(rank))))
    on = f" on {hosts}" if hosts else ""
    if len(ranks) == 1:
        return f"rank {ranks[0]}{on}"
    named = ", ".join(str(rank) for rank in ranks[:MOST_NAMED])
    more = f" and {len(ranks) - MOST_NAMED} more" if ranks[MOST_NAMED:] else ""
    return f"ranks {named}{more}{on}"
